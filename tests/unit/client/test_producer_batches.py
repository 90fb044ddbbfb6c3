"""Chunks and tables become batches that the log takes: split, cut, serialised, with the CRC of what is in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.client.accumulator import RECORD_OVERHEAD, Accumulator, Chunk
from rayqueue.client.io.future import Receipt, RecordFuture
from rayqueue.client.io.producer_batches import TablePiece, binary_array, chunk_to_batches, piece_to_batches, seal
from rayqueue.client.io.topics import ProducerTopic
from rayqueue.client.lanes import Batch, Lane
from rayqueue.client.murmur2 import partition_of
from rayqueue.client.partitioner import Partitioner
from rayqueue.config import ProducerConfig
from rayqueue.protocol.ipc import split_message, wire_crc
from rayqueue.protocol.messages import COMPRESSION_CODES, PartitionInfo, TopicInfo
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE, serialize_schema, typed_log_schema

NS = 1_000_000


def make_topic(
    partitions: int = 1, schema: pa.Schema | None = None, key_column: str = "", settings: Any = None, **configs: str
) -> ProducerTopic:
    infos = [PartitionInfo(p, 0, 1, [0], [0], "h", 1, "i") for p in range(partitions)]
    log_schema = DEFAULT_SCHEMA if schema is None else typed_log_schema(schema)
    dotted = {name.replace("_", "."): value for name, value in configs.items()}
    info = TopicInfo("t", b"t" * 16, serialize_schema(log_schema), schema is not None, key_column, dotted, infos)
    topic = ProducerTopic(info, ProducerConfig.parse(settings or {}), Random(0))
    topic.partitioner = Partitioner(topic.partitioner.strategy)
    topic.lanes = [Lane("t", b"t" * 16, p, idempotent=True, window=5) for p in range(partitions)]
    topic.full_at = 1 << 20
    return topic


def make_chunk(topic: ProducerTopic, records: list[tuple[Any, bytes | None]], **extra: Any) -> Chunk:
    accumulator = Accumulator(0.0, 1 << 20, 64 << 20)
    accumulator.memory.take(1 << 20)
    chunk = accumulator.open(topic, Receipt("t", lambda pairs: None), 1 << 20, 1)
    for number, (value, key) in enumerate(records):
        size = RECORD_OVERHEAD + (len(value) if isinstance(value, bytes) else 10)
        partition = extra.get("partitions", {}).get(number, -1)
        chunk.append(value, key, (1000 + number) * NS + 999_999, extra.get("headers", {}).get(number), partition, size)
    accumulator.close(topic)
    return chunk


def rows(batch: Batch, schema: pa.Schema = DEFAULT_SCHEMA) -> list[dict[str, Any]]:
    """The rows of a batch, read back from its message, whose CRC must be right."""
    parts = split_message(batch.message)
    assert batch.crc == wire_crc(parts, google_crc32c.value(parts.body))
    assert batch.size == batch.message.size
    decoded = pa.ipc.read_record_batch(pa.ipc.read_message(batch.message), schema)
    decoded.validate(full=True)
    times = decoded.column("timestamp").cast(pa.int64()).to_pylist()
    assert (batch.min_timestamp, batch.max_timestamp) == (min(times), max(times))
    assert batch.record_count == decoded.num_rows
    assert batch.attributes == COMPRESSION_CODES[parts.codec]
    found: list[dict[str, Any]] = decoded.to_pylist()
    return found


def values(batches: list[Batch]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for batch in batches:
        found.setdefault(batch.lane.partition, []).extend(row["value"] for row in rows(batch))
    return found


def test_a_chunk_for_one_partition_is_one_batch() -> None:
    chunk = make_chunk(make_topic(), [(b"a", None), (None, b"k"), (b"", None)], headers={1: [("h", b"x")]})
    (batch,) = chunk_to_batches(chunk, 1 << 20, 0.0)
    found = rows(batch)
    assert [row["value"] for row in found] == [b"a", None, b""]
    assert [row["key"] for row in found] == [None, b"k", None]
    assert [row["headers"] for row in found] == [None, [("h", b"x")], None]
    assert (batch.min_timestamp, batch.max_timestamp) == (1000, 1002), "ms, cut and not rounded"
    assert batch.part.reserved == chunk.size


def test_records_are_cut_into_batches_by_size_and_the_memory_is_shared_out() -> None:
    chunk = make_chunk(make_topic(), [(b"x" * (i % 50), None) for i in range(300)])
    batches = chunk_to_batches(chunk, 2000, 0.0)
    assert len(batches) > 5
    assert values(batches)[0] == [b"x" * (i % 50) for i in range(300)]
    assert sum(batch.part.reserved for batch in batches) == chunk.size
    for batch in batches:
        batch.part.receipt.settle(batch.part, 100 * batches.index(batch), -1, None)
    offsets = [RecordFuture(chunk.receipt, i).result(0).offset for i in range(300)]
    expected = [100 * n + i for n, batch in enumerate(batches) for i in range(batch.record_count)]
    assert offsets == expected


def test_a_chunk_is_split_over_the_partitions_in_order() -> None:
    keys = [None if i % 3 == 0 else b"k%d" % (i % 7) for i in range(60)]
    chunk = make_chunk(make_topic(4), [(b"%d" % i, key) for i, key in enumerate(keys)], partitions={5: 3, 6: 0})
    batches = chunk_to_batches(chunk, 1 << 20, 0.0)
    expected: dict[int, list[bytes]] = {}
    turn = 0
    for i, key in enumerate(keys):
        if i in (5, 6):
            partition = {5: 3, 6: 0}[i]
        elif key is not None:
            partition = partition_of(key, 4)
        else:
            partition, turn = turn % 4, turn + 1
        expected.setdefault(partition, []).append(b"%d" % i)
    assert values(batches) == expected
    for batch in batches:
        batch.part.receipt.settle(batch.part, 0, -1, None)
    for i in range(60):
        where = RecordFuture(chunk.receipt, i).result(0)
        assert expected[where.partition][where.offset] == b"%d" % i
        assert where.timestamp == 1000 + i


def test_what_came_after_the_chunk_was_closed_is_not_in_it() -> None:
    chunk = make_chunk(make_topic(2), [(b"a", None), (b"b", None)])
    chunk.times.append(5 * NS)
    chunk.values.append(b"late")
    assert values(chunk_to_batches(chunk, 1 << 20, 0.0)) == {0: [b"a"], 1: [b"b"]}


SCHEMA = pa.schema([("carrier", pa.string()), ("flight", pa.int64())])


def test_rows_of_a_typed_topic_go_by_their_key_column() -> None:
    topic = make_topic(3, SCHEMA, "carrier")
    chunk = make_chunk(topic, [({"carrier": f"C{i % 5}", "flight": i}, None) for i in range(30)])
    for batch in chunk_to_batches(chunk, 1 << 20, 0.0):
        for row in rows(batch, topic.schema):
            assert batch.lane.partition == partition_of(row["carrier"].encode(), 3)


@pytest.mark.parametrize(("own", "by"), [(None, "flight"), ("default", "carrier")])
def test_partition_by_routes_and_the_producers_own_partitioner_overrides_it(own: str | None, by: str) -> None:
    settings = {"partitioner": own} if own else {}
    topic = make_topic(3, SCHEMA, "carrier", settings, partition_by="flight")
    assert topic.route_column == by


def test_the_topics_partitioner_and_the_producers_own() -> None:
    records = [(b"%d" % i, b"same") for i in range(4)]
    robin = make_topic(2, partitioner="round_robin")
    assert values(chunk_to_batches(make_chunk(robin, records), 1 << 20, 0.0)) == {0: [b"0", b"2"], 1: [b"1", b"3"]}
    own = make_topic(2, settings={"partitioner": "default"}, partitioner="round_robin")
    assert len(values(chunk_to_batches(make_chunk(own, records), 1 << 20, 0.0))) == 1


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_compression(codec: str) -> None:
    topic = make_topic(settings={"compression.type": codec})
    (batch,) = chunk_to_batches(make_chunk(topic, [(b"same" * 100, None)] * 50), 1 << 20, 0.0)
    assert split_message(batch.message).codec == codec
    assert [row["value"] for row in rows(batch)] == [b"same" * 100] * 50
    assert (batch.size < 5000) is (codec != "none")


def test_the_topics_compression_goes_before_the_producers() -> None:
    topic = make_topic(settings={"compression.type": "lz4"}, compression_type="zstd")
    assert topic.codec == "zstd"
    assert make_topic(settings={"compression.type": "lz4"}, compression_type="producer").codec == "lz4"


def _piece(
    topic: ProducerTopic, receipt: Receipt, count: int, whole: list[int] | None, last: bool = True
) -> TablePiece:
    columns = [
        pa.array([b"k%d" % i for i in range(count)]), pa.array([b"%d" % i for i in range(count)]),
        pa.nulls(count, HEADERS_TYPE), pa.array([7] * count, TIMESTAMP_TYPE),
    ]  # fmt: skip
    batch = pa.RecordBatch.from_arrays(columns, schema=DEFAULT_SCHEMA)
    return TablePiece(topic, receipt, batch, whole, None, 1000, last, 0.0)


def test_a_keyed_table_is_split_by_its_keys() -> None:
    receipt = Receipt("t", lambda pairs: None, together=True)
    batches = piece_to_batches(_piece(make_topic(4), receipt, 50, None), 1 << 20, 0.0)
    for partition, found in values(batches).items():
        assert [partition_of(b"k" + value, 4) for value in found] == [partition] * len(found)
        assert [int(value) for value in found] == sorted(int(value) for value in found)
    assert sum(batch.part.reserved for batch in batches) == 1000


def test_an_unkeyed_table_stays_together_over_its_pieces_and_the_next_takes_the_next_turn() -> None:
    topic = make_topic(3)
    for expected in (0, 1, 2, 0):
        whole: list[int] = []
        receipt = Receipt("t", lambda pairs: None, together=True)
        pieces = [_piece(topic, receipt, 5, whole, last=False), _piece(topic, receipt, 5, whole)]
        found = [batch.lane.partition for piece in pieces for batch in piece_to_batches(piece, 1 << 20, 0.0)]
        assert found == [expected] * 2


def test_what_a_partitioner_function_chose_is_kept() -> None:
    receipt = Receipt("t", lambda pairs: None, together=True)
    piece = _piece(make_topic(3), receipt, 4, None)._replace(explicit=np.array([2, 0, 2, 1]))
    assert values(piece_to_batches(piece, 1 << 20, 0.0)) == {0: [b"1"], 1: [b"3"], 2: [b"0", b"2"]}


@given(st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=50))
def test_binary_columns_are_made_as_pyarrow_makes_them(column: list[bytes | None]) -> None:
    array = binary_array(column)
    array.validate(full=True)
    assert array.equals(pa.array(column, pa.binary()))
    assert array.null_count == column.count(None)


def test_the_first_record_does_not_wait_for_pandas_to_be_imported() -> None:
    script = """
import sys
from tests.unit.client.test_producer_batches import chunk_to_batches, make_chunk, make_topic
chunk_to_batches(make_chunk(make_topic(3), [(b"v", b"k"), (b"w", None)] * 20), 1 << 20, 0.0)
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=Path(__file__).parents[3])


def test_a_slice_is_serialised_alone() -> None:
    batch = pa.RecordBatch.from_pydict({"value": [b"x" * 1000] * 100})
    whole, _ = seal(batch, "none")
    part, _ = seal(batch.slice(10, 2), "none")
    assert part.size < whole.size / 20
