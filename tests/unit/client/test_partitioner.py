"""Routing a chunk over partitions: each row once, in order, where Kafka would put it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.client.murmur2 import murmur2, partition_of
from rayqueue.client.partitioner import NO_PARTITION, Partitioner


def _targets(routes: list, count: int) -> list[int]:
    target = [-9] * count
    for partition, rows in routes:
        rows = list(rows)
        assert rows == sorted(rows), "rows of a partition keep their order"
        for row in rows:
            assert target[row] == -9, "a row goes to one partition"
            target[row] = partition
    return target


def _hashes(keys: list[bytes]) -> np.ndarray:
    return np.array([murmur2(key) for key in keys], dtype=np.uint32)


def test_round_robin_goes_on_where_the_last_chunk_stopped() -> None:
    partitioner = Partitioner()
    assert _targets(partitioner.route(5, 3), 5) == [0, 1, 2, 0, 1]
    assert _targets(partitioner.route(2, 3), 2) == [2, 0]
    assert _targets(partitioner.route(1, 3), 1) == [1]
    assert partitioner.whole(3, ()) == 2, "a whole batch takes the next turn"
    assert _targets(partitioner.route(1, 3), 1) == [0]


@pytest.mark.parametrize("strategy", ["default", "round_robin", "sticky"])
def test_round_robin_begins_where_it_is_told(strategy: str) -> None:
    assert [Partitioner(strategy, start).whole(4, ()) for start in (2, 3, 4, 2**31)] == [2, 3, 0, 0]


def test_round_robin_passes_over_partitions_without_a_leader() -> None:
    assert _targets(Partitioner().route(4, 4, available=[1, 3]), 4) == [1, 3, 1, 3]


def test_sticky_keeps_a_chunk_together_and_moves_on() -> None:
    partitioner = Partitioner("sticky")
    assert _targets(partitioner.route(4, 3), 4) == [0, 0, 0, 0]
    assert _targets(partitioner.route(2, 3), 2) == [1, 1]


def test_hash_sends_the_unkeyed_where_the_empty_key_goes() -> None:
    partitioner = Partitioner("hash")
    empty = partition_of(b"", 7)
    assert _targets(partitioner.route(3, 7), 3) == [empty] * 3
    assert partitioner.whole(7, ()) == empty


@pytest.mark.parametrize("strategy", ["default", "sticky", "hash"])
def test_keys_go_where_kafka_puts_them(strategy: str) -> None:
    keys = [b"user-%d" % (i % 37) for i in range(200)]
    routes = Partitioner(strategy).route(200, 12, hashes=_hashes(keys))
    assert _targets(routes, 200) == [partition_of(key, 12) for key in keys]


def test_round_robin_by_name_ignores_keys() -> None:
    routes = Partitioner("round_robin").route(4, 2, hashes=_hashes([b"a"] * 4))
    assert _targets(routes, 4) == [0, 1, 0, 1]


@given(
    st.lists(st.tuples(st.one_of(st.none(), st.binary(max_size=5)), st.integers(-1, 4)), min_size=1, max_size=60),
)
def test_mixed_records_each_go_their_way(records: list) -> None:
    keys = [key for key, _ in records]
    explicit = np.array([partition for _, partition in records], dtype=np.int64)
    routes = Partitioner().route(
        len(records),
        5,
        hashes=_hashes([key or b"" for key in keys]),
        keyed=np.array([key is not None for key in keys]),
        explicit=explicit,
    )
    expected, turn = [], 0
    for key, partition in records:
        if partition != NO_PARTITION:
            expected.append(partition)
        elif key is not None:
            expected.append(partition_of(key, 5))
        else:
            expected.append(turn % 5)
            turn += 1
    assert _targets(routes, len(records)) == expected


def test_one_partition_takes_all() -> None:
    assert Partitioner().route(3, 1, hashes=_hashes([b"a", b"b", b"c"])) == [(0, range(3))]
