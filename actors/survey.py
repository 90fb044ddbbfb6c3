"""Collects the state of a cluster for `rayqueue.status`: asks every process, and says which do not answer."""

from __future__ import annotations

import logging
import time
from typing import Any

import ray
import ray.exceptions

from rayqueue.actors import handles
from rayqueue.actors.lifecycle import overview
from rayqueue.actors.names import (
    broker_name,
    coordinator_name,
    coordinator_number,
    group_coordinator_name,
    is_coordinator,
    is_group_coordinator,
    replica_name,
)
from rayqueue.actors.options import ClusterOverview, ProcessReport
from rayqueue.actors.quorum_tending import SILENT_MS
from rayqueue.cluster_status import ClusterStatus, PartitionStatus, ProcessStatus, TopicStatus, summary
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.errors import BrokerNotAvailable, ClusterNotRunning, RequestTimeout
from rayqueue.protocol.messages import PartitionInfo, TopicInfo

log = logging.getLogger(__name__)

OVERVIEW_TIMEOUT_S = 5.0
REPORT_TIMEOUT_S = 3.0


def survey(name: str) -> ClusterStatus:
    """The state of a cluster.

    Raises:
        ClusterNotRunning: there is none of that name.
    """
    problems: list[str] = []
    seen: ClusterOverview | None = None
    try:
        seen = overview(name, OVERVIEW_TIMEOUT_S)
    except (BrokerNotAvailable, RequestTimeout) as error:
        problems.append(f"the coordinator does not answer, so topics are not known: {error}")
    names = handles.actor_names(name)
    if not names:
        raise ClusterNotRunning(f"there is no rayqueue cluster {name!r} any more: it has just been shut down")
    if seen is not None:
        names = sorted({*names, *_expected(seen)})
    reports = _reports(names)
    by_actor = _processes(names, reports, {} if seen is None else {b.broker_id: b.pool_size for b in seen.brokers})
    processes = list(by_actor.values())
    running = {(p.broker_id, p.slot) for p in processes if p.state == "running"}
    for actor, process in by_actor.items():
        if process.state != "running":
            problems.append(f"{actor} is {process.state}" + (f": {process.problem}" if process.problem else ""))
    if seen is None:
        return ClusterStatus(name, "", "", False, "", -1, -1, processes, [], problems)
    problems += seen.problems + _quorum_problems(seen)
    watching = set(seen.watching)
    serving = {r.incarnation for r in seen.replica_actors if (r.broker_id, r.slot) in running} & watching
    status = ClusterStatus(
        name=name,
        cluster_id=seen.metadata.cluster_id,
        bootstrap_servers=seen.bootstrap_servers,
        needs_token=seen.token is not None,
        data_dir=seen.options.data_dir,
        coordinator_epoch=seen.metadata.coordinator_epoch,
        metadata_index=seen.metadata.index,
        processes=processes,
        topics=_topics(seen, serving),
        problems=problems,
        voters=sorted(voter.broker_id for voter in seen.quorum.membership.voters),
    )
    problems += summary(status)
    return status


def _expected(seen: ClusterOverview) -> list[str]:
    name = seen.options.name
    found = [coordinator_name(name, one.coordinator_id) for one in seen.coordinators]
    for broker in seen.brokers:
        found.append(broker_name(name, broker.broker_id))
        found += [replica_name(name, broker.broker_id, slot) for slot in range(broker.pool_size)]
    groups = (topic.partitions for topic in seen.metadata.topics if topic.name == GROUPS_TOPIC)
    served = {broker_id for partitions in groups for one in partitions for broker_id in one.replicas}
    found += [group_coordinator_name(name, broker_id) for broker_id in served]
    return found


def _processes(
    names: list[str], reports: dict[str, ProcessReport], pool_sizes: dict[int, int]
) -> dict[str, ProcessStatus]:
    """The processes by their actor's name, in order. pool_sizes: how many slots each broker has."""
    served = {(_ids(actor)[0], report.slot) for actor, report in reports.items() if report.slot >= 0}

    def is_spare(broker_id: int, place: int) -> bool:
        slots = range(pool_sizes.get(broker_id, 1))
        return place >= 0 and (place not in slots or all((broker_id, slot) in served for slot in slots))

    found = {actor: _process(actor, reports.get(actor), is_spare(*_ids(actor))) for actor in names}

    def order(item: tuple[str, ProcessStatus]) -> tuple[int, int, int, int]:
        one = item[1]
        return one.broker_id, one.coordinator_id, {"standby": 1, "groups": 2}.get(one.role, 0), one.slot

    return dict(sorted(sorted(found.items()), key=order))


def _ids(actor: str) -> tuple[int, int]:
    """(broker id, the slot that it takes if it can) of an actor's name, -1 where it has none."""
    parts = actor.split("/")[1:]
    broker_id = int(parts[0].removeprefix("broker-")) if parts[0].startswith("broker-") else -1
    return broker_id, int(parts[1].removeprefix("replica-")) if parts[1:] and not is_group_coordinator(actor) else -1


def _reports(names: list[str]) -> dict[str, ProcessReport]:
    """What the processes say of themselves; those that do not answer are left out. All are asked at once."""
    asked: dict[str, Any] = {}
    for name in names:
        handle = handles.find(name)
        if handle is not None:
            asked[name] = handle.report.remote()
    deadline = time.monotonic() + REPORT_TIMEOUT_S
    reports = {}
    for name, reference in asked.items():
        try:
            reports[name] = ray.get(reference, timeout=max(0.01, deadline - time.monotonic()))
        except ray.exceptions.RayError as error:
            log.debug("%s does not answer: %s", name, error)
    return reports


def _process(actor: str, report: ProcessReport | None, spare: bool) -> ProcessStatus:
    """spare: it takes no slot in particular, or every slot of its broker is served, perhaps by this one."""
    broker_id, place = _ids(actor)
    coordinator_id = coordinator_number(actor) if is_coordinator(actor) else -1
    stands_by = spare and (report is None or report.slot < 0)
    if report is None:
        role = "broker" if place < 0 else "standby" if stands_by else "replica"
        role = "coordinator" if is_coordinator(actor) else "groups" if is_group_coordinator(actor) else role
        slot = -1 if stands_by else place
        return ProcessStatus(
            role, broker_id, slot, "gone", "it does not answer", "", 0, "", "", "", coordinator_id=coordinator_id
        )
    waits = stands_by and report.state == "waiting"  # for a slot: that is what it is there for
    endpoint = f"{report.host}:{report.port}" if report.port else ""
    return ProcessStatus(
        "standby" if stands_by else report.role,
        broker_id,
        -1 if stands_by else report.slot if report.slot >= 0 else place,
        "running" if waits else report.state,
        "" if waits else report.problem,
        endpoint,
        report.pid,
        report.node_id,
        report.directory,
        report.log_file,
        report.started_ms,
        coordinator_id,
        report.standing,
    )


def _quorum_problems(seen: ClusterOverview) -> list[str]:
    """Voters that the active coordinator does not hear: with each of them fewer may go."""
    quiet = {peer.voter: peer.silent_ms for peer in seen.quorum.peers if peer.silent_ms >= SILENT_MS}
    return [
        f"coordinator {voter.broker_id} votes, but has not been heard for {silent_ms // 1000} s"
        for voter, silent_ms in quiet.items()
        if voter in seen.quorum.membership.voters
    ]


def _topics(seen: ClusterOverview, serving: set[str]) -> list[TopicStatus]:
    """serving: incarnations of replica actors that answer and follow the metadata log."""

    def partition(topic: TopicInfo, info: PartitionInfo) -> PartitionStatus:
        return PartitionStatus(
            info.partition,
            info.leader,
            info.leader_epoch,
            info.replicas,
            info.isr,
            offline=info.leader < 0 or info.incarnation not in serving,
            elr=info.elr,
            adding=info.adding,
            removing=info.removing,
            min_isr=int(topic.configs["min.insync.replicas"]),
            unclean=info.unclean_epoch == info.leader_epoch,
        )

    return [TopicStatus(t.name, t.typed, [partition(t, p) for p in t.partitions]) for t in seen.metadata.topics]
