"""A rolling restart: the brokers one after the other, each with its replica actors, then the coordinators.

Nobody notices: what a broker leads is led by others before it ends, and a standby takes over from a coordinator.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from rayqueue.actors import handles
from rayqueue.actors.broker import LEAVE_TIMEOUT_S
from rayqueue.actors.lifecycle import STOP_TIMEOUT_S, overview
from rayqueue.actors.names import broker_name, coordinator_name, is_coordinator
from rayqueue.actors.options import ClusterOverview, ProcessReport
from rayqueue.actors.quorum_tending import SILENT_MS
from rayqueue.errors import BrokerNotAvailable, ConfigError, RayQueueError, RequestTimeout

log = logging.getLogger(__name__)

POLL_S = 0.1


def restart_in_order(name: str, broker_ids: Iterable[int] | None, timeout_s: float) -> list[int]:
    """Restarts brokers, or all of them and the coordinators: each leaves in order (others lead what it led), ends, is
    started again, and is in sync with everything before the next one's turn.

    Args:
        timeout_s: how long the cluster may take to be complete and in sync, before each of them and at the end.

    Returns:
        The brokers that were restarted.

    Raises:
        ConfigError: there is no such broker. RequestTimeout: the cluster does not become complete; what was restarted
            stays so, and the rest has not been touched.
    """
    seen = wait_in_sync(name, timeout_s)
    known = sorted(broker.broker_id for broker in seen.brokers)
    chosen = known if broker_ids is None else list(dict.fromkeys(broker_ids))
    strangers = [broker_id for broker_id in chosen if broker_id not in known]
    if strangers:
        raise ConfigError(f"there is no broker {strangers[0]}; there are {', '.join(map(str, known))}")
    for broker_id in chosen:
        before = {broker.broker_id: broker.incarnation for broker in wait_in_sync(name, timeout_s).brokers}
        log.info("broker %d is restarted", broker_id)
        _stop_broker(name, broker_id)
        wait_in_sync(name, timeout_s, broker_id, before[broker_id])
    if broker_ids is None:
        _restart_coordinators(name, timeout_s)
    return chosen


def _restart_coordinators(name: str, timeout_s: float) -> None:
    """One after the other, the active one last: so there is one change of who is active, or few."""
    active = coordinator_name(name, overview(name).options.coordinator_id)
    for one in sorted(filter(is_coordinator, handles.actor_names(name)), key=lambda who: (who == active, who)):
        handle = handles.find(one)
        if handle is None:
            continue
        before = _incarnation(handle)
        log.info("%s is restarted", one)
        try:
            handles.ask(handle, "stop", timeout_s=STOP_TIMEOUT_S)
        except RayQueueError as error:
            log.warning("%s does not stop cleanly: %s", one, str(error).splitlines()[0])
        handles.renew(handle)
        deadline = time.monotonic() + timeout_s
        while _incarnation(handle) in ("", before):
            if time.monotonic() > deadline:
                raise RequestTimeout(f"{one} has not been started again after {timeout_s:g} s")
            time.sleep(POLL_S)
        wait_in_sync(name, timeout_s)


def _incarnation(handle: Any) -> str:
    """Of the process, "" while it does not run."""
    try:
        report: ProcessReport = handles.ask(handle, "report", timeout_s=STOP_TIMEOUT_S)
    except RayQueueError:
        return ""
    return report.incarnation if report.state == "running" else ""


def _serves(handle: Any) -> bool:
    """Whether a replica actor's process serves a slot; one that says nothing may."""
    try:
        report: ProcessReport = handles.ask(handle, "report", timeout_s=STOP_TIMEOUT_S)
    except RayQueueError:
        return True
    return report.slot >= 0


def _stop_broker(name: str, broker_id: int) -> None:
    """Ends its processes, in order where they answer. The coordinator starts the broker again, as it is missing."""
    broker = handles.find(broker_name(name, broker_id))
    mine = [one for one in handles.actor_names(name) if one.startswith(broker_name(name, broker_id) + "/")]
    # Those that stand by first: they would take over from the others.
    replicas = sorted((handle for one in mine if (handle := handles.find(one)) is not None), key=_serves)
    if broker is None:
        raise BrokerNotAvailable(f"broker {broker_id} does not run: `rayqueue status` says more")
    left = handles.ask(broker, "leave", timeout_s=2 * LEAVE_TIMEOUT_S)
    if left:
        log.warning("%d partitions have no leader until broker %d is back: nobody else is in sync", left, broker_id)
    # First the broker: it would start its replica actors again. Its name stays taken until they have ended, so that
    # its successor does not meet them.
    present = [broker, *replicas]
    for handle in present:
        try:
            handles.ask(handle, "stop", timeout_s=STOP_TIMEOUT_S)
        except RayQueueError as error:
            log.warning("a process of broker %d does not stop cleanly: %s", broker_id, str(error).splitlines()[0])
    for handle in reversed(present):
        handles.end(handle)


def wait_in_sync(name: str, timeout_s: float, broker_id: int = -1, but: str = "") -> ClusterOverview:
    """Waits until all brokers and replica actors serve, all coordinators are heard, and every replica is in sync.

    Args:
        broker_id, but: and until this broker is another process than this incarnation.

    Raises:
        RequestTimeout: what is missing.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            missing = _missing(seen := overview(name), broker_id, but)
        except BrokerNotAvailable as error:
            missing = str(error)
        if not missing:
            return seen
        if time.monotonic() > deadline:
            raise RequestTimeout(f"cluster {name!r} is not in sync after {timeout_s:g} s: {missing}")
        time.sleep(POLL_S)


def _missing(seen: ClusterOverview, broker_id: int, but: str) -> str:
    """What is not there yet, "" when all is."""
    if any(broker.broker_id == broker_id and broker.incarnation == but for broker in seen.brokers):
        return f"broker {broker_id} has not been started again"
    away = [f"broker {b.broker_id} does not live" for b in seen.metadata.brokers if not b.alive]
    processes = [f"{what} {why}" for what, why in seen.missing.items()]
    # With one away already, none of the others could be stopped without taking the majority along.
    voters = seen.quorum.membership.voters
    quiet = [
        f"coordinator {peer.voter.broker_id} has not been heard for {peer.silent_ms // 1000} s"
        for peer in seen.quorum.peers
        if peer.voter in voters and peer.silent_ms >= SILENT_MS
    ]
    behind = [
        f"{topic.name}-{info.partition} has {info.isr} of {info.replicas} in sync"
        for topic in seen.metadata.topics
        for info in topic.partitions
        if not set(info.replicas) - set(info.adding) <= set(info.isr)
    ]
    return "; ".join([*away, *processes, *quiet, *behind][:5])
