"""Batches of a shard's log: what is written is read, by key, the last one of each."""

from __future__ import annotations

import subprocess
import sys

import google_crc32c
import pyarrow as pa
import pytest

from rayqueue.actors.batch_checks import BatchChecks
from rayqueue.actors.group_batches import Encoded, Latest, encode_batch, read_batches
from rayqueue.config import TopicConfig
from rayqueue.errors import CorruptRecord, InvalidTopic
from rayqueue.protocol.ipc import build_header, split_message, wire_crc
from rayqueue.protocol.messages import GROUP_PRODUCER_BASE, BatchHeader, ProduceBatch
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.protocol.small_batches import WRITE_RECORDS_MAX
from rayqueue.storage.index import pack_entry

NOW = 1_700_000_000_000
CONFIG = TopicConfig.parse({})


def logged(batches: list[list[Encoded]], producer_id: int = GROUP_PRODUCER_BASE) -> tuple[pa.Buffer, bytes]:
    """Batches as a leader takes, and as its log has them: (messages back to back, their index entries)."""
    checks = BatchChecks(DEFAULT_SCHEMA, 1 << 24, internal=True)
    data, entries, offset = b"", b"", 100
    for records in batches:
        row, crc = encode_batch(records, NOW)
        count, message = len(records), split_message(row)
        body_crc = google_crc32c.value(message.body)
        batch = ProduceBatch(b"t" * 16, 0, 0, producer_id, 1, 0, count, NOW, NOW, 0, crc)
        checks.check(batch, row, message, wire_crc(message, body_crc), CONFIG)
        header = BatchHeader(offset, offset + count - 1, count, 0, producer_id, 1, 0, NOW, NOW, 0, 0)
        head, header.crc = build_header(message, header, body_crc)
        entries += pack_entry(header, len(data), len(head) + message.body.size, len(head))
        data += head + bytes(message.body)
        offset += count
    return pa.py_buffer(data), entries


@pytest.mark.parametrize("count", [1, 9, WRITE_RECORDS_MAX, WRITE_RECORDS_MAX + 1])
def test_what_is_written_is_read(count: int) -> None:
    records: list[Encoded] = [(b"%d" % n, None if n % 3 == 1 else b"v" * n) for n in range(count)]
    latest: Latest = {}
    assert read_batches(*logged([records]), latest) == 100 + count
    assert latest == {key: (value, NOW) for key, value in records}


def test_the_last_of_a_key_stays() -> None:
    latest: Latest = {b"a": (b"before", 1), b"z": (b"kept", 2)}
    batches: list[list[Encoded]] = [[(b"a", b"1"), (b"b", b"1"), (b"a", b"2")], [(b"b", None)]]
    assert read_batches(*logged(batches), latest) == 104
    assert latest == {b"a": (b"2", NOW), b"b": (None, NOW), b"z": (b"kept", 2)}


def test_damage_is_found() -> None:
    data, entries = logged([[(b"a", b"1")]])
    damaged = bytearray(data.to_pybytes())
    damaged[-9] ^= 1
    with pytest.raises(CorruptRecord):
        read_batches(pa.py_buffer(bytes(damaged)), entries, {})


def test_nobody_else_writes_to_it() -> None:
    for producer_id in (-1, 5, GROUP_PRODUCER_BASE - 1):
        with pytest.raises(InvalidTopic):
            logged([[(b"a", b"1")]], producer_id)


def test_neither_pandas_nor_compute_is_loaded() -> None:
    """They would be 25 MB in the process, and a part of the time that taking over a shard takes."""
    script = (
        "import sys; from tests.unit.actors.test_group_batches import logged, read_batches\n"
        "read_batches(*logged([[(b'%d' % n, None if n % 2 else b'v') for n in range(300)]]), {})\n"
        "assert not {'pandas', 'pyarrow.compute'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
