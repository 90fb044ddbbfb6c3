"""A partition of the offsets topic, as a group coordinator finds it: it takes what the present owner appends, in order,
and refuses the rest; what was said of an append may get lost, and a frame may come late. It is compacted now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from rayqueue.groups.records import Encoded
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.groups_checker import Checker

TIMEOUT_US = 1_000_000
AWAY_US = 50_000


class Frame(NamedTuple):
    """What an owner appends at once.

    Attributes:
        broker_id: where it is. owner: its number, which stands for producer id and epoch.
        sequence: of its frames, from 0 on; 0 is the fence.
    """

    broker_id: int
    owner: int
    leader_epoch: int
    sequence: int
    records: list[Encoded]


class GroupLog:
    """The partition.

    Attributes:
        leader, leader_epoch: of the partition. end: the next offset.
        apart: brokers whose appends do not arrive at present; they wait.
        refuses, loses, lates: chances that an append fails, that its answer gets lost, and that it comes late.
        refused, lost, late, compacted: counters, the proof that faults took effect.
    """

    def __init__(self, scheduler: Scheduler, random: Random, trace: Trace, checker: Checker) -> None:
        self._scheduler, self._random, self._trace, self._checker = scheduler, random, trace, checker
        self._records: list[tuple[int, Encoded]] = []
        self._next: dict[int, int] = {}  # sequence, by owner
        self._free_us: dict[int, int] = {}  # until when the owner's connection is busy with earlier frames
        self._owner = 0
        self.leader, self.leader_epoch, self.end = 1, 1, 0
        self.apart: set[int] = set()
        self.refuses = self.loses = self.lates = 0.0
        self.refused = self.lost = self.late = self.compacted = 0

    def read(self, begin: int, end: int) -> list[Encoded]:
        """What is left of these offsets."""
        return [record for offset, record in self._records if begin <= offset < end]

    def append(self, frame: Frame, then: Callable[[str, int], None]) -> None:
        """`then` hears an error ("": none) and the offset after the frame; after TIMEOUT_US, if it is lost or late."""
        answered = False

        def answer(error: str, end: int) -> None:
            nonlocal answered
            if not answered:
                answered = True
                then(error, end)

        def give_up() -> None:
            if frame.broker_id in self.apart:
                self._scheduler.after(TIMEOUT_US, give_up)
            else:
                answer("timed out", 0)

        self._scheduler.after(TIMEOUT_US, give_up)
        now_us = self._scheduler.now_us
        arrival_us = max(now_us + self._delay_us(), self._free_us.get(frame.owner, 0) + 1)
        fate = self._random.random()
        if fate < self.refuses:
            self.refused += 1
            self._scheduler.at(arrival_us, lambda: answer("refused", 0))
            return
        if fate < self.refuses + self.lates:
            self.late += 1
            arrival_us += self._random.randrange(3 * TIMEOUT_US)
        self._free_us[frame.owner] = arrival_us

        def arrive() -> None:
            if frame.broker_id in self.apart:
                self._free_us[frame.owner] = max(self._free_us[frame.owner], self._scheduler.now_us + AWAY_US)
                self._scheduler.after(AWAY_US, arrive)
                return
            error = self._take(frame)
            if self._random.random() < self.loses:
                self.lost += 1
                return
            end = self.end
            self._scheduler.after(self._delay_us(), lambda: answer(error, end))

        self._scheduler.at(arrival_us, arrive)

    def _take(self, frame: Frame) -> str:
        if frame.leader_epoch < self.leader_epoch:
            return "FencedLeaderEpoch"
        if frame.owner < self._owner:
            return "ProducerFenced"
        expected = self._next.get(frame.owner, 0)
        if frame.sequence != expected:
            return "OutOfOrderSequence"
        self._owner = frame.owner
        self._next[frame.owner] = expected + 1
        for record in frame.records:
            self._records.append((self.end, record))
            self.end += 1
        self._checker.appended(frame.owner, frame.records)
        return ""

    def compact(self) -> None:
        """Of the records below some offset only the last of each key stays; deletions, too, may go."""
        limit = self._random.randrange(self.end + 1)
        last = {key: offset for offset, (key, _) in self._records if offset < limit}
        dead = self._random.random() < 0.5
        before = len(self._records)
        self._records = [
            (offset, (key, value))
            for offset, (key, value) in self._records
            if offset >= limit or (last[key] == offset and not (dead and value is None))
        ]
        self.compacted += before - len(self._records)
        self._checker.compacted([record for _, record in self._records])

    def _delay_us(self) -> int:
        return 100 + int(self._random.random() * 1_900)
