"""Hashes of key columns of every type."""

import datetime
import decimal
import struct
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.client.io.keys import hash_column, key_bytes
from rayqueue.client.murmur2 import murmur2
from rayqueue.errors import SchemaMismatch

CASES = [
    (pa.array(["a", "é", ""] * 7), lambda v: v.encode()),
    (pa.array([b"a", b"", b"xyz"] * 7, pa.large_binary()), lambda v: v),
    (pa.array([b"ab", b"cd"] * 7, pa.binary(2)), lambda v: v),
    (pa.array([1, -1, 2**31 - 1] * 7, pa.int32()), lambda v: struct.pack(">q", v)),
    (pa.array([1, 2**64 - 1] * 7, pa.uint64()), lambda v: struct.pack(">Q", v)),
    (pa.array([1.5, -0.25] * 7, pa.float32()), lambda v: struct.pack(">d", v)),
    (pa.array([True, False] * 7), lambda v: struct.pack(">q", v)),
    (pa.array(["x", "y"] * 7).dictionary_encode(), lambda v: v.encode()),
    (pa.array([decimal.Decimal("1.50")] * 14), lambda v: str(v).encode()),
]


@pytest.mark.parametrize(("column", "as_bytes"), CASES, ids=[str(c.type) for c, _ in CASES])
def test_keys_hash_as_their_bytes(column: pa.Array, as_bytes: Any) -> None:
    expected = [murmur2(as_bytes(value)) for value in column.to_pylist()]
    hashes, keyed = hash_column(column)
    assert hashes.tolist() == expected
    assert keyed is None
    assert hash_column(column.slice(3, 9))[0].tolist() == expected[3:12], "a slice of the column"
    if not pa.types.is_dictionary(column.type):
        assert [murmur2(key_bytes(value) or b"") for value in column.to_pylist()] == expected


def test_times_hash_as_their_numbers() -> None:
    at = datetime.datetime(2013, 1, 1, tzinfo=datetime.timezone.utc)
    column = pa.array([at] * 13, pa.timestamp("ms", tz="UTC"))
    assert hash_column(column)[0][0] == murmur2(struct.pack(">q", int(at.timestamp() * 1000)))
    days = pa.array([datetime.date(1970, 1, 11)] * 13)
    assert hash_column(days)[0][0] == murmur2(struct.pack(">q", 10))


def test_nulls_have_no_key() -> None:
    for column in (pa.array(["a", None] * 9), pa.array([1, None] * 9)):
        hashes, keyed = hash_column(column)
        assert keyed is not None
        assert keyed.tolist() == [True, False] * 9
        assert hashes[0] == hash_column(column.slice(0, 1))[0][0]


def test_what_cannot_be_a_key_is_refused_by_name() -> None:
    with pytest.raises(SchemaMismatch, match="column tags of type list"):
        hash_column(pa.array([[1]] * 3), "tags")


def test_no_keys_at_all() -> None:
    assert len(hash_column(pa.array([], pa.string()))[0]) == 0
