"""Is it the same data? Checksums of tables that do not depend on the order of rows, and the order within a key.

A row's hash mixes the hashes of its columns (SplitMix64's finaliser; Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", 2014); a table's checksum is the sum of its rows' hashes modulo 2**64. A sum, because
rows that stand twice would cancel out under xor.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Hashes = npt.NDArray[np.uint64]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_NULL = np.uint64(0xD1B54A32D192ED03)


class Fingerprint(NamedTuple):
    """Rows and checksum of a table; fingerprints of parts add up to that of the whole."""

    rows: int
    checksum: int

    def plus(self, other: Fingerprint) -> Fingerprint:
        """The fingerprint of both tables together."""
        return Fingerprint(self.rows + other.rows, (self.checksum + other.checksum) & _MASK)

    def __str__(self) -> str:
        return f"{self.rows:,} rows, checksum {self.checksum:016x}"


def fingerprint(table: pa.Table) -> Fingerprint:
    """Rows and checksum of a table of integer, float, timestamp and string columns; column order matters."""
    total = np.zeros(table.num_rows, dtype=np.uint64)
    for index, column in enumerate(table.columns):
        total = _mix(total + _column_hashes(column) + np.uint64((index + 1) * _GOLDEN & _MASK))
    return Fingerprint(table.num_rows, int(total.sum(dtype=np.uint64)))


def _mix(x: Hashes) -> Hashes:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _column_hashes(column: pa.ChunkedArray) -> Hashes:
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_string(values.type):
        return _string_hashes(values)
    kind = pa.float64() if pa.types.is_floating(values.type) else pa.int64()
    plain = pc.fill_null(values.cast(kind), 0).to_numpy(zero_copy_only=False).view(np.uint64)
    return _nulls(_mix(plain), values)


def _string_hashes(values: pa.Array) -> Hashes:
    encoded = values.dictionary_encode()
    if not len(encoded.dictionary):
        return _nulls(np.zeros(len(values), dtype=np.uint64), values)
    words = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in encoded.dictionary.to_pylist()]
    each = np.frombuffer(b"".join(words), dtype="<u8").astype(np.uint64)
    return _nulls(each[pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)], values)


def _nulls(hashes: Hashes, values: pa.Array) -> Hashes:
    if not values.null_count:
        return hashes
    return np.where(values.is_null().to_numpy(zero_copy_only=False), _NULL, hashes)


def by_key(table: pa.Table, key: str, order: npt.NDArray[np.int64]) -> pa.Table:
    """The rows that have a key, sorted by key and, within one, by `order` (an integer a row).

    Two tables are equal after this exactly if every key has the same rows in the same order in both.
    """
    keys = table[key].combine_chunks().dictionary_encode()
    ranks = np.argsort(np.argsort(np.array(keys.dictionary.to_pylist(), dtype=object)))
    known = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
    codes = keys.indices.to_numpy(zero_copy_only=False)[known].astype(np.int64)
    sorted_rows = known[np.lexsort((order[known], ranks[codes]))]
    return table.combine_chunks().take(sorted_rows)
