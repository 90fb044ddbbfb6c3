"""murmur2 against Kafka's own vectors and against the `murmurhash2` package."""

import murmurhash2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.client.murmur2 import murmur2, murmur2_column, partition_of

# org.apache.kafka.common.utils.UtilsTest.testMurmur2 (signed there)
KAFKA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def _column(keys: list[bytes]) -> np.ndarray:
    data = np.frombuffer(b"".join(keys), dtype=np.uint8)
    return murmur2_column(data, np.cumsum([0, *map(len, keys)], dtype=np.int64))


@pytest.mark.parametrize("key", KAFKA)
def test_kafkas_vectors(key: bytes) -> None:
    assert murmur2(key) == KAFKA[key] & 0xFFFFFFFF
    assert set(_column([key] * 20).tolist()) == {KAFKA[key] & 0xFFFFFFFF}


@given(st.lists(st.binary(max_size=40), max_size=60))
def test_a_column_hashes_as_the_oracle(keys: list[bytes]) -> None:
    expected = [murmurhash2.murmurhash2(key, 0x9747B28C) & 0xFFFFFFFF for key in keys]
    assert _column(keys).tolist() == expected
    assert [murmur2(key) for key in keys] == expected


def test_a_column_may_start_inside_its_buffer() -> None:
    keys = [b"k%d" % i for i in range(50)]
    data = np.frombuffer(b"other" + b"".join(keys) + b"tail", dtype=np.uint8)
    offsets = np.cumsum([5, *map(len, keys)], dtype=np.int64)
    assert murmur2_column(data, offsets).tolist() == [murmur2(key) for key in keys]


def test_partition_is_kafkas() -> None:
    assert partition_of(b"21", 7) == (KAFKA[b"21"] & 0x7FFFFFFF) % 7
