"""The data plane's server and client against each other: hello, token, rows, errors, foreign bytes, deaf clients."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from rayqueue import errors
from rayqueue.actors.calls import typed
from rayqueue.actors.data_server import HELLO_BYTES, DataServer
from rayqueue.actors.exchange import Exchange
from rayqueue.client.data_channel import DataChannel
from rayqueue.client.framed_socket import FramedSocket
from rayqueue.protocol import codec
from rayqueue.protocol.frames import MAGIC, MESSAGE, pack_head
from rayqueue.protocol.messages import PROTOCOL_VERSION, Empty, Hello, Identity, Registered, Welcome

TOKEN = "secret"
MAX_BYTES = 4 << 20


def echo(exchange: Exchange) -> None:
    while (received := exchange.receive()) is not None:
        exchange.send(*received)


def refuse(exchange: Exchange) -> None:
    assert exchange.receive() is not None
    raise errors.OffsetOutOfRange("not that one")


def crash(body: bytes) -> Empty:
    raise ZeroDivisionError("a fault of ours")


class Flood:
    """Floods a client that does not read; notes when all was written, or dropped."""

    def __init__(self) -> None:
        self.left = threading.Semaphore(0)

    def __call__(self, exchange: Exchange) -> None:
        for _ in range(64):
            exchange.send(b"x", [pa.py_buffer(bytes(1 << 20))], written=self.left.release)
        while exchange.receive() is not None:
            pass


@pytest.fixture
def flood() -> Flood:
    return Flood()


@pytest.fixture
def server(flood: Flood) -> Iterator[DataServer]:
    one = DataServer(
        "127.0.0.1",
        0,
        identity=Identity(PROTOCOL_VERSION, "cluster", "replica", 3, "incarnation", os.getpid()),
        token=TOKEN,
        actions={"double": typed(Registered, lambda r: Registered(2 * r.index)), "crash": crash},
        exchanges={"echo": echo, "refuse": refuse, "flood": flood},
        max_message_bytes=MAX_BYTES,
    )
    yield one
    one.shutdown()


@pytest.fixture
def channel(server: DataServer) -> DataChannel:
    return DataChannel("127.0.0.1", server.port, TOKEN)


def hello(kind: str = "echo", **fields: object) -> Hello:
    return Hello(PROTOCOL_VERSION, kind, **fields)  # type: ignore[arg-type]


def test_calls_reply_and_fail_by_their_own_class(channel: DataChannel) -> None:
    assert channel.call("double", Registered(21), Registered, 5) == Registered(42)
    assert channel.call("identify", Empty(), Identity, 5).broker_id == 3
    with pytest.raises(errors.ProtocolError, match="double"):
        channel.call("halve", Empty(), Empty, 5)
    with pytest.raises(errors.ProtocolError, match="not a Registered"):
        channel.call("double", ["x", "y"], Registered, 5)
    with pytest.raises(errors.RayQueueError, match="ZeroDivisionError"):
        channel.call("crash", Empty(), Empty, 5)


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_without_the_token_nothing_is_served(server: DataServer, token: str | None) -> None:
    stranger = DataChannel("127.0.0.1", server.port, token)
    with pytest.raises(errors.AuthenticationError, match="RAYQUEUE_TOKEN"):
        stranger.call("identify", Empty(), Identity, 5)
    with pytest.raises(errors.AuthenticationError, match="RAYQUEUE_TOKEN"):
        stranger.exchange(hello(), 5)


def test_why_an_exchange_ends_is_told_though_somebody_else_is_just_writing() -> None:
    def fail(exchange: Exchange) -> None:
        exchange._writing.acquire()  # as a thread does that pushes something
        threading.Timer(0.05, exchange._writing.release).start()
        raise errors.OffsetOutOfRange("not that one")

    identity = Identity(PROTOCOL_VERSION, "cluster", "replica", 3, "incarnation", os.getpid())
    server = DataServer("127.0.0.1", 0, identity=identity, exchanges={"fail": fail})
    exchange = DataChannel("127.0.0.1", server.port).exchange(hello("fail"), 5)
    with pytest.raises(errors.OffsetOutOfRange):
        exchange.receive_within(5)
    exchange.close()
    server.shutdown()


def test_nobody_listens() -> None:
    with pytest.raises(errors.BrokerNotAvailable, match="127.0.0.1:1 cannot be reached"):
        DataChannel("127.0.0.1", 1).call("identify", Empty(), Identity, 5)


def test_a_server_that_accepts_and_says_nothing_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = DataChannel("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(errors.RequestTimeout, match="did not answer in time"):
            channel.exchange(hello(), 0.1)


@pytest.mark.parametrize(
    ("opening", "error", "text"),
    [
        (hello(cluster_id="other"), errors.ClusterMismatch, "cluster other was called"),
        (hello(broker_id=4), errors.ClusterMismatch, "broker 4"),
        (hello(incarnation="old"), errors.ClusterMismatch, "incarnation old"),
        (hello("dance"), errors.ProtocolError, "no exchange 'dance'"),
        (Hello(99, "echo"), errors.ProtocolError, "install one rayqueue"),
    ],
)
def test_a_handshake_for_somebody_else(channel: DataChannel, opening: Hello, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        channel.exchange(opening, 5)


@pytest.mark.parametrize(
    "sizes", [(), (0,), (1, 100_000, 0), (70_000,), (1 << 20, 3, 1 << 20), (1,) * 3000], ids=lambda s: f"{len(s)} rows"
)
def test_rows_come_back_as_they_went(channel: DataChannel, sizes: tuple[int, ...]) -> None:
    exchange = channel.exchange(hello(cluster_id="cluster", broker_id=3, incarnation="incarnation"), 5)
    rows = [pa.py_buffer(os.urandom(size)) for size in sizes]
    for message in (b"message", b"", os.urandom(200_000)):
        exchange.send(message, rows)
        back, got = exchange.receive()
        assert back == message
        assert [row.to_pybytes() for row in got] == [row.to_pybytes() for row in rows]
    exchange.close()


def test_many_frames_at_once_keep_their_borders(channel: DataChannel) -> None:
    exchange = channel.exchange(hello(), 5)
    sent = [(os.urandom(n % 90), [pa.py_buffer(os.urandom(17 * n % 9000))]) for n in range(800)]
    writer = threading.Thread(target=lambda: [exchange.send(*one) for one in sent])
    writer.start()
    for message, (row,) in sent:
        back, (got,) = exchange.receive()
        assert (back, got) == (message, row)
    writer.join(5)
    exchange.close()


def test_an_error_in_the_middle_keeps_its_class(channel: DataChannel) -> None:
    exchange = channel.exchange(hello("refuse"), 5)
    exchange.send(b"go")
    exchange.send(b"and more that nobody reads", [pa.py_buffer(bytes(1 << 20))])
    with pytest.raises(errors.OffsetOutOfRange, match="not that one"):
        exchange.receive()
    exchange.close()


def test_close_from_another_thread_ends_a_waiting_receive(channel: DataChannel) -> None:
    exchange = channel.exchange(hello(), 5)
    raised, started = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        with pytest.raises(errors.BrokerNotAvailable):
            exchange.receive()
        raised.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert started.wait(5)
    exchange.close()
    assert raised.wait(5)
    thread.join(5)
    with pytest.raises(errors.BrokerNotAvailable):
        exchange.send(b"x")


def test_receive_nowait_tells_nothing_yet_from_the_end(server: DataServer, channel: DataChannel) -> None:
    exchange = channel.exchange(hello(), 5)
    assert exchange.receive_nowait() is None
    exchange.send(b"x")
    assert exchange.receive() == (b"x", [])
    server.shutdown()
    with pytest.raises(errors.BrokerNotAvailable, match="ended the connection|broke"):
        exchange.receive()
    with pytest.raises(errors.BrokerNotAvailable):
        exchange.receive_nowait()
    exchange.close()


def test_a_client_that_stops_reading_holds_up_nobody_and_leaves_nothing(channel: DataChannel, flood: Flood) -> None:
    silent = channel.exchange(hello("flood"), 5)
    other = channel.exchange(hello(), 5)
    for _ in range(20):
        other.send(b"still here")
        assert other.receive() == (b"still here", [])
    other.close()
    silent.close()
    for _ in range(64):
        assert flood.left.acquire(timeout=5), "what was sent to it is given back"


def test_a_client_that_reads_late_gets_all_of_it_in_order(channel: DataChannel, flood: Flood) -> None:
    late = channel.exchange(hello("flood"), 5)
    assert flood.left.acquire(timeout=5)
    for _ in range(64):
        message, rows = late.receive()
        assert (message, rows[0].size) == (b"x", 1 << 20)
    late.close()


def raw(server: DataServer, data: bytes) -> bytes:
    """What the server says to these bytes until it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), 5) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        said = b""
        while chunk := sock.recv(65536):
            said += chunk
        return said


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n" + os.urandom(4096),
        pack_head(b""),
        pack_head(b"\xff\xfe garbage"),
        pack_head(codec.encode(["x"] * 6)),
        pack_head(codec.encode(hello(token=TOKEN)), [pa.py_buffer(b"row")]) + b"row",
        pack_head(codec.encode(hello(token=TOKEN)))[:-3],
        struct.pack("<HBxIII", MAGIC, MESSAGE, HELLO_BYTES << 8, 0, 0),
        struct.pack("<HBxIII", MAGIC, MESSAGE, 10, 0xFFFFFFFF, 0xFFFFFFFF),
        struct.pack("<HBxIII", MAGIC, 7, 10, 0, 0) + bytes(10),
    ],
)
def test_foreign_bytes_end_their_own_connection_only(server: DataServer, channel: DataChannel, data: bytes) -> None:
    raw(server, data)
    assert channel.call("double", Registered(1), Registered, 5) == Registered(2)


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack("<HBxIII", MAGIC, MESSAGE, 0, 1, MAX_BYTES << 1),
        struct.pack("<HBxIII", MAGIC, MESSAGE, 0, 2, 8) + struct.pack("<II", 4, 5) + bytes(8),
        struct.pack("<HBxIII", MAGIC, 1, 1, 0, 0) + b"x",
        b"nonsense and more of it",
    ],
    ids=["too large", "sizes that do not add up", "a failure from a client", "nonsense"],
)
def test_bad_frames_end_their_own_exchange_with_a_reason(
    server: DataServer, channel: DataChannel, frame: bytes
) -> None:
    sock = socket.create_connection(("127.0.0.1", server.port), 5)
    framed = FramedSocket(sock, MAX_BYTES)
    framed.send(pack_head(codec.encode(hello(token=TOKEN))))
    welcomed = framed.receive()
    assert welcomed is not None
    assert codec.decode_reply(welcomed[1], Welcome).broker_id == 3
    sock.sendall(frame)
    last = framed.receive()
    assert last is not None
    with pytest.raises(errors.ProtocolError):
        codec.decode_reply(last[1], object)
    assert framed.receive() is None
    framed.close()
    assert channel.call("double", Registered(1), Registered, 5) == Registered(2)


def test_shutdown_ends_connections_and_frees_the_port(server: DataServer, channel: DataChannel) -> None:
    exchange = channel.exchange(hello(), 5)
    server.shutdown()
    with pytest.raises(errors.BrokerNotAvailable):
        exchange.receive()
    again = DataServer("127.0.0.1", server.port, identity=server.identity)
    assert DataChannel("127.0.0.1", again.port).call("identify", Empty(), Identity, 5).broker_id == 3
    again.shutdown()
    with pytest.raises(OSError, match="in use"), socket.create_server(("127.0.0.1", 0)) as taken:
        DataServer("127.0.0.1", taken.getsockname()[1], identity=server.identity)
