"""Memory shared by a producer and a server on one host: what is read there is what was written, and nothing else is."""

from __future__ import annotations

import gc
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from rayqueue.client.io import shared_memory
from rayqueue.client.io.producer_batches import seal
from rayqueue.client.io.shared_memory import ClientMemory, ServerMemory
from rayqueue.errors import ProtocolError
from rayqueue.protocol.messages import ProduceBatch, SharedMemory

SIZE = 1 << 20

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux has sealed memory")


@pytest.fixture
def server() -> Iterator[ServerMemory]:
    made = ServerMemory(SIZE)
    yield made
    made.close()


@pytest.fixture
def client(server: ServerMemory) -> ClientMemory:
    return ClientMemory(server.offer)


def header(position: int = 0, size: int = 0) -> ProduceBatch:
    return ProduceBatch(b"t" * 16, 0, 0, -1, -1, -1, 1, 0, 0, 0, 0, position, size)


def table(rows: int, fill: bytes = b"x") -> pa.RecordBatch:
    return pa.record_batch({"value": pa.array([fill * 100] * rows, pa.binary())})


def test_the_server_reads_what_the_client_wrote(server: ServerMemory, client: ClientMemory) -> None:
    batches = [table(100, fill) for fill in (b"a", b"b", b"c")]
    written = [client.write(batch) for batch in batches]
    for batch, message in zip(batches, written, strict=True):
        notice = header()
        assert message is not None
        assert client.refer(notice, message)
        (row,) = server.rows([notice], [])
        assert row.equals(batch.serialize())


def test_sliced_batches_are_written_as_arrow_would(client: ClientMemory) -> None:
    batch = table(100).slice(3, 50)
    message = client.write(batch)
    assert message is not None
    assert message.equals(batch.serialize())


def test_room_is_free_again_when_nobody_holds_what_was_written(client: ClientMemory) -> None:
    batch = table(2000)
    held = []
    while (message := client.write(batch)) is not None:
        held.append(message)
    assert len(held) == SIZE // (batch.serialize().size + batch.schema.serialize().size)
    addresses = [message.address for message in held]
    part = held[1].slice(8, 16)
    del held[1], message
    assert client.write(batch) is None, "a part of it is held"
    del part
    again = client.write(batch)
    assert again is not None
    assert again.address == addresses[1]
    assert all(message.equals(batch.serialize()) for message in held)


def test_a_buffer_outlives_both_ends(server: ServerMemory) -> None:
    client = ClientMemory(server.offer)
    batch = table(100)
    message = client.write(batch)
    (row,) = server.rows([header(message.address - client._begin, message.size)], [])  # type: ignore[union-attr]
    del client
    gc.collect()
    assert message is not None
    assert message.equals(batch.serialize())
    assert row.equals(message)


def test_what_does_not_lie_there_is_sent(client: ClientMemory) -> None:
    notice = header()
    assert not client.refer(notice, pa.py_buffer(b"elsewhere"))
    assert (notice.position, notice.size) == (0, 0)


@pytest.mark.parametrize(
    ("position", "size"),
    [(-8, 8), (SIZE, 8), (SIZE - 8, 16), (1 << 62, 8), (0, SIZE + 8), (0, -1), (4, 8), (0, 1 << 62)],
)
def test_a_notice_of_a_place_that_is_none_is_refused(server: ServerMemory, position: int, size: int) -> None:
    with pytest.raises(ProtocolError):
        server.rows([header(position, size)], [])


def test_places_cannot_be_more_than_there_is(server: ServerMemory) -> None:
    with pytest.raises(ProtocolError, match="more than"):
        server.rows([header(0, SIZE // 2)] * 3, [])


@pytest.mark.parametrize("sent", [0, 2])
def test_each_batch_has_one_row(server: ServerMemory, sent: int) -> None:
    with pytest.raises(ProtocolError, match="a row for each"):
        server.rows([header(), header(0, 8)], [pa.py_buffer(b"row")] * sent)


def test_the_memory_cannot_be_shortened_under_the_server(server: ServerMemory) -> None:
    fd = os.open(f"/proc/{server.offer.pid}/fd/{server.offer.fd}", os.O_RDWR)
    try:
        for size in (0, SIZE - 4096, SIZE + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        mapped = mmap.mmap(fd, SIZE)
        mapped[SIZE - 8 :] = b"end here"
    finally:
        os.close(fd)
    (row,) = server.rows([header(SIZE - 8, 8)], [])
    assert row.to_pybytes() == b"end here"


def test_another_file_with_that_number_is_not_touched(server: ServerMemory, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"do not map")
    with path.open("r+b") as file:
        for name in (server.offer.name, f"memfd:{server.offer.name}", str(path)):
            with pytest.raises(ValueError, match="another file"):
                ClientMemory(SharedMemory(os.getpid(), file.fileno(), SIZE, name))


def test_a_server_that_is_gone_or_tells_another_size_is_not_shared_with(server: ServerMemory) -> None:
    offer = server.offer
    with pytest.raises(ValueError, match="size"):
        ClientMemory(SharedMemory(offer.pid, offer.fd, SIZE * 2, offer.name))
    gone = ServerMemory(SIZE)
    gone.close()
    with pytest.raises((OSError, ValueError)):
        ClientMemory(gone.offer)


def test_compressed_and_small_batches_do_not_use_it(client: ClientMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(batch: pa.RecordBatch) -> pa.Buffer:
        raise AssertionError("used")

    monkeypatch.setattr(client, "write", write)
    for codec, rows in (("lz4", 1000), ("none", 10)):
        message, _ = seal(table(rows), codec, client)
        assert not client.refer(header(), message)


def test_a_system_without_sealed_memory_shares_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(shared_memory.os, "memfd_create")
    with pytest.raises(OSError, match="no memory can be shared"):
        ServerMemory()
