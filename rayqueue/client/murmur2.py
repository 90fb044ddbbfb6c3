"""Kafka's murmur2, for one key and for a whole Arrow column at once.

Source: org.apache.kafka.common.utils.Utils.murmur2 (Austin Appleby's MurmurHash2, 32 bits, seed 0x9747b28c). A keyed
record's partition is `(murmur2(key) & 0x7fffffff) % partitions`, so keys land where Kafka puts them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
# Below so many keys the per-call cost of NumPy is more than that of the scalar loop.
_SCALAR_KEYS = 12

_TAIL_MASKS = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF], dtype=np.uint32)


def murmur2(key: bytes) -> int:
    """The hash of one key, as an unsigned 32-bit number."""
    length = len(key)
    h = (_SEED ^ length) & _MASK
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length != whole:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def murmur2_column(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The hashes of n keys that stand back to back, as in an Arrow binary array.

    Args:
        data: uint8, the bytes of the keys.
        offsets: int64, n + 1 positions in `data`; key i is data[offsets[i]:offsets[i + 1]].

    Returns:
        uint32 of shape (n,).
    """
    count = len(offsets) - 1
    if count <= _SCALAR_KEYS:
        raw = [data[offsets[i] : offsets[i + 1]].tobytes() for i in range(count)]
        return np.array([murmur2(key) for key in raw], dtype=np.uint32)
    first, last = int(offsets[0]), int(offsets[-1])
    # Three bytes of padding, so that four can be read at any position of a key's last, partial block.
    padded = np.zeros(last - first + 4, dtype=np.uint8)
    padded[: last - first] = data[first:last]
    starts = offsets[:-1] - first
    lengths = np.diff(offsets)
    # words[i] is the little-endian number in the four bytes from i on: an overlapping view, nothing is copied.
    words: npt.NDArray[np.uint32] = np.ndarray((len(padded) - 3,), dtype="<u4", buffer=padded, strides=(1,))
    with np.errstate(over="ignore"):
        return _hash(words, starts, lengths)


def _hash(
    words: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint32]:
    m = np.uint32(_M)
    h = lengths.astype(np.uint32) ^ np.uint32(_SEED)
    blocks = lengths >> 2
    shortest, longest = int(blocks.min()), int(blocks.max())
    for block in range(shortest):
        k = words[starts + 4 * block] * m
        k ^= k >> np.uint32(24)
        h *= m
        h ^= k * m
    left = np.arange(len(h))
    for block in range(shortest, longest):
        left = left[blocks[left] > block]
        k = words[starts[left] + 4 * block] * m
        k ^= k >> np.uint32(24)
        h[left] = h[left] * m ^ k * m
    rest = lengths & 3
    if rest.any():
        tail = words[starts + 4 * blocks] & _TAIL_MASKS[rest]
        h = np.where(rest > 0, (h ^ tail) * m, h)
    h ^= h >> np.uint32(13)
    h *= m
    h ^= h >> np.uint32(15)
    return h


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of one key among `partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
