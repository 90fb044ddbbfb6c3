"""The Flight server and the connection against each other: replies, errors, tokens, handshakes, foreign bytes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from rayqueue import errors
from rayqueue.actors.flight import Exchange, FlightServer, typed
from rayqueue.client.connection import Channel
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Empty, Hello, Identity, Registered
from rayqueue.protocol.schemas import WIRE_SCHEMA

TOKEN = "secret"


def echo(exchange: Exchange) -> None:
    exchange.open_outbox()
    while (received := exchange.receive()) is not None:
        exchange.send(*received)


def refuse(exchange: Exchange) -> None:
    assert exchange.receive() is not None
    raise errors.OffsetOutOfRange("not that one")


def deaf(exchange: Exchange) -> None:
    """Floods a client that does not read; ends when it is gone."""
    exchange.open_outbox()
    for _ in range(64):
        exchange.send(b"x", [pa.py_buffer(bytes(1 << 20))])
    while exchange.receive() is not None:
        pass


def count(body: bytes) -> Iterator[Registered]:
    for index in range(3):
        yield Registered(index)
    raise errors.StorageError("enough")


def crash(body: bytes) -> Empty:
    raise ZeroDivisionError("a fault of ours")


@pytest.fixture(scope="module")
def server() -> Iterator[FlightServer]:
    one = FlightServer(
        "127.0.0.1",
        0,
        identity=Identity(PROTOCOL_VERSION, "cluster", "replica", 3, "incarnation", os.getpid()),
        token=TOKEN,
        actions={"double": typed(Registered, lambda r: Registered(2 * r.index)), "crash": crash},
        streams={"count": count},
        exchanges={"echo": echo, "refuse": refuse, "deaf": deaf},
        max_message_bytes=4 << 20,
    )
    yield one
    one.shutdown()


@pytest.fixture
def channel(server: FlightServer) -> Iterator[Channel]:
    one = Channel("127.0.0.1", server.port, TOKEN)
    yield one
    one.close()


def hello(kind: str = "echo", **fields: object) -> Hello:
    return Hello(PROTOCOL_VERSION, kind, **fields)  # type: ignore[arg-type]


def test_actions_reply_and_fail_by_their_own_class(channel: Channel) -> None:
    assert channel.call("double", Registered(21), Registered, 5) == Registered(42)
    assert channel.call("identify", Empty(), Identity, 5).broker_id == 3
    with pytest.raises(errors.ProtocolError, match="double"):
        channel.call("halve", Empty(), Empty, 5)
    with pytest.raises(errors.ProtocolError, match="not a Registered"):
        channel.call("double", ["x", "y"], Registered, 5)
    with pytest.raises(errors.RayQueueError, match="ZeroDivisionError"):
        channel.call("crash", Empty(), Empty, 5)


def test_a_stream_yields_and_then_fails(channel: Channel) -> None:
    got = []
    with pytest.raises(errors.StorageError, match="enough"):
        for value in channel.watch("count", Empty(), Registered, 5):
            got.append(value.index)
    assert got == [0, 1, 2]


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_without_the_token_nothing_is_served(server: FlightServer, token: str | None) -> None:
    stranger = Channel("127.0.0.1", server.port, token)
    with pytest.raises(errors.AuthenticationError, match="RAYQUEUE_TOKEN"):
        stranger.call("identify", Empty(), Identity, 5)
    with pytest.raises(errors.AuthenticationError, match="RAYQUEUE_TOKEN"):
        stranger.exchange(hello(), 5)
    stranger.close()


def test_nobody_listens() -> None:
    with pytest.raises(errors.BrokerNotAvailable, match="127.0.0.1:1 cannot be reached"):
        Channel("127.0.0.1", 1).call("identify", Empty(), Identity, 5)


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
def test_a_handshake_for_somebody_else(channel: Channel, opening: Hello, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        channel.exchange(opening, 5)


def test_rows_come_back_as_they_went(channel: Channel) -> None:
    exchange = channel.exchange(hello(cluster_id="cluster", broker_id=3, incarnation="incarnation"), 5)
    rows = [pa.py_buffer(os.urandom(size)) for size in (1, 100_000, 0)]
    exchange.send(b"message", rows)
    message, back = exchange.receive()
    assert message == b"message"
    assert [row.to_pybytes() for row in back] == [row.to_pybytes() for row in rows]
    exchange.send(b"alone")
    assert exchange.receive() == (b"alone", [])
    exchange.close()


def test_an_error_in_the_middle_keeps_its_class(channel: Channel) -> None:
    exchange = channel.exchange(hello("refuse"), 5)
    exchange.send(b"go")
    with pytest.raises(errors.OffsetOutOfRange, match="not that one"):
        exchange.receive()
    exchange.close()


def test_close_from_another_thread_ends_a_waiting_receive(channel: Channel) -> None:
    exchange = channel.exchange(hello(), 5)
    raised = threading.Event()
    started = threading.Event()

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


def test_a_client_that_stops_reading_holds_up_nobody(channel: Channel) -> None:
    silent = channel.exchange(hello("deaf"), 5)
    other = channel.exchange(hello(), 5)
    for _ in range(20):
        other.send(b"still here")
        assert other.receive() == (b"still here", [])
    other.close()
    silent.close()


def foreign_exchange(server: FlightServer, command: bytes, schema: pa.Schema, batch: pa.RecordBatch | None) -> None:
    """Speaks Flight, not our protocol, and raises what the server says to it."""
    with fl.connect(f"grpc://127.0.0.1:{server.port}") as client:
        options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {TOKEN}".encode())], timeout=10)
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(command), options)
        with writer:
            writer.begin(schema)
            codec.decode_reply(reader.read_chunk().app_metadata.to_pybytes(), object)
            if batch is not None:
                writer.write_with_metadata(batch, b"m")
            writer.done_writing()
            while True:
                reader.read_chunk()


@pytest.mark.parametrize("command", [b"", b"\xff\xfe garbage", codec.encode(["x"] * 6)])
def test_a_foreign_greeting_gets_a_typed_error(server: FlightServer, channel: Channel, command: bytes) -> None:
    with pytest.raises((errors.ProtocolError, fl.FlightError)):
        foreign_exchange(server, command, WIRE_SCHEMA, None)
    assert channel.call("double", Registered(1), Registered, 5) == Registered(2)


@pytest.mark.parametrize(
    "batch",
    [
        pa.record_batch({"data": pa.array(["text"])}),
        pa.record_batch({"other": pa.array([b"x"], pa.large_binary())}),
        pa.record_batch({"data": pa.array([bytes(5 << 20)], pa.large_binary())}),
    ],
    ids=["strings", "other name", "too large"],
)
def test_foreign_batches_end_their_own_stream_only(
    server: FlightServer, channel: Channel, batch: pa.RecordBatch
) -> None:
    with pytest.raises(fl.FlightError) as caught:
        foreign_exchange(server, codec.encode(hello()), batch.schema, batch)
    assert "data" in str(caught.value) or "row" in str(caught.value) or "max.bytes" in str(caught.value)
    assert channel.call("double", Registered(1), Registered, 5) == Registered(2)


def test_plain_bytes_on_the_port_disturb_nobody(server: FlightServer, channel: Channel) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 5) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(4096))
        assert channel.call("double", Registered(1), Registered, 5) == Registered(2)


def test_a_forked_child_is_told_at_once_and_does_not_hang(server: FlightServer, channel: Channel) -> None:
    assert channel.call("double", Registered(1), Registered, 5) == Registered(2)
    child = os.fork()
    if child == 0:  # pytest must see nothing of this process
        try:
            Channel("127.0.0.1", server.port, TOKEN).call("double", Registered(1), Registered, 5)
        except errors.RayQueueError as error:
            os._exit(0 if "spawn" in str(error) else 2)
        finally:
            os._exit(3)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_port_that_somebody_listens_on_is_not_shared(server: FlightServer) -> None:
    with pytest.raises(OSError, match="in use"):
        FlightServer("127.0.0.1", server.port, identity=server.identity)


def test_other_flight_calls_are_refused(server: FlightServer) -> None:
    with fl.connect(f"grpc://127.0.0.1:{server.port}") as client:
        options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {TOKEN}".encode())], timeout=10)
        with pytest.raises((NotImplementedError, fl.FlightError)):
            client.do_get(fl.Ticket(b"x"), options).read_all()
