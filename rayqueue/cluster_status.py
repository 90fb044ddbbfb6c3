"""What `rayqueue.status()` gives: plain values, printable, and a dict for `--json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any


@dataclass(frozen=True)
class ProcessStatus:
    """A process of the cluster.

    Attributes:
        role: "coordinator", "broker", "replica", "standby" (it takes over from a replica process that dies), or
            "groups": a group coordinator.
        broker_id, slot: -1 where there is none.
        state: "running", "starting", "waiting", "failed", or "gone" (it does not answer); problem: why.
        endpoint: "host:port", "" before it listens.
        data_dir: the directory it uses. log_file: where it logs, on its node.
        started_ms: when it was started or (after a crash) restarted, ms since the epoch; 0: not known.
        coordinator_id: of a coordinator, else -1. standing: "active" or "standby" ("empty" before there is a cluster).
    """

    role: str
    broker_id: int
    slot: int
    state: str
    problem: str
    endpoint: str
    pid: int
    node_id: str
    data_dir: str
    log_file: str
    started_ms: int = 0
    coordinator_id: int = -1
    standing: str = ""


@dataclass(frozen=True)
class PartitionStatus:
    """A partition.

    Attributes:
        leader: broker id, -1 for none.
        replicas, isr, elr: broker ids: all, those in sync, and those that are not but hold every acked record.
        offline: nobody can write to it or read from it now.
        adding, removing: of the replicas, those that a reassignment adds and will remove.
        min_isr: `min.insync.replicas`.
        unclean: its leader was elected though it may lack records that were acked.
    """

    partition: int
    leader: int
    leader_epoch: int
    replicas: list[int]
    isr: list[int]
    offline: bool
    elr: list[int] = field(default_factory=list)
    adding: list[int] = field(default_factory=list)
    removing: list[int] = field(default_factory=list)
    min_isr: int = 1
    unclean: bool = False

    @property
    def under_replicated(self) -> bool:
        """Whether a replica is not in sync, but for those that are just being added."""
        return not set(self.replicas) - set(self.adding) <= set(self.isr)

    @property
    def under_min_isr(self) -> bool:
        """Whether an append with acks=all is refused because too few replicas are in sync."""
        return len(self.isr) < self.min_isr

    @property
    def reassigning(self) -> bool:
        """Whether it is being given other replicas."""
        return bool(self.adding or self.removing)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        judged = {"under_replicated": self.under_replicated, "under_min_isr": self.under_min_isr}
        return {**dataclasses.asdict(self), **judged, "reassigning": self.reassigning}


@dataclass(frozen=True)
class TopicStatus:
    """A topic and its partitions."""

    name: str
    typed: bool
    partitions: list[PartitionStatus]


@dataclass(frozen=True)
class GroupStatus:
    """A consumer group.

    Attributes:
        state: as in `GroupSummary`. lag: records it has yet to read where it has committed; None: not known.
    """

    group: str
    state: str
    members: int
    lag: int | None


@dataclass(frozen=True)
class ClusterStatus:
    """A cluster at one moment.

    Attributes:
        name: "" when it was asked by address. bootstrap_servers: what clients take.
        needs_token: whether they need a token besides.
        data_dir: on the coordinator's node, "" when it was asked by address.
        metadata_index: next index of the metadata log. voters: coordinators that decide by majority what is in it.
        problems: whatever is wrong, in words; empty when all is well.
        groups: consumer groups, by name; of very many the first ones. more_groups: how many others there are.
    """

    name: str
    cluster_id: str
    bootstrap_servers: str
    needs_token: bool
    data_dir: str
    coordinator_epoch: int
    metadata_index: int
    processes: list[ProcessStatus] = field(default_factory=list)
    topics: list[TopicStatus] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    voters: list[int] = field(default_factory=list)
    groups: list[GroupStatus] = field(default_factory=list)
    more_groups: int = 0

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def brokers(self) -> list[ProcessStatus]:
        """The brokers, by id."""
        return [process for process in self.processes if process.role == "broker"]

    @property
    def coordinator(self) -> ProcessStatus:
        """The active coordinator; while none is active, any."""
        found = [process for process in self.processes if process.role == "coordinator"]
        return next((process for process in found if process.standing == "active"), found[0])

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return sum(len(topic.partitions) for topic in self.topics)

    @property
    def under_replicated(self) -> list[tuple[str, int]]:
        """(topic, partition) of partitions with fewer replicas in sync than they should have."""
        return self._where(lambda p: p.under_replicated)

    @property
    def under_min_isr(self) -> list[tuple[str, int]]:
        """(topic, partition) of partitions that take no appends with acks=all, as too few replicas are in sync."""
        return self._where(lambda p: p.under_min_isr)

    @property
    def reassigning(self) -> list[tuple[str, int]]:
        """(topic, partition) of partitions that are being given other replicas."""
        return self._where(lambda p: p.reassigning)

    @property
    def offline(self) -> list[tuple[str, int]]:
        """(topic, partition) of partitions that nobody serves."""
        return self._where(lambda p: p.offline)

    @property
    def unclean(self) -> list[tuple[str, int]]:
        """(topic, partition) of partitions whose leader was elected though it may lack records that were acked."""
        return self._where(lambda p: p.unclean)

    def _where(self, holds: Callable[[PartitionStatus], bool]) -> list[tuple[str, int]]:
        return [(t.name, p.partition) for t in self.topics for p in t.partitions if holds(p)]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        counts = {
            "partitions": self.partitions,
            "under_replicated": len(self.under_replicated),
            "under_min_isr": len(self.under_min_isr),
            "offline": len(self.offline),
            "reassigning": len(self.reassigning),
            "unclean": len(self.unclean),
        }
        topics = [
            {"name": t.name, "typed": t.typed, "partitions": [p.to_dict() for p in t.partitions]} for t in self.topics
        ]
        return {**dataclasses.asdict(self), "topics": topics, "healthy": self.healthy, **counts}

    def _voters(self) -> str:
        if not self.voters:
            return ""
        spare = (len(self.voters) - 1) // 2
        survives = f"any {spare} of them may go" if spare else "none of them may go"
        return f", voters {_ids(self.voters)} ({survives})"

    def __str__(self) -> str:
        title = f"{self.name} ({self.cluster_id})" if self.name else self.cluster_id
        lines = [
            f"cluster {title}: {'healthy' if self.healthy else 'NOT healthy'}",
            f"  bootstrap servers  {self.bootstrap_servers or '(none yet)'}" + (" (with a token)" * self.needs_token),
            *([f"  data directory     {self.data_dir}"] if self.data_dir else []),
            f"  metadata           index {self.metadata_index}, coordinator epoch {self.coordinator_epoch}"
            + self._voters(),
            f"  topics             {len(self.topics)} with {self.partitions} partitions, "
            f"{len(self.under_replicated)} under-replicated, {len(self.under_min_isr)} below min.insync.replicas, "
            f"{len(self.offline)} offline, {len(self.reassigning)} being reassigned",
        ]
        rows = [("PROCESS", "STATE", "ENDPOINT", "PID", "STARTED", "NODE", "DATA", "LOG")]
        for p in self.processes:
            coordinator = f"coordinator {p.coordinator_id}" if p.coordinator_id >= 0 else "coordinator"
            names = {"coordinator": coordinator, "broker": f"broker {p.broker_id}"}
            names |= {"standby": "  standby", "groups": "  groups"}
            name = names.get(p.role, f"  replica {p.slot}")
            process = (str(p.pid or ""), _time(p.started_ms), p.node_id[:8], p.data_dir, p.log_file)
            rows.append((name, p.standing if p.standing and p.state == "running" else p.state, p.endpoint, *process))
        lines += _table(rows)
        partitions = [("TOPIC", "PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR")]
        for topic in self.topics:
            for one in topic.partitions:
                leader = "none" if one.leader < 0 else f"{one.leader}{' (offline)' * one.offline}"
                eligible = f" (eligible {_ids(one.elr)})" if one.elr else ""
                where = (_replicas(one), _ids(one.isr) + eligible)
                partitions.append((topic.name, str(one.partition), leader, str(one.leader_epoch), *where))
        if self.topics:
            lines += _table(partitions)
        if self.groups:
            groups = [(g.group, g.state, str(g.members), "-" if g.lag is None else f"{g.lag}") for g in self.groups]
            lines += _table([("GROUP", "STATE", "MEMBERS", "LAG"), *groups])
        if self.more_groups:
            lines.append(f"  and {self.more_groups} groups more: `rayqueue group list`")
        lines += [f"  ! {problem}" for problem in self.problems]
        return "\n".join(lines)


def _time(ms: int) -> str:
    """A moment in UTC, "" for none."""
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ") if ms else ""


def _ids(ids: list[int]) -> str:
    return ",".join(map(str, ids))


def _replicas(one: PartitionStatus) -> str:
    """0,-1,+2: 1 will be removed, 2 is being added."""
    signs = {**dict.fromkeys(one.removing, "-"), **dict.fromkeys(one.adding, "+")}
    return ",".join(f"{signs.get(broker_id, '')}{broker_id}" for broker_id in one.replicas)


def summary(status: ClusterStatus) -> list[str]:
    """What is wrong with partitions, a line for each kind of it, the worst first."""
    kinds = (
        ("offline", status.offline),
        ("led since an UNCLEAN election: acked records may be lost", status.unclean),
        ("below min.insync.replicas: acks=all is refused", status.under_min_isr),
        ("under-replicated", status.under_replicated),
    )
    lines = []
    for what, found in kinds:
        if found:
            first = ", ".join(f"{topic}-{partition}" for topic, partition in found[:5])
            are = "1 partition is" if len(found) == 1 else f"{len(found)} partitions are"
            lines.append(f"{are} {what}: {first}{', ...' if len(found) > 5 else ''}")
    return lines


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "",
        *("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
