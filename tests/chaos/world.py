"""What a fault acts on, and what it looks at to tell whether it took effect."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

import rayqueue
from benchmarks.harness import accounting
from benchmarks.harness.interruption import running, send
from rayqueue.admin_descriptions import TopicDescription
from rayqueue.cluster_status import ProcessStatus
from tests.chaos.clients import Workload
from tests.chaos.links import Links
from tests.chaos.ray_cluster import ChaosCluster
from tests.chaos.waiting import until

ANSWER_WAIT_S = 30.0
STOPPED_WAIT_S = 5.0


class NotPossible(Exception):
    """The fault cannot be injected now, or here; the message says why."""


@dataclass
class World:
    """One run.

    Attributes:
        random: seeded; decides all that chance decides.
        links: what connections go through, or None: they are direct.
        lost: brokers whose disks are gone for good.
    """

    cluster: ChaosCluster
    workload: Workload
    admin: rayqueue.AdminClient
    random: random.Random
    links: Links | None = None
    lost: set[int] = field(default_factory=set)

    def describe(self) -> TopicDescription:
        """The topic, as a broker that answers knows it."""
        found = until(lambda: self.admin.describe_topic(self.workload.topic), ANSWER_WAIT_S, "an answer of a broker")
        assert isinstance(found, TopicDescription)
        return found

    def leaders(self) -> dict[int, tuple[int, int]]:
        """Partition -> (broker id of its leader, leader epoch)."""
        return {p.partition: (p.leader, p.leader_epoch) for p in self.describe().partitions}

    def assignment(self) -> dict[int, list[int]]:
        """Partition -> the brokers that hold its replicas."""
        return {p.partition: list(p.replicas) for p in self.describe().partitions}

    def followers(self, partition: int) -> set[int]:
        """The brokers that hold a partition's other replicas."""
        found = self.describe().partitions[partition]
        return set(found.replicas) - {found.leader}

    def processes(self, role: str = "") -> list[ProcessStatus]:
        """The processes that answer, of one role or all; at least one."""
        return until(lambda: self.cluster.processes(role), ANSWER_WAIT_S, f"a {role or 'process'} that answers")

    def replicas(self, brokers: set[int]) -> list[ProcessStatus]:
        """The replica actors of these brokers.

        Raises:
            NotPossible: none of them answers at present.
        """
        found = [one for one in self.processes("replica") if one.broker_id in brokers]
        if not found:
            raise NotPossible(f"no replica actor of brokers {sorted(brokers)} answers")
        return found

    def a_leader(self) -> tuple[int, int]:
        """(partition, broker id of its leader), chosen at random.

        Raises:
            NotPossible: no partition has one.
        """
        led = sorted((partition, leader) for partition, (leader, _) in self.leaders().items() if leader >= 0)
        if not led:
            raise NotPossible("no partition has a leader")
        return self.random.choice(led)

    def active_coordinator(self) -> ProcessStatus:
        """The coordinator that leads, by the address that brokers tell clients."""
        there = self.processes("coordinator")
        if len(there) == 1:
            return there[0]
        address = until(lambda: self.admin.describe_cluster(), ANSWER_WAIT_S, "an answer of a broker").coordinator
        found = [one for one in there if one.endpoint == address]
        if not found:
            raise NotPossible(f"the active coordinator {address!r} is none of those that answer")
        return found[0]

    def coordinator_epoch(self) -> int:
        """As the brokers know it."""
        seen = until(lambda: self.admin.describe_cluster(), ANSWER_WAIT_S, "an answer of a broker")
        return int(seen.coordinator_epoch)

    def all_vote(self) -> bool:
        """Whether there are as many coordinators that vote as there are nodes, and all of them run."""
        seen = self.cluster.status()
        there = {one.coordinator_id for one in seen.processes if (one.role, one.state) == ("coordinator", "running")}
        return len(seen.voters) == len(self.cluster.nodes) and there >= set(seen.voters)

    def all_in_sync(self) -> bool:
        """Whether every partition has a leader, and every replica whose disk is there is in sync."""
        partitions = self.admin.describe_topic(self.workload.topic).partitions
        return all(p.leader >= 0 and set(p.isr) == set(p.replicas) - self.lost for p in partitions)


def named(process: ProcessStatus) -> str:
    """A process in words."""
    number = "" if process.broker_id < 0 else f" {process.broker_id}"
    return f"{process.role}{number} (pid {process.pid})"


def state(pid: int) -> str:
    """The letter that /proc has for a process: T is stopped; "" when there is none."""
    try:
        text = (accounting.PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text[text.rindex(")") + 2]


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[str]:
    """SIGSTOP for the length of the block, SIGCONT at its end; gives what /proc says meanwhile.

    Raises:
        NotPossible: they have all ended.
    """
    send(pids, signal.SIGSTOP)
    try:
        until(lambda: all(state(pid) in "T" for pid in pids), STOPPED_WAIT_S, f"state T of {pids}")
        still = [pid for pid in pids if state(pid) == "T"]
        if not still:
            raise NotPossible(f"{pids} have ended")
        yield ", ".join(f"{pid} in state T" for pid in still)
    finally:
        send(pids, signal.SIGCONT)


def killed(pids: list[int]) -> str:
    """kill -9, and waits until they have ended; gives that in words."""
    send(pids, signal.SIGKILL)
    until(lambda: not any(map(running, pids)), STOPPED_WAIT_S, f"the end of {pids}")
    return f"ended: {', '.join(map(str, pids))}"
