"""The newest offset of each key, in bounded memory: keys by a hash of 128 bits, in sorted arrays.

As in Kafka, a key is its hash: that two of them are the same by chance among 10^9 keys has a probability below 10^-20.
That nobody can choose keys which collide, the hash begins with a seed drawn for each map.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Words = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

# While sorted, an entry takes three words of 8 bytes, thrice: before, after, and its place.
ENTRY_BYTES = 64
_MULTIPLIERS = (
    (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(0xD6E8FEB86659FD93), np.uint64(0x94D049BB133111EB)),
)
_MASKS = np.array([(1 << (8 * size)) - 1 for size in range(8)] + [(1 << 64) - 1], np.uint64)


class Keys(NamedTuple):
    """Keys of n records.

    Attributes:
        high, low: the halves of their hashes. keyed: which records have a key; None: all.
    """

    high: Words
    low: Words
    keyed: npt.NDArray[np.bool_] | None

    def slice(self, start: int, stop: int) -> Keys:
        """Those of records [start, stop)."""
        keyed = None if self.keyed is None else self.keyed[start:stop]
        return Keys(self.high[start:stop], self.low[start:stop], keyed)


def hash_keys(column: pa.Array, seed: tuple[int, int]) -> Keys:
    """The hashes of a key column: bytes, strings, or values of one width.

    Args:
        column: n keys, or nulls.
        seed: two words.
    """
    count = len(column)
    keyed = flags(column.is_valid()) if column.null_count else None
    data, starts, lengths = _bytes_of(column)
    first = tuple(np.full(count, np.uint64(word)) ^ lengths.astype(np.uint64) for word in seed)
    high, low = (_mixed(value, *pair) for value, pair in zip(first, _MULTIPLIERS, strict=True))
    # By length, so that those which have a further word are always the last rows.
    order = np.argsort(lengths, kind="stable")
    starts, lengths = starts[order], lengths[order]
    high, low = high[order], low[order]
    padded = np.concatenate([data, np.zeros(8, np.uint8)])
    words = np.lib.stride_tricks.as_strided(padded[:8].view("<u8"), (max(1, len(data) + 1),), (1,))
    longest = int(lengths[-1]) if count else 0
    for at in range(0, longest, 8):
        begin = int(np.searchsorted(lengths, at, side="right"))
        word = words[starts[begin:] + at] & _MASKS[np.minimum(lengths[begin:] - at, 8)]
        high[begin:] = _mixed(high[begin:] ^ word, *_MULTIPLIERS[0])
        low[begin:] = _mixed(low[begin:] ^ word, *_MULTIPLIERS[1])
    back = np.empty(count, np.int64)
    back[order] = np.arange(count)
    return Keys(high[back], low[back], keyed)


def _mixed(value: Words, first: np.uint64, second: np.uint64) -> Words:
    """A permutation of 64-bit words in which every bit depends on every other (SplitMix64's finalizer)."""
    value = (value ^ (value >> np.uint64(30))) * first
    value = (value ^ (value >> np.uint64(27))) * second
    return value ^ (value >> np.uint64(31))


def _bytes_of(column: pa.Array) -> tuple[npt.NDArray[np.uint8], Offsets, Offsets]:
    """The keys' bytes in one array, where each begins, and its length. What stands for a null means nothing."""
    kind, types, count = column.type, pa.types, len(column)
    buffers = column.buffers()
    if not count:
        return np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64)
    if types.is_binary(kind) or types.is_string(kind) or types.is_large_binary(kind) or types.is_large_string(kind):
        width = 8 if types.is_large_binary(kind) or types.is_large_string(kind) else 4
        ends = np.frombuffer(buffers[1], f"<i{width}", count + 1, column.offset * width).astype(np.int64)
        data = np.frombuffer(buffers[2] if buffers[2] is not None else b"", np.uint8)
        first = int(ends[0])
        return data[first : int(ends[-1])], ends[:-1] - first, np.diff(ends)
    size = kind.bit_width // 8
    data = np.frombuffer(buffers[1], np.uint8, count * size, column.offset * size)
    return data, np.arange(count, dtype=np.int64) * size, np.full(count, size, np.int64)


def flags(column: pa.Array) -> npt.NDArray[np.bool_]:
    """The values of a column of booleans without nulls."""
    unpacked = np.unpackbits(np.frombuffer(column.buffers()[1], np.uint8), bitorder="little")
    return unpacked[column.offset : column.offset + len(column)].astype(np.bool_)


class KeyMap:
    """The newest offset of each key that was added.

    Args:
        capacity: keys it takes, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._high = np.empty(0, np.uint64)
        self._low = np.empty(0, np.uint64)
        self._offsets = np.empty(0, np.int64)
        self._pending: list[tuple[Words, Words, Offsets]] = []
        self._waiting = 0

    def __len__(self) -> int:
        self._merge()
        return len(self._offsets)

    def fits(self, records: int) -> bool:
        """Whether it takes so many more; always while it is empty. It is full once so little room is left that each
        further batch would have all of it sorted again."""
        if len(self._offsets) + self._waiting + records <= self._capacity:
            return True
        self._merge()
        held = len(self._offsets)
        return not held or (held <= self._capacity * 3 // 4 and held + records <= self._capacity)

    def add(self, keys: Keys, offsets: Offsets) -> None:
        """Takes records in, in the order of their offsets."""
        high, low, keyed = keys
        if keyed is not None:
            high, low, offsets = high[keyed], low[keyed], offsets[keyed]
        if len(offsets):
            self._pending.append((high, low, offsets))
            self._waiting += len(offsets)

    def _merge(self) -> None:
        if not self._pending:
            return
        parts = [(self._high, self._low, self._offsets), *self._pending]
        self._pending, self._waiting = [], 0
        high, low, offsets = (np.concatenate([part[i] for part in parts]) for i in range(3))
        order = np.lexsort((low, high))  # stable: of one key the newest is the last
        high, low, offsets = high[order], low[order], offsets[order]
        last = np.append((high[1:] != high[:-1]) | (low[1:] != low[:-1]), True)
        self._high, self._low, self._offsets = high[last], low[last], offsets[last]

    def superseded(self, keys: Keys, offsets: Offsets) -> npt.NDArray[np.bool_]:
        """Which records have a newer one of their key in the map, bool[n]."""
        self._merge()
        count = len(self._high)
        if not count or not len(offsets):
            return np.zeros(len(offsets), np.bool_)
        at = np.searchsorted(self._high, keys.high)
        newest = np.full(len(offsets), -1, np.int64)
        rows = np.arange(len(offsets))
        while len(rows):  # nearly always once: two keys with the same first half are rare
            place = at[rows]
            there = place < count
            rows, place = rows[there], place[there]
            same = self._high[place] == keys.high[rows]
            rows, place = rows[same], place[same]
            hit = self._low[place] == keys.low[rows]
            newest[rows[hit]] = self._offsets[place[hit]]
            rows = rows[~hit]
            at[rows] += 1
        older = offsets < newest
        return older if keys.keyed is None else older & keys.keyed
