"""Bringing a cluster up on the connected Ray, and taking it down: what `rayqueue.start` and `shutdown` do there."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import ray
import ray._private.state
import ray.exceptions
import ray.util

from rayqueue.actors import handles
from rayqueue.actors.names import coordinator_number, is_coordinator, is_group_coordinator, is_replica
from rayqueue.actors.nodes import (
    NodeReport,
    alive_nodes,
    check_versions,
    cluster_on_disk,
    default_python_path,
    probe,
    wait_gone,
)
from rayqueue.actors.options import ClusterOverview, CoordinatorOptions, Logging, ProcessReport
from rayqueue.actors.placer import addresses, is_loopback
from rayqueue.config.broker import BrokerConfig
from rayqueue.errors import (
    BrokerNotAvailable,
    ClusterNotRunning,
    ConfigError,
    RayQueueError,
    RequestTimeout,
    StorageError,
    from_wire,
)

log = logging.getLogger(__name__)

START_TIMEOUT_S = 90.0
POLL_S = 0.05
ASK_S = 2.0
# Within this a coordinator that is active says so.
ACTIVE_TIMEOUT_S = 2.0
# A lock or a port may be held by a process that is just being ended; after this it is somebody else's.
PATIENCE_S = 15.0
REPORT_TIMEOUT_S = 3.0
STOP_TIMEOUT_S = 15.0
GONE_TIMEOUT_S = 10.0


def overview(name: str, timeout_s: float = handles.CALL_TIMEOUT_S) -> ClusterOverview:
    """What the active coordinator says; when none is active at the moment, the next one is waited for.

    Raises:
        ClusterNotRunning: there is none. BrokerNotAvailable, RequestTimeout: none answers.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = handles.coordinators(name)
        if not found:
            raise ClusterNotRunning(
                f"there is no rayqueue cluster {name!r} in this Ray cluster: start it with "
                f"rayqueue.start({'' if name == 'default' else repr(name)}) or `rayqueue start`"
            )
        # Not all of the time at once: the active one may hang, and be replaced meanwhile.
        left = min(ASK_S, max(0.1, deadline - time.monotonic()))
        try:
            answer: ClusterOverview = handles.ask_any(list(found.values()), "overview_if_active", left)
            return answer
        except BrokerNotAvailable:
            if time.monotonic() >= deadline:
                raise
        time.sleep(POLL_S)


# --- up ---------------------------------------------------------------------------------------------------------------


def bring_up(
    name: str, brokers: int | None, data_dir: str | None, config: BrokerConfig | None, log_level: str
) -> ClusterOverview:
    """Starts what is missing of a cluster and waits until all of it serves; see `rayqueue.start`.

    Several may do so at once: Ray lets one of them create the first coordinator, the others join what that one started.
    What fails is taken down only by the call that created it: to the others it is somebody else's cluster.
    """
    handles.check_cluster_name(name)
    created, fresh = None, False
    if not _is_active(name):
        plans, nodes = _prepare(name, brokers, data_dir, config or BrokerConfig.parse(), log_level)
        fresh = plans[0].cluster_id == ""
        started = [handles.start_coordinator(options, nodes) for options in plans]
        created = started[0]
    first = created if created is not None else next(iter(handles.coordinators(name).values()), None)
    try:
        _wait_coordinator(name, first, fresh)
        if fresh:
            _form(name, first)
        if created is None:
            _check_same(overview(name, START_TIMEOUT_S), name, data_dir, config)
            _tell_all(name, "want_brokers", brokers)
        return _wait_ready(name, first)
    except BaseException:
        if created is not None and created in handles.coordinators(name).values():
            take_down(name)
        raise


def _is_active(name: str) -> bool:
    """Whether the cluster runs, with a coordinator that is active."""
    try:
        return bool(overview(name, ACTIVE_TIMEOUT_S).metadata.cluster_id)
    except (ClusterNotRunning, BrokerNotAvailable, RequestTimeout) as error:
        log.debug("nothing to join: %s", error)
        return False


def _form(name: str, first: Any) -> None:
    """Makes an empty directory a cluster's; whoever started it may have died before it could. Nothing of a cluster lies
    on any disk, so a coordinator beside this one can only have been started by it."""
    if len(handles.coordinators(name)) == 1 or not _is_active(name):
        handles.ask(first, "format", timeout_s=START_TIMEOUT_S)


def _tell_all(name: str, method: str, *args: Any) -> None:
    """Tells every coordinator: any of them may be the active one next."""
    for actor, handle in handles.coordinators(name).items():
        _try(lambda handle=handle: handles.ask(handle, method, *args, timeout_s=REPORT_TIMEOUT_S), actor)


def _check_same(running: ClusterOverview, name: str, data_dir: str | None, config: BrokerConfig | None) -> None:
    """What is asked for must be what runs: a setting that is passed over would be a lie."""
    stop_first = f"shut it down first (rayqueue.shutdown({name!r})), or choose another name"
    if data_dir is not None and _asked(data_dir) != running.options.asked_data_dir:
        raise ConfigError(f"cluster {name!r} runs on {running.options.asked_data_dir}, not {data_dir}: {stop_first}")
    if config is not None and config != running.options.config:
        raise ConfigError(f"cluster {name!r} runs with other settings: {stop_first}")


def _asked(data_dir: str) -> str:
    """A data directory as nodes are told of it: `~` is for each of them to resolve."""
    return data_dir if data_dir.startswith("~") else os.path.abspath(data_dir)


def _prepare(
    name: str, brokers: int | None, data_dir: str | None, config: BrokerConfig, log_level: str
) -> tuple[list[CoordinatorOptions], list[NodeReport]]:
    """The options of the coordinators that there should be at first, and all nodes: one for each copy of the metadata
    that lies on a disk; of a new cluster, the one that founds it."""
    chosen = data_dir or os.environ.get("RAYQUEUE_DATA_DIR") or f"~/.rayqueue/{name}"
    chosen = _asked(chosen)
    reports, python_path = _look_at_nodes(chosen)
    check_versions(reports)
    cluster_id, copies = cluster_on_disk(reports, python_path)
    here = ray.get_runtime_context().get_node_id()
    mine = next((report for report in reports if report.node_id == here), reports[0])
    loopback = is_loopback(config.listen_host, {report.address for report in reports})
    plans = []
    for coordinator_id, home in sorted(copies.items()) or [(0, mine)]:
        listen, advertised = addresses(loopback, config.listen_host, config.advertised_host, home.address)
        plans.append(
            CoordinatorOptions(
                name=name,
                coordinator_id=coordinator_id,
                cluster_id=cluster_id,
                data_dir=home.data_dir,
                asked_data_dir=chosen,
                listen_host=listen,
                advertised_host=advertised,
                config=config,
                brokers=brokers,
                needs_token=not loopback or config.token is not None,
                loopback=loopback,
                node_id=home.node_id,
                logging=Logging.of(home.data_dir, f"coordinator-{coordinator_id}", log_level),
                python_path=python_path,
            )
        )
    return plans, reports


def _look_at_nodes(data_dir: str) -> tuple[list[NodeReport], str]:
    """Reports of all nodes, and the directory with rayqueue for workers that find none or another one by themselves."""
    nodes = alive_nodes()
    reports = probe(nodes, data_dir, "")
    here = ray.util.get_node_ip_address()
    mine = default_python_path()
    if all(report.found_in == mine for report in reports if report.address == here):
        return reports, ""
    return probe(nodes, data_dir, mine), mine


def _wait_coordinator(name: str, first: Any | None, fresh: bool) -> None:
    """Waits until a coordinator is active; or, of a cluster that is to be made, until the first one could be.

    Raises:
        RayQueueError: what keeps all of them from it, when that does not pass.
        ClusterNotRunning: another call took them down meanwhile.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    patience: dict[str, float | None] = {}
    met: dict[int, tuple[str, int]] = {}
    while True:
        _check_there(name, first)
        reports = {actor: _report(handle) for actor, handle in handles.coordinators(name).items()}
        there = {actor: report for actor, report in reports.items() if report is not None}
        standing = {report.standing for report in there.values()}
        if "active" in standing or (fresh and standing == {"empty"}):
            return
        where = {coordinator_number(actor): (one.host, one.port) for actor, one in there.items() if one.port}
        if where != met:  # all of them may have moved, with their nodes; then none can tell the others
            met = where
            _tell_all(name, "meet", where)
        problems: list[RayQueueError] = []
        for actor, report in there.items():
            try:
                patience[actor] = _check_report(report, "the coordinator", patience.get(actor))
            except RayQueueError as error:
                problems.append(error)
        if problems and len(problems) == len(there):
            raise problems[0]
        if time.monotonic() > deadline:
            said = "; ".join(report.problem for report in there.values() if report.problem)
            raise RequestTimeout(f"no coordinator is active after {START_TIMEOUT_S:g} s: {said or 'none answers'}")
        time.sleep(POLL_S)


def _check_there(name: str, handle: Any | None) -> None:
    """Raises ClusterNotRunning when the coordinator is not there any more: it was taken down for good."""
    if handle is None or handle not in handles.coordinators(name).values():
        raise ClusterNotRunning(f"cluster {name!r} was taken down while it was being started: start it again")


def _check_report(report: ProcessReport, what: str, patience: float | None) -> float | None:
    """Raises what a process that is not running suffers from; gives the time until which it may wait for something."""
    where = f"{what} does not start: {report.problem}"
    if report.state == "failed":
        raise from_wire(report.error, where)
    if report.state != "waiting":
        return None
    patience = patience or time.monotonic() + PATIENCE_S
    if time.monotonic() > patience:
        raise from_wire(report.error, where)
    return patience


def _report(handle: Any) -> ProcessReport | None:
    try:
        report: ProcessReport = handles.ask(handle, "report", timeout_s=REPORT_TIMEOUT_S)
        return report
    except (BrokerNotAvailable, RequestTimeout) as error:
        log.debug("an actor does not report: %s", error)
        return None


def _wait_ready(name: str, coordinator: Any) -> ClusterOverview:
    """Waits until all brokers and replica actors serve.

    Raises:
        RayQueueError: what keeps one of them from it, when that does not pass.
        ClusterNotRunning: another call took it down meanwhile.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    patience: dict[str, float | None] = {}
    while True:
        _check_there(name, coordinator)
        seen = overview(name, START_TIMEOUT_S)
        if not seen.missing:
            return seen
        for what in seen.missing:
            handle = handles.find(what)
            report = None if handle is None else _report(handle)
            if report is not None:
                patience[what] = _check_report(report, what, patience.get(what))
        if time.monotonic() > deadline:
            missing = "; ".join(f"{what} {why}" for what, why in seen.missing.items())
            raise RequestTimeout(f"cluster {name!r} is not complete after {START_TIMEOUT_S:g} s: {missing}")
        time.sleep(POLL_S)


# --- down -------------------------------------------------------------------------------------------------------------


def take_down(name: str) -> bool:
    """Stops all actors of a cluster, cleanly where they answer, and waits until their processes are gone.

    Returns whether there were any.

    Raises:
        StorageError: a process does not end.
    """
    _tell_all(name, "stop_placing")
    names = handles.actor_names(name)
    if not names:
        return False
    pids = _processes(set(names))
    # First the coordinators stop: they would start brokers again, and elect other leaders as one replica actor ends
    # after the other. Then the brokers: they would start the processes beside them again. Then the group coordinators,
    # which write to the replica actors, then those, to end their logs cleanly.
    # The coordinators' actors end last: as long as they are there the cluster counts as running.
    replicas, groups = [n for n in names if is_replica(n)], [n for n in names if is_group_coordinator(n)]
    coordinators = [n for n in names if is_coordinator(n)]
    brokers = [n for n in names if n not in {*replicas, *groups, *coordinators}]
    stopped = _stop(coordinators)
    for group in (brokers, groups, replicas):
        _end(_stop(group))
    _end(stopped)
    left = wait_gone(pids, GONE_TIMEOUT_S)
    if left:
        raise StorageError(f"processes {', '.join(map(str, left))} of cluster {name!r} do not end: kill them")
    return True


def _stop(names: list[str]) -> list[Any]:
    """Has actors stop, all at once; gives their handles."""
    found = {name: handle for name in names if (handle := handles.find(name)) is not None}
    stopping = {name: handle.stop.remote() for name, handle in found.items()}
    for name, reference in stopping.items():
        _try(lambda reference=reference: ray.get(reference, timeout=STOP_TIMEOUT_S), name)  # type: ignore[misc]
    return list(found.values())


def _end(found: list[Any]) -> None:
    for handle in found:
        handles.end(handle)


def _try(call: Any, what: str) -> None:
    """A call to an actor that may be dead or hang: then it is ended without having been asked."""
    try:
        call()
    except (RayQueueError, ray.exceptions.RayError) as error:
        log.warning("%s does not stop cleanly: %s", what, str(error).splitlines()[0])


def _processes(names: set[str]) -> dict[str, list[int]]:
    """Node id → pids of these actors, also of such as do not answer."""
    found: dict[str, list[int]] = {}
    for actor in ray._private.state.actors().values():
        if actor["Name"] in names and actor["Pid"] and actor["State"] != "DEAD":
            found.setdefault(actor["Address"]["NodeID"], []).append(actor["Pid"])
    return found
