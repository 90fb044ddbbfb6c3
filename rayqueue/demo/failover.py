"""A leader's process is killed while records flow; others lead on. What the demo does for it, and finds afterwards."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import rayqueue
from rayqueue.admin_descriptions import INTERNAL_PREFIX, TopicDescription
from rayqueue.cluster_status import ClusterStatus
from rayqueue.demo.topics import FLIGHTS
from rayqueue.demo.verify import Check

KILL_AT = 1 / 3  # of the flights
BACK_S = 30.0
LOOK_EVERY_S = 0.1

Led = dict[tuple[str, int], int]


class Victim(NamedTuple):
    """The process that will be killed: a replica actor that leads some of the flights' partitions.

    Attributes:
        leads: (topic, partition) → leader epoch, of all users' topics that it leads.
    """

    broker_id: int
    pid: int
    leads: Led


class Killed(NamedTuple):
    """What was killed. at_s: `time.monotonic()`. flights: how many had been acked by then."""

    victim: Victim
    at_s: float
    flights: int


class Failover(NamedTuple):
    """What became of it.

    Attributes:
        unchanged: partitions that nobody else led meanwhile: their leader epoch is the old one.
        back_s: from the kill until every replica of what it led was seen in sync again; None: they were not.
        gap_s: the longest time without an ack that a producer saw.
    """

    killed: Killed
    unchanged: list[tuple[str, int]]
    back_s: float | None
    gap_s: float


def choose(status: ClusterStatus) -> Victim | None:
    """The process that leads the first partition of flights that another can lead, when it runs on this machine."""
    topic = next(topic for topic in status.topics if topic.name == FLIGHTS)
    for partition in topic.partitions:
        of_leader = (p for p in status.processes if p.broker_id == partition.leader)
        processes = [p for p in of_leader if (p.role, p.state) == ("replica", "running")]
        # A fresh directory, made for this run: where it is, there the process is.
        if len(partition.isr) > 1 and len(processes) == 1 and Path(processes[0].data_dir).is_dir():
            users = [t for t in status.topics if not t.name.startswith(INTERNAL_PREFIX)]
            leads = {(t.name, p.partition): p.leader_epoch for t in users for p in t.partitions
                     if p.leader == partition.leader}  # fmt: skip
            return Victim(partition.leader, processes[0].pid, leads)
    return None


def kill(victim: Victim, flights: int) -> Killed:
    """Kills it with SIGKILL."""
    os.kill(victim.pid, signal.SIGKILL)
    return Killed(victim, time.monotonic(), flights)


def look(admin: rayqueue.AdminClient, killed: Killed, gap_s: float) -> Failover:
    """Waits until every replica is in sync again, though not for ever, and looks who led on."""
    topics = sorted({topic for topic, _ in killed.victim.leads})
    while True:
        described = admin.describe_topics(topics)
        seconds = time.monotonic() - killed.at_s
        back = all(set(p.isr) == set(p.replicas) for topic in described for p in topic.partitions)
        if back or seconds > BACK_S:
            return Failover(killed, _unchanged(described, killed.victim.leads), seconds if back else None, gap_s)
        threading.Event().wait(LOOK_EVERY_S)


def _unchanged(described: list[TopicDescription], led: Led) -> list[tuple[str, int]]:
    epochs = {(topic.name, p.partition): p.leader_epoch for topic in described for p in topic.partitions}
    return [place for place, epoch in led.items() if epochs[place] <= epoch]


def names(led: Led) -> str:
    """The partitions in words: flights-0, flights-3, ..."""
    return ", ".join(f"{topic}-{partition}" for topic, partition in sorted(led))


def check_failover(failover: Failover, flights: int) -> list[Check]:
    """Checks that the kill took effect in the middle, that others led on, and that all copies are there again.

    Args:
        flights: how many were produced in the end.
    """
    killed = failover.killed
    led, count = killed.victim.leads, len(killed.victim.leads)
    middle = 0 < killed.flights < flights
    return [
        Check(f"the leader of {names(led)} was killed with {killed.flights:,} flights in, "
              f"{flights - killed.flights:,} to come", middle),
        Check(f"{count - len(failover.unchanged)} of these {count} partitions got another leader; longest time "
              f"without an ack: {failover.gap_s:.2f} s", not failover.unchanged),
        Check(f"every replica is in sync again, {_text(failover.back_s)}", failover.back_s is not None),
    ]  # fmt: skip


def _text(back_s: float | None) -> str:
    return f"not after {BACK_S:.0f} s" if back_s is None else f"at most {back_s:.1f} s after the kill"
