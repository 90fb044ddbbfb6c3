"""The Flight server and the connection against each other: replies, errors, tokens, foreign bytes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pyarrow.flight as fl
import pytest

from rayqueue import errors
from rayqueue.actors.calls import typed
from rayqueue.actors.flight import FlightServer
from rayqueue.client.connection import Channel
from rayqueue.protocol.messages import PROTOCOL_VERSION, Empty, Identity, Registered

TOKEN = "secret"


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
        max_message_bytes=4 << 20,
    )
    yield one
    one.shutdown()


@pytest.fixture
def channel(server: FlightServer) -> Iterator[Channel]:
    one = Channel("127.0.0.1", server.port, TOKEN)
    yield one
    one.close()


def test_actions_reply_and_fail_by_their_own_class(channel: Channel) -> None:
    assert channel.call("double", Registered(21), Registered, 5) == Registered(42)
    assert channel.call("identify", Empty(), Identity, 5).broker_id == 3
    with pytest.raises(errors.ProtocolError, match="double"):
        channel.call("halve", Empty(), Empty, 5)
    with pytest.raises(errors.ProtocolError, match="not a Registered"):
        channel.call("double", ["x", "y"], Registered, 5)
    with pytest.raises(errors.RayQueueError, match="ZeroDivisionError"):
        channel.call("crash", Empty(), Empty, 5)


@pytest.mark.parametrize("token", [None, "wrong", ""])
def test_without_the_token_nothing_is_served(server: FlightServer, token: str | None) -> None:
    stranger = Channel("127.0.0.1", server.port, token)
    with pytest.raises(errors.AuthenticationError, match="RAYQUEUE_TOKEN"):
        stranger.call("identify", Empty(), Identity, 5)
    stranger.close()


def test_nobody_listens() -> None:
    with pytest.raises(errors.BrokerNotAvailable, match="127.0.0.1:1 cannot be reached"):
        Channel("127.0.0.1", 1).call("identify", Empty(), Identity, 5)


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
