"""Which partition a record goes to: a whole chunk of records at a time, keeping the order of `produce` calls.

| strategy | keyed records | unkeyed records |
|---|---|---|
| `default` | Kafka's murmur2 of the key | round robin, record by record, going on where the last chunk stopped |
| `sticky` | murmur2 of the key | a whole chunk to one partition, the next chunk to the next (KIP-480) |
| `hash` | murmur2 of the key | the partition of the empty key (librdkafka's `murmur2`): all in one, in order |
| `round_robin` | round robin, the key is ignored | round robin |

An explicit partition wins over all. Round robin passes over partitions that have no leader now, and begins where it is
told: at a random one, or many short-lived producers would fill partition 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rayqueue.client.murmur2 import murmur2, partition_of

STRATEGIES = ("default", "round_robin", "hash", "sticky")

# The rows of a chunk that go to a partition, ascending: a range where they are regular, else their places.
Rows = range | list[int] | npt.NDArray[np.int64]
NO_PARTITION = -1

_HASH_MASK = np.uint32(0x7FFFFFFF)
_EMPTY_KEY = murmur2(b"") & 0x7FFFFFFF


class Partitioner:
    """The strategy of one topic and where its round robin stands.

    Args:
        strategy: one of STRATEGIES.
        start: the partition where round robin begins, modulo how many there are.
    """

    def __init__(self, strategy: str = "default", start: int = 0) -> None:
        self.strategy = strategy
        self._next = start

    @property
    def uses_keys(self) -> bool:
        """Whether `route` wants the hashes of keys."""
        return self.strategy != "round_robin"

    def whole(self, partitions: int, available: Sequence[int]) -> int:
        """The partition of an unkeyed batch that stays together: the next one in turn."""
        if self.strategy == "hash":
            return _EMPTY_KEY % partitions
        return self._take(1, available or range(partitions))[0]

    def route(
        self,
        count: int,
        partitions: int,
        available: Sequence[int] = (),
        hashes: npt.NDArray[np.uint32] | None = None,
        keyed: npt.NDArray[np.bool_] | None = None,
        explicit: npt.NDArray[np.int64] | None = None,
    ) -> list[tuple[int, Rows]]:
        """Splits `count` records, in order, over the partitions.

        Args:
            count: how many records.
            partitions: how many partitions the topic has.
            available: those with a leader, ascending; empty: all.
            hashes: uint32 of shape (count,), murmur2 of the keys; None: no record is keyed.
            keyed: bool of shape (count,), which records have a key; None: all (if there are hashes).
            explicit: int64 of shape (count,), the partition the caller chose, or NO_PARTITION; None: nobody chose.

        Returns:
            Partitions with the rows that go there; each row once, ascending within a partition.
        """
        open_to = available or range(partitions)
        hashes = hashes if self.uses_keys else None
        if explicit is None and hashes is None:
            return list(self._unkeyed(count, partitions, open_to))
        if partitions == 1:
            return [(0, range(count))]
        target = np.full(count, NO_PARTITION, dtype=np.int64) if explicit is None else explicit.copy()
        if hashes is not None:
            by_hash = (hashes & _HASH_MASK).astype(np.int64) % partitions
            mask = target == NO_PARTITION if keyed is None else (target == NO_PARTITION) & keyed
            target[mask] = by_hash[mask]
        left = np.flatnonzero(target == NO_PARTITION)
        for partition, rows in self._unkeyed(len(left), partitions, open_to) if len(left) else ():
            target[left[rows.start : rows.stop : rows.step]] = partition
        return _split(target, partitions)

    def route_few(
        self,
        count: int,
        partitions: int,
        available: Sequence[int] = (),
        keys: Sequence[bytes | None] | None = None,
        explicit: Sequence[int] | None = None,
    ) -> list[tuple[int, Rows]]:
        """`route` of a few records, without NumPy.

        Args:
            keys: `count` or more, None for a record without; None: no record is keyed.
            explicit: `count` or more, the partition the caller chose, or NO_PARTITION; None: nobody chose.
        """
        open_to = available or range(partitions)
        keys = keys if self.uses_keys else None
        if explicit is None and keys is None:
            return list(self._unkeyed(count, partitions, open_to))
        if partitions == 1:
            return [(0, range(count))]
        found: dict[int, list[int]] = {}
        left = []
        for row in range(count):
            if explicit is not None and explicit[row] != NO_PARTITION:
                found.setdefault(explicit[row], []).append(row)
            elif keys is not None and (key := keys[row]) is not None:
                found.setdefault(partition_of(key, partitions), []).append(row)
            else:
                left.append(row)
        for partition, rows in self._unkeyed(len(left), partitions, open_to) if left else ():
            mine = found.setdefault(partition, [])
            mine += [left[place] for place in rows]
            mine.sort()
        return sorted(found.items())

    def _unkeyed(self, count: int, partitions: int, available: Sequence[int]) -> list[tuple[int, range]]:
        if partitions == 1:
            return [(0, range(count))]
        if self.strategy == "hash":
            return [(_EMPTY_KEY % partitions, range(count))]
        if self.strategy == "sticky":
            return [(self._take(1, available)[0], range(count))]
        turns = self._take(min(count, len(available)), available, count)
        return [(partition, range(turn, count, len(available))) for turn, partition in enumerate(turns)]

    def _take(self, turns: int, available: Sequence[int], records: int = 1) -> list[int]:
        """The next `turns` partitions; the position moves on by `records`."""
        size = len(available)
        start = self._next % size
        self._next += records
        return [available[(start + turn) % size] for turn in range(turns)]


def _split(target: npt.NDArray[np.int64], partitions: int) -> list[tuple[int, Rows]]:
    # A stable sort keeps the order of records within a partition; on 16 bits NumPy sorts by radix, in linear time.
    small = target.astype(np.uint16) if partitions <= 1 << 16 else target
    order = np.argsort(small, kind="stable")
    counts = np.bincount(target, minlength=partitions)
    found = np.flatnonzero(counts)
    ends = np.cumsum(counts[found])
    return [(int(partition), order[end - counts[partition] : end]) for partition, end in zip(found, ends, strict=True)]
