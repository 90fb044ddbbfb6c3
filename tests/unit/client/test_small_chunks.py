"""A few records from `produce` to `poll` without Arrow: nothing but the time it takes may tell the ways apart."""

from __future__ import annotations

from random import Random
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayqueue.actors.batch_checks import BatchChecks
from rayqueue.client.fetching.chunk import LogChunk, Run
from rayqueue.client.fetching.layout import TopicLayout
from rayqueue.client.fetching.rows import Rows
from rayqueue.client.io import producer_batches
from rayqueue.client.io.future import RecordFuture
from rayqueue.client.io.producer_batches import KEYED_MAX, chunk_to_batches
from rayqueue.client.partitioner import NO_PARTITION, STRATEGIES, Partitioner
from rayqueue.config.topic import TopicConfig
from rayqueue.errors import CorruptRecord, SerializationError
from rayqueue.message import Message
from rayqueue.protocol import ipc
from rayqueue.protocol.batches import read_records
from rayqueue.protocol.messages import (
    COMPRESSION_CODES,
    CONTROL_BATCH,
    LOG_APPEND_TIME,
    SPARSE_BATCH,
    BatchHeader,
    ProduceBatch,
    TopicInfo,
)
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, HEADERS_TYPE, TIMESTAMP_TYPE
from rayqueue.protocol.small_batches import BYTES_MAX, READ_RECORDS_MAX, WRITE_RECORDS_MAX, write_message
from rayqueue.storage.index import pack_entry, unpack_entries
from tests.unit.client.test_producer_batches import make_chunk, make_topic, rows, values

LAYOUT = TopicLayout(TopicInfo("t", b"t" * 16, b"", False, "", {}, []))
KEYS = st.one_of(st.none(), st.binary(max_size=8))
RECORDS = st.lists(st.tuples(st.one_of(st.none(), st.binary(max_size=20)), KEYS), min_size=1, max_size=40)
HEADERS = st.dictionaries(st.integers(0, 39), st.lists(st.tuples(st.text(max_size=5), KEYS), max_size=2), max_size=4)


# --- the producer ----------------------------------------------------------------------------------------------------


def described(batches: list[Any]) -> dict[int, list[dict[str, Any]]]:
    return {batch.lane.partition: rows(batch) for batch in batches}


@given(
    RECORDS, HEADERS, st.integers(1, 4), st.sampled_from(STRATEGIES), st.dictionaries(st.integers(0, 39), st.just(0))
)
def test_both_ways_make_the_same_batches(
    records: list[Any], headers: dict[int, Any], partitions: int, strategy: str, explicit: dict[int, int]
) -> None:
    found, outcomes = [], []
    for small in (True, False):
        topic = make_topic(partitions, settings={"partitioner": strategy})
        topic.plain_log = small
        chunk = make_chunk(topic, records, headers=headers, partitions=explicit)
        batches = chunk_to_batches(chunk, 1 << 20, 7.0)
        found.append(described(batches))
        assert sum(batch.part.reserved for batch in batches) == chunk.size
        for batch in batches:
            batch.part.receipt.settle(batch.part, 100, -1, None)
        outcomes.append([RecordFuture(chunk.receipt, index).result(0) for index in range(len(records))])
    assert found[0] == found[1]
    assert outcomes[0] == outcomes[1]


def test_the_leader_takes_them() -> None:
    topic = make_topic(3)
    checks = BatchChecks(DEFAULT_SCHEMA, 1 << 20)
    records = [(b"v" * (i % 7) if i % 5 else None, b"k" if i % 3 else None) for i in range(40)]
    for batch in chunk_to_batches(make_chunk(topic, records, headers={3: [("h", None)], 4: []}), 1 << 20, 0.0):
        told = ProduceBatch(
            *(b"t" * 16, batch.lane.partition, 0, 1, 0, 0, batch.record_count, batch.min_timestamp),
            *(batch.max_timestamp, batch.attributes, batch.crc),
        )
        split = ipc.split_message(batch.message)
        crc = ipc.wire_crc(split, google_crc32c.value(split.body))
        checks.check(told, batch.message, split, crc, TopicConfig.parse({}))


@pytest.mark.parametrize(
    ("count", "size", "key", "small"),
    [
        (1, 10, None, True),
        (WRITE_RECORDS_MAX, 10, None, True),
        (WRITE_RECORDS_MAX + 1, 10, None, False),
        (KEYED_MAX, 10, b"k", True),
        (KEYED_MAX + 1, 10, b"k", False),
        (1, BYTES_MAX - 100, None, True),
        (1, BYTES_MAX, None, False),
    ],
)
def test_the_way_is_chosen_by_size(
    count: int, size: int, key: bytes | None, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def spy(*columns: Any) -> Any:
        calls.append(1)
        return write_message(*columns)

    monkeypatch.setattr(producer_batches, "write_message", spy)
    chunk = make_chunk(make_topic(2), [(b"v" * size, key)] * count)
    assert sum(map(len, values(chunk_to_batches(chunk, 1 << 20, 0.0)).values())) == count
    assert bool(calls) is small


def test_what_is_cut_compressed_or_typed_goes_by_arrow() -> None:
    assert len(chunk_to_batches(make_chunk(make_topic(), [(b"v" * 50, None)] * 10), 200, 0.0)) > 1
    assert not make_topic(settings={"compression.type": "lz4"}).plain_log
    assert not make_topic(schema=pa.schema([("x", pa.int64())])).plain_log
    assert make_topic().plain_log


def test_what_came_after_the_chunk_was_closed_is_not_in_it() -> None:
    for partitions in (1, 2):
        chunk = make_chunk(make_topic(partitions), [(b"a", b"k"), (b"b", None)], headers={1: [("h", b"x")]})
        for column, late in ((chunk.times, 5), (chunk.keys, b"k"), (chunk.headers, None), (chunk.values, b"late")):
            column.append(late)
        found = values(chunk_to_batches(chunk, 1 << 20, 0.0))
        assert sorted(value for some in found.values() for value in some) == [b"a", b"b"]


@given(
    st.lists(KEYS, min_size=1, max_size=30),
    st.integers(1, 5),
    st.sampled_from(STRATEGIES),
    st.lists(st.integers(-1, 4), min_size=30, max_size=30),
    st.booleans(),
    st.integers(0, 3),
)
def test_few_records_are_routed_as_many(
    keys: list[bytes | None], partitions: int, strategy: str, explicit: list[int], chosen: bool, start: int
) -> None:
    count = len(keys)
    wanted = [min(number, partitions - 1) for number in explicit]
    keyed = np.array([key is not None for key in keys])
    hashes = np.array([0 if key is None else _murmur(key) for key in keys], dtype=np.uint32)
    available = list(range(partitions))[:: 1 + start % 2]
    many, few = Partitioner(strategy, start), Partitioner(strategy, start)
    for _ in range(2):  # round robin goes on where it stopped
        expected = many.route(
            *(count, partitions, available, hashes, keyed),
            np.array(wanted[:count], dtype=np.int64) if chosen else None,
        )
        found = few.route_few(count, partitions, available, [*keys, b"late"], wanted if chosen else None)
        assert sorted((number, list(some)) for number, some in found) == sorted(
            (number, [int(row) for row in some]) for number, some in expected if len(some)
        )


def _murmur(key: bytes) -> int:
    from rayqueue.client.murmur2 import murmur2

    return murmur2(key)


def test_few_records_without_keys_are_routed_as_many() -> None:
    for strategy in STRATEGIES:
        for explicit in (None, [1, NO_PARTITION, 0, NO_PARTITION]):
            many, few = Partitioner(strategy, 5), Partitioner(strategy, 5)
            expected = many.route(4, 3, (), None, None, None if explicit is None else np.array(explicit))
            found = few.route_few(4, 3, (), None, explicit)
            assert {n: list(some) for n, some in found} == {n: [int(r) for r in some] for n, some in expected}


# --- the consumer ----------------------------------------------------------------------------------------------------


def batch_of(records: list[Any], headers: dict[int, Any], by_arrow: bool) -> pa.Buffer:
    keys, times = [key for _, key in records], [1000 + i for i in range(len(records))]
    pairs = [headers.get(i) for i in range(len(records))]
    if not by_arrow:
        return pa.py_buffer(write_message(keys, [value for value, _ in records], pairs, times)[0])
    columns = [
        pa.array(keys, pa.binary()),
        pa.array([value for value, _ in records], pa.binary()),
        pa.array(pairs, HEADERS_TYPE),
        pa.array(times, TIMESTAMP_TYPE),
    ]
    return pa.record_batch(columns, schema=DEFAULT_SCHEMA).serialize()


class LogBytes:
    """Batches as they stand in a log, one behind the other."""

    def __init__(self) -> None:
        self.data, self.entries, self.offset = b"", b"", 0

    def add(self, message: pa.Buffer, attributes: int = 0, epoch: int = 3) -> LogBytes:
        split = ipc.split_message(message)
        count, base = split.length, self.offset
        head = BatchHeader(base, base + count - 1, count, epoch, -1, -1, -1, 0, 5555, attributes, 0)
        raw, head.crc = ipc.build_header(split, head, google_crc32c.value(split.body))
        body = split.body.to_pybytes()
        self.entries += pack_entry(head, len(self.data), len(raw) + len(body), len(raw))
        self.data += raw + body
        self.offset += count
        return self

    def chunk(self, check: bool = True, entries_checked: bool = False) -> LogChunk:
        return LogChunk(pa.py_buffer(self.data), unpack_entries(self.entries), check, entries_checked)


def read_all(chunk: LogChunk, small: bool, **deserializers: Any) -> list[Message]:
    found, offset = [], chunk.base_offset
    while offset < chunk.next_offset:
        run = chunk.run_at(offset, DEFAULT_SCHEMA, None, 1 << 30, small)
        assert isinstance(run, Run)
        made = Rows(LAYOUT, 7, run, deserializers.get("value"), deserializers.get("key"))
        found += made.messages(offset - run.base_offset, run.next_offset - run.base_offset)
        offset = run.next_offset
    return found


BATCHES = st.lists(
    st.tuples(RECORDS, HEADERS, st.booleans(), st.sampled_from([0, LOG_APPEND_TIME]), st.integers(1, 2)),
    min_size=1,
    max_size=5,
)


@given(BATCHES, st.booleans())
def test_both_ways_read_the_same_messages(batches: list[Any], check: bool) -> None:
    log = LogBytes()
    for records, headers, by_arrow, attributes, epoch in batches:
        log.add(batch_of(records, headers, by_arrow), attributes, epoch)
    fast, slow = read_all(log.chunk(check), True), read_all(log.chunk(check), False)
    assert fast == slow
    assert [message.offset for message in fast] == list(range(log.offset))
    assert [type(m.timestamp) for m in fast] == [int] * log.offset
    assert all(a.headers is not b.headers for a, b in zip(fast, fast[1:], strict=False)), "each its own list"


def test_large_batches_between_small_ones() -> None:
    log = LogBytes()
    counts = [1, 3, READ_RECORDS_MAX + 1, 2, 1]
    for count in counts:
        log.add(batch_of([(b"%d" % i, None) for i in range(count)], {}, True))
    chunk, offset, runs = log.chunk(), 0, []
    while offset < log.offset:
        run = chunk.run_at(offset, DEFAULT_SCHEMA, None, 1 << 30, True)
        assert isinstance(run, Run)
        runs.append((run.next_offset - offset, run.records is not None))
        offset = run.next_offset
    assert runs == [(4, True), (sum(counts) - 4, False)]
    assert [m.value for m in read_all(log.chunk(), True)] == [b"%d" % i for count in counts for i in range(count)]


def test_a_table_of_what_was_read_as_records() -> None:
    """`consume_arrow` after `poll`, in the middle of a batch: it needs Arrow's batches."""
    chunk = LogBytes().add(batch_of([(b"a", b"k"), (b"b", None)], {}, False)).chunk()
    first = chunk.run_at(0, DEFAULT_SCHEMA, None, 1 << 30, True)
    assert isinstance(first, Run) and first.records is not None and first.batches == []
    assert chunk.run_at(1, DEFAULT_SCHEMA, None, 1 << 30, True) is first, "kept for the next call"
    second = chunk.run_at(1, DEFAULT_SCHEMA, None, 1 << 30)
    assert isinstance(second, Run) and second.records is None
    assert second.batches[0].column("value").to_pylist() == [b"a", b"b"]
    assert chunk.run_at(1, DEFAULT_SCHEMA, None, 1 << 30, True) is second, "these will do for records too"


def test_deserializers_run_when_they_are_asked_for_and_once() -> None:
    calls: list[bytes] = []

    def upper(raw: bytes) -> str:
        calls.append(raw)
        if raw == b"bad":
            raise ValueError("no")
        return raw.decode().upper()

    log = LogBytes().add(batch_of([(b"a", b"k"), (b"bad", None), (None, b"l")], {}, False))
    messages = read_all(log.chunk(), True, value=upper, key=upper)
    assert calls == []
    assert (messages[0].value, messages[0].value, messages[0].key) == ("A", "A", "K")
    assert calls == [b"a", b"k"]
    assert messages[2].value is None and messages[1].key is None
    with pytest.raises(SerializationError, match="offset 1"):
        _ = messages[1].value


def test_any_flipped_bit_is_found_and_the_sound_batches_come_first() -> None:
    log = LogBytes().add(batch_of([(b"a", b"k")], {0: [("h", b"x")]}, False)).add(batch_of([(b"b", None)], {}, False))
    border = int(unpack_entries(log.entries)["position"][1])
    for position in range(0, len(log.data), 13):
        data = bytearray(log.data)
        data[position] ^= 16
        chunk = LogChunk(pa.py_buffer(bytes(data)), unpack_entries(log.entries), True)
        if position >= border:
            run = chunk.run_at(0, DEFAULT_SCHEMA, None, 1 << 30, True)
            assert isinstance(run, Run) and run.next_offset == 1
        with pytest.raises(CorruptRecord, match="offsets 0 to 0" if position < border else "offsets 1 to 1"):
            chunk.run_at(0 if position < border else 1, DEFAULT_SCHEMA, None, 1 << 30, True)


def test_any_flipped_bit_of_an_entry_is_found_unless_that_was_looked_at() -> None:
    log = LogBytes().add(batch_of([(b"a", b"k")], {}, False)).add(batch_of([(b"b", None)], {}, False))
    for position in range(72, 80):
        entries = bytearray(log.entries)
        entries[80 + position] ^= 1
        chunk = LogChunk(pa.py_buffer(log.data), unpack_entries(bytes(entries)), True)
        run = chunk.run_at(0, DEFAULT_SCHEMA, None, 1 << 30, True)
        assert isinstance(run, Run) and run.next_offset == 1
        with pytest.raises(CorruptRecord, match="index entry after offset 0"):
            chunk.run_at(1, DEFAULT_SCHEMA, None, 1 << 30, True)
    entries[80 + 76 :] = bytes(4)
    LogChunk(pa.py_buffer(log.data), unpack_entries(bytes(entries)), True, True).run_at(
        1, DEFAULT_SCHEMA, None, 1, True
    )


def test_each_crc_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bool] = []

    def spy(data: Any, start: int, entry: Any, check: bool) -> Any:
        checked.append(check)
        return read_records(data, start, entry, check)

    monkeypatch.setattr("rayqueue.client.fetching.chunk.read_records", spy)
    log = LogBytes().add(batch_of([(b"a", b"k")], {}, False)).add(batch_of([(b"b", None)], {}, False))
    chunk = log.chunk()
    for _ in range(2):
        chunk.run_at(0, DEFAULT_SCHEMA, None, 1, True)
        chunk.last_run = None
    chunk.run_at(1, DEFAULT_SCHEMA, None, 1, True)
    assert checked == [True, False, True]


@pytest.mark.parametrize("attributes", [CONTROL_BATCH, SPARSE_BATCH, COMPRESSION_CODES["zstd"]])
def test_batches_of_other_kinds_are_left_to_arrow(attributes: int) -> None:
    log = LogBytes().add(batch_of([(b"a", b"k")], {}, False), attributes)
    assert read_records(pa.py_buffer(log.data), 0, unpack_entries(log.entries)[0].item()) is None


def test_data_cut_short_and_entries_that_lie() -> None:
    log = LogBytes().add(batch_of([(b"a", b"k"), (b"b", None)], {}, False))
    for check in (True, False):
        chunk = LogChunk(pa.py_buffer(log.data[:-8]), unpack_entries(log.entries), check)
        with pytest.raises(CorruptRecord, match="offsets 0 to 1 is cut short"):
            chunk.run_at(0, DEFAULT_SCHEMA, None, 1, True)
    entries = unpack_entries(log.entries).copy()
    entries["record_count"] = 3
    chunk = LogChunk(pa.py_buffer(log.data), entries, False)
    with pytest.raises(CorruptRecord, match="offsets 0 to 1 is damaged: it holds 2 rows where 3"):
        chunk.run_at(0, DEFAULT_SCHEMA, None, 1, True)
    entries["record_count"], entries["header_length"] = 2, len(log.data) + 1
    with pytest.raises(CorruptRecord, match="cut short"):
        LogChunk(pa.py_buffer(log.data), entries, False).run_at(0, DEFAULT_SCHEMA, None, 1, True)


@given(st.data())
def test_entries_of_anything_are_an_error_or_records(data: st.DataObject) -> None:
    """Without CRCs, as with `check.crcs` off, or written by somebody hostile."""
    log = LogBytes().add(batch_of([(b"a", b"k"), (b"b", None)], {0: [("h", b"1")]}, False))
    entry = list(unpack_entries(log.entries)[0].item())
    for place in data.draw(st.lists(st.sampled_from([2, 6, 7, 8]), max_size=3)):
        entry[place] = data.draw(st.sampled_from([0, 1, 64, 671, 672, 673, len(log.data), len(log.data) + 1, 1 << 20]))
    body = bytearray(log.data)
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(body) - 4), st.integers(-9, 1 << 30)), max_size=2)
    ):
        body[at : at + 4] = value.to_bytes(4, "little", signed=True)
    try:
        records = read_records(pa.py_buffer(bytes(body)), 0, entry, check_crc=False)
    except CorruptRecord:
        return
    assert records is None or len(records.values) == len(records.keys) == len(records.times) == entry[8]


def test_random_batches_over_many_partitions_come_back() -> None:
    random = Random(1)
    for _ in range(20):
        topic = make_topic(random.randint(1, 5))
        given = [
            (random.randbytes(random.randint(0, 30)) or None, random.choice([None, b"a", b"b", b"c"]))
            for _ in range(random.randint(1, 50))
        ]
        batches = chunk_to_batches(make_chunk(topic, given, headers={0: [("h", b"x")]}), 1 << 20, 0.0)
        back = []
        for batch in batches:
            back += [(m.value, m.key) for m in read_all(LogBytes().add(batch.message).chunk(), True)]
        assert sorted(back, key=repr) == sorted(given, key=repr)
