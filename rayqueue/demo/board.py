"""A group of services that shares the flights: one is added, one is killed in the middle; who processed what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rayqueue.demo.verify import Check

GROUP = "departure-board"
FIRST = ("board-1", "board-2", "board-3")
VICTIM = "board-2"
LATE = "board-4"
JOIN_AT = 1 / 4  # of the flights
KILL_AT = 1 / 2

Span = tuple[int, int, int]  # partition, first and last offset


class HandOver(NamedTuple):
    """What became of the group.

    Attributes:
        pid: of the service that was killed; flights: how many had been acked by then; 0: it was not.
        flights_by: processed by each service. distinct: flights that at least one processed.
        again: flights processed twice. again_foreign: those of them that the killed service had not processed.
        taken: partition → who went on with what the killed one had. taken_s: after how many seconds the last of them.
        joined_s: from the moment the late service was let in until it had partitions; None: it got none.
        joined: the first partitions it got.
    """

    pid: int
    flights: int
    flights_by: dict[str, int]
    distinct: int
    again: int
    again_foreign: int
    taken: dict[int, str]
    taken_s: float
    joined_s: float | None
    joined: list[int]


class Board:
    """Accounts for what the services of the group say they have processed.

    Args:
        flights: how many there will be, an upper bound of the offsets.
    """

    def __init__(self, flights: int) -> None:
        self._flights = flights
        self._times: dict[int, np.ndarray] = {}  # partition → how often each offset was processed
        self._by_victim: dict[int, np.ndarray] = {}
        self._last: dict[int, str] = {}  # partition → who processed of it last
        self._flights_by: dict[str, int] = {}
        self._pid = self._acked = 0
        self._killed_s: float | None = None
        self._open: set[int] = set()  # partitions of the killed one that nobody has gone on with yet
        self._taken: dict[int, str] = {}
        self._taken_s = 0.0
        self._let_in_s = 0.0
        self._joined_s: float | None = None
        self._joined: list[int] = []
        self.distinct = 0

    @property
    def done(self) -> bool:
        """Whether every flight was processed, and the late service has joined."""
        return self.distinct >= self._flights and bool(self._joined)

    def take(self, service: str, spans: list[Span], now_s: float) -> None:
        """What a service has processed just now."""
        for partition, first, last in spans:
            times = self._of(self._times, partition)[first : last + 1]
            self.distinct += int(np.count_nonzero(times == 0))
            times += 1
            if service == VICTIM:
                self._of(self._by_victim, partition)[first : last + 1] = 1
            self._flights_by[service] = self._flights_by.get(service, 0) + last - first + 1
            self._last[partition] = service
            self._note_hand_over(service, partition, now_s)

    def _note_hand_over(self, service: str, partition: int, now_s: float) -> None:
        if self._killed_s is not None and partition in self._open and service != VICTIM:
            self._open.discard(partition)
            self._taken[partition] = service
            self._taken_s = max(self._taken_s, now_s - self._killed_s)

    def has(self, service: str, partitions: list[int], now_s: float) -> None:
        """Which partitions a service has now."""
        if service == LATE and partitions and not self._joined:
            self._joined = partitions
            self._joined_s = now_s - self._let_in_s

    def _of(self, arrays: dict[int, np.ndarray], partition: int) -> np.ndarray:
        if partition not in arrays:
            arrays[partition] = np.zeros(self._flights, np.uint8)
        return arrays[partition]

    def worked(self, service: str) -> bool:
        """Whether a service has processed any flight."""
        return service in self._flights_by

    def killed(self, pid: int, flights: int, now_s: float) -> None:
        """The victim was killed, with so many flights acked."""
        self._pid, self._acked, self._killed_s = pid, flights, now_s
        self._open = {partition for partition, service in self._last.items() if service == VICTIM}

    def let_in(self, now_s: float) -> None:
        """The late service was told to begin."""
        self._let_in_s = now_s

    def outcome(self) -> HandOver:
        """What became of the group."""
        again = {partition: times > 1 for partition, times in self._times.items()}
        foreign = sum(
            int(np.count_nonzero(twice & (self._of(self._by_victim, partition) == 0)))
            for partition, twice in again.items()
        )
        return HandOver(
            self._pid,
            self._acked,
            dict(sorted(self._flights_by.items())),
            self.distinct,
            sum(int(np.count_nonzero(twice)) for twice in again.values()),
            foreign,
            dict(sorted(self._taken.items())),
            self._taken_s,
            self._joined_s,
            self._joined,
        )


def check_group(board: HandOver, flights: int) -> list[Check]:
    """Checks that every flight was processed by the group, and by one service but for the killed one's last ones.

    Args:
        flights: how many were produced.
    """
    again = f"{board.again:,} of them twice: what {VICTIM} had processed and not yet committed when it was killed"
    return [
        Check(f"each of {flights:,} flights was processed by a service of the group {GROUP!r}",
              board.distinct == flights),
        Check(again if board.again else "none of them twice", board.again_foreign == 0),
        Check(f"{VICTIM} was killed with {board.flights:,} flights in; others went on with its partitions",
              0 < board.flights < flights and bool(board.taken)),
        Check(f"{LATE} was added, and got partitions", bool(board.joined)),
    ]  # fmt: skip
