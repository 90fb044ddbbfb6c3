"""What the server of the data plane bears: silence, too many callers, no threads, hostile sizes, deaf clients."""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from rayqueue import errors
from rayqueue.actors import data_server
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.exchange import Exchange
from rayqueue.client.data_channel import UNACKNOWLEDGED_S, DataChannel
from rayqueue.client.data_channel import Exchange as ClientExchange
from rayqueue.client.framed_socket import MESSAGE_BYTES_MAX, ROWS_MAX, FramedSocket
from rayqueue.protocol import codec
from rayqueue.protocol.frames import MAGIC, MESSAGE, pack_head
from rayqueue.protocol.messages import PROTOCOL_VERSION, Hello, Identity

TIMEOUT_S = 5.0
IDENTITY = Identity(PROTOCOL_VERSION, "cluster", "replica", 3, "incarnation", os.getpid())


class Handlers:
    """What the server does with its callers.

    Attributes:
        parked: exchanges whose handler only reads (the test sends on them, as an actor's loop does), and its thread.
    """

    def __init__(self) -> None:
        self.parked: queue.Queue[tuple[Exchange, threading.Thread]] = queue.Queue()

    def echo(self, exchange: Exchange) -> None:
        while (received := exchange.receive()) is not None:
            exchange.send(*received)

    def park(self, exchange: Exchange) -> None:
        self.parked.put((exchange, threading.current_thread()))
        while exchange.receive() is not None:
            pass

    def serve(self, host: str = "127.0.0.1") -> DataServer:
        exchanges = {"echo": self.echo, "park": self.park}
        return DataServer(host, 0, identity=IDENTITY, exchanges=exchanges, max_message_bytes=64 << 20)


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def server(handlers: Handlers) -> Iterator[DataServer]:
    one = handlers.serve()
    yield one
    one.shutdown()


def opened(server: DataServer, kind: str = "echo", host: str = "127.0.0.1") -> ClientExchange:
    return DataChannel(host, server.port).exchange(Hello(PROTOCOL_VERSION, kind), TIMEOUT_S)


def echoes(exchange: ClientExchange) -> bool:
    exchange.send(b"still here")
    return exchange.receive_within(TIMEOUT_S) == b"still here"


def caller(server: DataServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of threads that cannot be started."""
    names: set[str] = set()
    start = threading.Thread.start

    def refusing(self: threading.Thread) -> None:
        if self.name in names:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    return names


# --- callers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", b"\x52", pack_head(codec.encode(Hello(PROTOCOL_VERSION, "echo")))[:-1]])
def test_a_caller_that_does_not_say_who_it_is_is_hung_up_on(
    server: DataServer, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(data_server, "HELLO_S", 0.02)
    with caller(server) as silent:
        silent.sendall(said)
        assert silent.recv(100) == b"", "it is told nothing, and not waited for"
    monkeypatch.setattr(data_server, "HELLO_S", TIMEOUT_S)
    assert echoes(opened(server))


def test_who_has_said_hello_may_be_silent(server: DataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "HELLO_S", 0.02)
    with caller(server) as silent:
        quiet = opened(server, "park")
        assert silent.recv(100) == b"", "so that time has passed"
    assert quiet.receive_nowait() is None
    quiet.close()


def test_only_so_many_are_served_and_the_next_when_one_has_gone(
    server: DataServer, handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_server, "CONNECTIONS_MAX", 2)
    first, second = opened(server, "park"), opened(server)
    for _ in range(3):
        with caller(server) as third:
            assert third.recv(100) == b""
    assert echoes(second)
    first.close()
    _, thread = handlers.parked.get(timeout=TIMEOUT_S)
    thread.join(TIMEOUT_S)
    assert echoes(opened(server))


def test_a_caller_that_gets_no_thread_is_hung_up_on_and_takes_no_place(
    server: DataServer, threadless: set[str]
) -> None:
    before = opened(server)
    threadless.add("data-connection")
    for _ in range(3):
        with caller(server) as refused:
            assert refused.recv(100) == b""
    assert echoes(before)
    threadless.clear()
    after = opened(server)
    assert echoes(after)
    assert "2 connections" in repr(server)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_every_address_means_both_families(handlers: Handlers) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    server = handlers.serve("::")
    try:
        assert all(echoes(opened(server, host=host)) for host in ("127.0.0.1", "::1"))
    finally:
        server.shutdown()


# --- clients that do not read -----------------------------------------------------------------------------------------


def fill(exchange: Exchange, written: list[int]) -> int:
    """Sends until the connection takes no more; how many messages."""
    count = 0
    while exchange.idle:
        exchange.send(b"m", [pa.py_buffer(bytes(1 << 20))], lambda: written.append(1))
        count += 1
    return count


def test_a_client_whose_writer_gets_no_thread_is_given_up_and_not_who_sends(
    server: DataServer, handlers: Handlers, threadless: set[str]
) -> None:
    threadless.add("exchange-writer")
    deaf, other = opened(server, "park"), opened(server)
    exchange, thread = handlers.parked.get(timeout=TIMEOUT_S)
    written: list[int] = []
    count = fill_until_broken(exchange, written)
    assert len(written) == count, "what was for it is given back"
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    with pytest.raises(errors.BrokerNotAvailable):
        while True:
            deaf.receive_within(TIMEOUT_S)
    assert echoes(other)


def fill_until_broken(exchange: Exchange, written: list[int]) -> int:
    """Sends to one that does not read, a message more than is ever left unwritten."""
    count = 0
    while len(written) == count:
        exchange.send(b"m", [pa.py_buffer(bytes(1 << 20))], lambda: written.append(1))
        count += 1
        if exchange._broken:
            break
    return count


def test_closing_a_client_that_does_not_read_gives_back_what_was_for_it(server: DataServer, handlers: Handlers) -> None:
    deaf, other = opened(server, "park"), opened(server)
    exchange, thread = handlers.parked.get(timeout=TIMEOUT_S)
    written: list[int] = []
    count = fill(exchange, written)
    assert 0 < len(written) < count
    assert echoes(other)
    deaf.close()
    thread.join(TIMEOUT_S)
    assert len(written) == count
    exchange.send(b"m", None, lambda: written.append(1))
    assert len(written) == count + 1, "what comes after the end is dropped"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
@pytest.mark.parametrize(("kind", "after_s"), [("fetch", UNACKNOWLEDGED_S), ("produce", 0.0)])
def test_a_fetch_connection_breaks_by_itself_when_what_it_sent_stays_unacknowledged(kind: str, after_s: float) -> None:
    """A producer's does not: `SendGuard` looks after its sends, and a slow server may take long."""
    server = DataServer("127.0.0.1", 0, identity=IDENTITY, exchanges={kind: Handlers().park})
    exchange = opened(server, kind)
    sock = exchange._framed._sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == after_s * 1000
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    exchange.close()
    server.shutdown()


# --- hostile sizes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (struct.pack("<HBxIII", MAGIC, MESSAGE, 1, ROWS_MAX + 1, 1), "rows"),
        (struct.pack("<HBxIII", MAGIC, MESSAGE, MESSAGE_BYTES_MAX + 1, 0, 0), "bytes beside them"),
        (struct.pack("<HBxIII", MAGIC, MESSAGE, 0, 0, 1), "no rows"),
        (struct.pack("<HBxIII", MAGIC, MESSAGE, 0, 2, 60 << 20) + struct.pack("<II", 1, 2) + bytes(70_000), "prefix"),
        (struct.pack("<HBxIII", MAGIC, MESSAGE, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF), "socket.request.max.bytes"),
    ],
    ids=["too many rows", "too long a message", "bytes of no rows", "large, and do not add up", "all that can be said"],
)
def test_hostile_sizes_end_their_exchange_with_a_typed_error(server: DataServer, frame: bytes, text: str) -> None:
    other = opened(server)
    taken = pa.total_allocated_bytes()
    with caller(server) as sock:
        framed = FramedSocket(sock, 1 << 20)
        framed.send(pack_head(codec.encode(Hello(PROTOCOL_VERSION, "echo"))))
        assert framed.receive_within(TIMEOUT_S) is not None
        sock.sendall(frame)
        last = framed.receive_within(TIMEOUT_S)
        assert last is not None
        with pytest.raises(errors.ProtocolError, match=text):
            codec.decode_reply(last[1], object)
    assert pa.total_allocated_bytes() - taken < 1 << 20
    assert echoes(other)
