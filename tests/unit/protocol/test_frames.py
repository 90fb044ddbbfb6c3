"""Frames and the socket that carries them: borders, sizes, pieces that come late."""

from __future__ import annotations

import os
import socket
import struct
import tracemalloc
from collections.abc import Iterator

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayqueue.client import framed_socket
from rayqueue.client.framed_socket import BUFFER_BYTES, HEAD_BYTES, MESSAGE_BYTES_MAX, FramedSocket, views_of
from rayqueue.errors import ProtocolError
from rayqueue.protocol.frames import (
    FAILURE,
    MAGIC,
    MESSAGE,
    PREFIX_SIZE,
    pack_head,
    split_rows,
    unpack_prefix,
    unpack_sizes,
)

LIMIT = 1 << 22


@pytest.fixture
def ends() -> Iterator[tuple[FramedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    framed = FramedSocket(ours, LIMIT)
    yield framed, theirs
    framed.close()
    theirs.close()


def whole(message: bytes, rows: list[bytes], kind: int = MESSAGE) -> bytes:
    return pack_head(message, [pa.py_buffer(row) for row in rows], kind) + b"".join(rows)


def test_the_prefix_says_what_follows() -> None:
    head = pack_head(b"message", [pa.py_buffer(b"12345"), pa.py_buffer(b"")], FAILURE)
    prefix = unpack_prefix(head, 0)
    assert (prefix.kind, prefix.message_size, prefix.row_count, prefix.rows_size) == (FAILURE, 7, 2, 5)
    assert (len(head), prefix.size) == (prefix.head_size, prefix.head_size + 5)
    assert unpack_sizes(head, 0, prefix) == (5, 0)


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad", bytes(16), MAGIC.to_bytes(2, "little") + b"\x09" + bytes(13)])
def test_other_bytes_are_no_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no frame"):
        unpack_prefix(data, 0)


sizes = st.integers(0, 300) | st.sampled_from([BUFFER_BYTES - 40, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES])


@settings(deadline=None, max_examples=60)
@given(
    frames=st.lists(st.tuples(sizes, st.lists(sizes, max_size=4)), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 100_000), min_size=1, max_size=20),
)
def test_frames_come_out_whole_however_they_are_cut(frames: list[tuple[int, list[int]]], cuts: list[int]) -> None:
    sent = [(os.urandom(size), [os.urandom(row) for row in rows]) for size, rows in frames]
    data = b"".join(whole(message, rows) for message, rows in sent)
    ours, theirs = socket.socketpair()
    framed = FramedSocket(ours, LIMIT)
    got = []
    try:
        at = number = 0
        steps = [*cuts, 50_000]  # not byte by byte through all of it
        theirs.setblocking(False)
        while at < len(data):
            at += theirs.send(data[at : at + steps[number % len(steps)]])
            number += 1
            while (frame := framed.receive_nowait()) is not None:
                got.append((frame[1], [row.to_pybytes() for row in frame[2]]))
        theirs.close()
        with pytest.raises(EOFError):
            framed.receive_nowait()
    finally:
        theirs.close()
        framed.close()
    assert got == sent


def test_the_end_in_the_middle_of_a_frame_is_an_end(ends: tuple[FramedSocket, socket.socket]) -> None:
    framed, peer = ends
    peer.sendall(whole(b"m", [bytes(200_000)])[:100_000])
    peer.shutdown(socket.SHUT_WR)
    assert framed.receive() is None


def test_what_is_too_large_is_refused_before_memory_is_taken(ends: tuple[FramedSocket, socket.socket]) -> None:
    framed, peer = ends
    head = bytearray(pack_head(b""))
    head[8:16] = (1).to_bytes(4, "little") + (LIMIT + HEAD_BYTES).to_bytes(4, "little")
    peer.sendall(head)
    with pytest.raises(ProtocolError, match="socket.request.max.bytes"):
        framed.receive()
    assert pa.total_allocated_bytes() < LIMIT


def test_memory_is_taken_for_bytes_that_have_come_and_not_for_those_announced(
    ends: tuple[FramedSocket, socket.socket],
) -> None:
    framed, peer = ends
    framed.head_bytes = MESSAGE_BYTES_MAX
    peer.sendall(struct.pack("<HBxIII", MAGIC, MESSAGE, MESSAGE_BYTES_MAX, 0, 0) + bytes(2 * BUFFER_BYTES))
    tracemalloc.start()
    try:
        assert framed.receive_nowait() is None
        assert tracemalloc.get_traced_memory()[1] < 10 * BUFFER_BYTES
    finally:
        tracemalloc.stop()


def test_a_large_frame_whose_sizes_do_not_add_up_is_refused_before_memory_is_taken(
    ends: tuple[FramedSocket, socket.socket],
) -> None:
    framed, peer = ends
    taken = pa.total_allocated_bytes()
    peer.sendall(struct.pack("<HBxIIIII", MAGIC, MESSAGE, 0, 2, LIMIT - 100, 1, 2))
    with pytest.raises(ProtocolError, match="have 3 bytes"):
        framed.receive_nowait()
    assert pa.total_allocated_bytes() == taken


def test_who_sends_a_byte_now_and_then_has_no_more_time_than_others(
    ends: tuple[FramedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    framed, peer = ends
    frame, now = whole(b"hello", []), [0.0]

    def tick() -> float:
        """A second passes, and another byte comes."""
        peer.sendall(frame[int(now[0]) : int(now[0]) + 1])
        now[0] += 1
        return now[0]

    monkeypatch.setattr(framed_socket.time, "monotonic", tick)
    with pytest.raises(TimeoutError, match="not all of it"):
        framed.receive_within(len(frame) / 2)
    assert now[0] < len(frame)


def test_sending_without_waiting_stops_when_the_peer_reads_nothing(ends: tuple[FramedSocket, socket.socket]) -> None:
    framed, peer = ends
    rows = [os.urandom(1 << 20) for _ in range(4)]
    views = views_of(pack_head(b"m", [pa.py_buffer(row) for row in rows]), [pa.py_buffer(row) for row in rows])
    total = sum(view.nbytes for view in views)
    left = framed.send_some(views, wait=False)
    while (fewer := framed.send_some(left, wait=False)) and fewer is not left:
        left = fewer
    assert 0 < sum(view.nbytes for view in left) < total
    got = b""
    while left:
        got += peer.recv(1 << 20)
        left = framed.send_some(left, wait=False)
    while len(got) < total:
        got += peer.recv(1 << 20)
    assert got == whole(b"m", rows)


@pytest.mark.parametrize("rows", [[b"one"], [b"one", b"", b"three"]])
def test_rows_share_the_memory_they_came_in(rows: list[bytes]) -> None:
    data = pa.py_buffer(b"".join(rows))
    split = split_rows(data, [len(row) for row in rows])
    assert [row.to_pybytes() for row in split] == rows
    assert split[0].address == data.address


def test_empty_rows_have_no_piece() -> None:
    assert len(views_of(bytes(PREFIX_SIZE), [pa.py_buffer(b""), pa.py_buffer(b"x")])) == 2
