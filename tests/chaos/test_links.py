"""Links forward what comes, keep silent while they are cut, and lose nothing over it."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.chaos.links import ADVERTISED_HOST, LISTEN_HOST, Links
from tests.integration.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="all of 127.0.0.0/8 is loopback, and /proc is there")

WAIT_S = 10.0
BIG = 3 << 20


@pytest.fixture
def links() -> Iterator[Links]:
    made = Links()
    yield made
    made.close()


@pytest.fixture
def echo(links: Links) -> Iterator[int]:
    """A server that sends back what it gets until the client ends its side; its port."""
    server = socket.create_server((LISTEN_HOST, links.port))
    server.settimeout(WAIT_S)

    def serve(one: socket.socket) -> None:
        with one:
            while data := one.recv(65536):
                one.sendall(data)

    def accept() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return  # closed: the test is over
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield links.port
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection((ADVERTISED_HOST, port), WAIT_S)


def receive(one: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := one.recv(65536)):
        data += more
    return data


def silent(one: socket.socket) -> bool:
    one.settimeout(0.3)
    try:
        return one.recv(1) is None
    except TimeoutError:
        return True
    finally:
        one.settimeout(WAIT_S)


def test_what_is_sent_arrives_whole_and_an_end_of_one_side_is_passed_on(echo: int) -> None:
    data = os.urandom(BIG)
    with connect(echo) as one:
        sender = threading.Thread(target=lambda: (one.sendall(data), one.shutdown(socket.SHUT_WR)))
        sender.start()
        assert receive(one, BIG + 1) == data
        sender.join(WAIT_S)


def test_a_cut_link_is_silent_and_what_was_sent_meanwhile_comes_late(links: Links, echo: int) -> None:
    with connect(echo) as before, connect(echo) as other:
        before.sendall(b"a")
        assert receive(before, 1) == b"a"
        with links.cut(lambda pid, port: pid == os.getpid() and port == echo, [os.getpid()]) as count:
            assert count() == 2
            before.sendall(b"b")
            with connect(echo) as during:
                during.sendall(b"c")
                eventually(lambda: count() == 3, WAIT_S)
                assert silent(before) and silent(during) and silent(other)
        assert receive(before, 1) == b"b"


def test_a_socket_of_ipv6_with_a_mapped_address_is_known_too(links: Links, echo: int) -> None:
    with socket.socket(socket.AF_INET6) as one:  # as gRPC opens them
        one.settimeout(WAIT_S)
        one.connect((f"::ffff:{ADVERTISED_HOST}", echo))
        with links.cut(lambda pid, port: pid == os.getpid(), [os.getpid()]) as count:
            assert eventually(lambda: count() == 1, WAIT_S)


def test_other_processes_and_other_ports_are_not_cut(links: Links, echo: int) -> None:
    with connect(echo) as one:
        for cut in (lambda pid, port: pid == 1, lambda pid, port: port == echo + 1):
            with links.cut(cut, [os.getpid()]) as count:
                one.sendall(b"x")
                assert receive(one, 1) == b"x"
                assert count() == 0


def test_where_nobody_listens_the_connection_ends(links: Links) -> None:
    with connect(links.port + 1) as one:
        assert one.recv(1) == b""
