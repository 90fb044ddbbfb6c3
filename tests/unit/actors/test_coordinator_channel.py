"""Requests to whichever coordinator is active: who is asked, in which order, and what is never sent twice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rayqueue.actors import coordinator_channel
from rayqueue.actors.calls import typed
from rayqueue.actors.coordinator_addresses import CoordinatorAddresses
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.actors.data_server import DataServer
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, NotController, RequestTimeout
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, Registered

WAIT_S = 20.0
HOST = "127.0.0.1"
NOBODY = (HOST, 1)


class Coordinator:
    """Answers `ask` with twice the number, or as `answer` says; counts what it was asked."""

    def __init__(self, cluster_id: str = "c", answer: Callable[[Registered], Any] | None = None) -> None:
        self.asked = 0
        self.answer = answer or (lambda request: Registered(2 * request.index))
        identity = Identity(PROTOCOL_VERSION, cluster_id, "coordinator", -1, "i", 0)
        self.server = DataServer(HOST, 0, identity=identity, actions={"ask": typed(Registered, self._ask)})
        self.address = HOST, self.server.port

    def _ask(self, request: Registered) -> Any:
        self.asked += 1
        return self.answer(request)


def standby(_: Registered) -> Registered:
    raise NotController("a standby")


@pytest.fixture
def made() -> Iterator[Callable[..., Any]]:
    everything: list[Any] = []

    def keep(one: Any) -> Any:
        everything.append(one)
        return one

    yield keep
    for one in everything:
        one.close() if isinstance(one, CoordinatorChannel) else one.server.shutdown()


def channel(*addresses: tuple[str, int]) -> CoordinatorChannel:
    return CoordinatorChannel(CoordinatorAddresses(addresses), "c", None)


def ask(one: CoordinatorChannel, number: int = 21, timeout_s: float = WAIT_S) -> int:
    return one.call("ask", Registered(number), Registered, timeout_s).index


# --- addresses --------------------------------------------------------------------------------------------------------


def test_the_last_good_one_comes_first_and_those_that_failed_last() -> None:
    a, b, c, d = ((HOST, port) for port in range(1, 5))
    addresses = CoordinatorAddresses([a, b, c, a])
    assert addresses.candidates() == [a, b, c] and addresses.active is None
    addresses.good(b)
    assert addresses.candidates() == [b, a, c] and addresses.active == b
    addresses.failed(b)
    assert addresses.candidates() == [a, c, b] and addresses.active == b, "until another one serves"
    addresses.learn([d])
    assert addresses.candidates() == [a, c, b, d], "those of the options stay"
    addresses.good(d)
    addresses.learn([c])
    assert addresses.candidates() == [a, c, b]


# --- calls ------------------------------------------------------------------------------------------------------------


def test_a_standby_and_a_dead_address_are_passed_over_and_not_asked_again(made: Callable[..., Any]) -> None:
    waiting, active = made(Coordinator(answer=standby)), made(Coordinator())
    one = made(channel(NOBODY, waiting.address, active.address))
    assert [ask(one, number) for number in (1, 2, 3)] == [2, 4, 6]
    assert (waiting.asked, active.asked) == (1, 3)


def test_another_cluster_is_passed_over_and_named_when_there_is_no_other(made: Callable[..., Any]) -> None:
    stranger, active = made(Coordinator("other")), made(Coordinator())
    assert ask(made(channel(stranger.address, active.address))) == 42
    with pytest.raises(ClusterMismatch, match="other"):
        ask(made(channel(stranger.address)))
    assert stranger.asked == 0


def test_a_coordinator_that_becomes_active_is_found_within_the_timeout(made: Callable[..., Any]) -> None:
    one = made(Coordinator(answer=standby))
    calls = made(channel(one.address))

    def elected(request: Registered) -> Registered:
        if one.asked < 3:
            raise NotController("not yet")
        return request

    one.answer = elected
    assert ask(calls, 7) == 7 and one.asked == 3
    one.answer = standby
    with pytest.raises(NotController):
        ask(calls, 7, timeout_s=0.2)


def test_a_kept_connection_that_has_ended_is_made_anew(made: Callable[..., Any]) -> None:
    first = Coordinator()
    one = made(channel(first.address))
    assert ask(one) == 42
    first.server.shutdown()
    second = made(Coordinator())
    one._addresses.learn([second.address])
    assert ask(one) == 42 and second.asked == 1


def test_a_request_that_was_taken_and_not_answered_is_not_sent_to_another(made: Callable[..., Any]) -> None:
    first, second = made(Coordinator()), made(Coordinator())

    def dies(_: Registered) -> Registered:
        threading.Thread(target=first.server.shutdown).start()
        threading.Event().wait(WAIT_S if not first.server._stopping.wait(WAIT_S) else 0.2)
        return Registered(0)

    first.answer = dies
    with pytest.raises(BrokerNotAvailable):
        ask(made(channel(first.address, second.address)))
    assert (first.asked, second.asked) == (1, 0)


def test_a_call_leaves_a_coordinator_that_hangs_once_another_is_active(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_channel, "LOOK_S", 0.01)
    release = threading.Event()
    asked = threading.Event()

    def hangs(request: Registered) -> Registered:
        asked.set()
        release.wait(WAIT_S)
        return request

    old, new = made(Coordinator(answer=hangs)), made(Coordinator())
    one = made(channel(old.address, new.address))
    errors: list[BaseException] = []

    def call() -> None:
        try:
            ask(one)
        except BrokerNotAvailable as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    assert asked.wait(WAIT_S)
    one._addresses.good(new.address)  # as the follower of the metadata log finds
    thread.join(WAIT_S)
    assert len(errors) == 1 and "another one is active" in str(errors[0])
    assert ask(one) == 42
    with pytest.raises(RequestTimeout):
        ask(made(channel(old.address)), timeout_s=0.05)
    release.set()


def test_one_that_hangs_before_the_welcome_is_given_up_and_the_next_one_asked(
    made: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_channel, "OPEN_TIMEOUT_S", 0.05)
    active = made(Coordinator())
    with socket.create_server((HOST, 0)) as silent:
        assert ask(made(channel((HOST, silent.getsockname()[1]), active.address))) == 42


def test_calls_at_once_do_not_wait_for_each_other_and_closing_ends_them(made: Callable[..., Any]) -> None:
    release = threading.Event()
    both = threading.Barrier(3)

    def slow(request: Registered) -> Registered:
        both.wait(WAIT_S)
        release.wait(WAIT_S)
        return request

    one = made(Coordinator(answer=slow))
    calls = channel(one.address)
    errors: list[BaseException] = []

    def call() -> None:
        try:
            ask(calls)
        except BrokerNotAvailable as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    both.wait(WAIT_S)  # both are with the coordinator
    calls.close()
    for thread in threads:
        thread.join(WAIT_S)
    assert len(errors) == 2
    with pytest.raises(BrokerNotAvailable):
        ask(calls)
    release.set()
