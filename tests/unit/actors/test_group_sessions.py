"""The exchange of a member: what comes goes to the loop, and who does not read or says nonsense is ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from rayqueue.actors import group_sessions
from rayqueue.actors.group_sessions import UNANSWERED_MAX, UNREAD_MAX, GroupSession, Heartbeat, SessionEnded
from rayqueue.errors import ProtocolError
from rayqueue.protocol import codec
from rayqueue.protocol.group_messages import GroupHeartbeat, GroupHeartbeatResponse
from tests.integration.waiting import eventually

WAIT_S = 20.0
SAID = GroupHeartbeat("g", "m", 0)
ANSWER = GroupHeartbeatResponse("g", "m", 0, 1, 5_000)


class FakeExchange:
    """A connection: what comes in, and what was sent; it is written at once, or never."""

    def __init__(self, incoming: list[bytes], reads: bool = True) -> None:
        self.incoming = incoming
        self.sent: list[GroupHeartbeatResponse] = []
        self.aborted = False
        self._reads = reads

    def receive(self) -> tuple[bytes, list[Any]] | None:
        return (self.incoming.pop(0), []) if self.incoming else None

    def send(self, message: bytes, rows: Any = None, written: Callable[[], None] | None = None) -> None:
        self.sent.append(codec.decode(message, GroupHeartbeatResponse))
        if self._reads and written is not None:
            written()

    def abort(self) -> None:
        self.aborted = True


def session(exchange: FakeExchange, events: list[Any]) -> GroupSession:
    return GroupSession(exchange, events.append)  # type: ignore[arg-type]


def test_what_is_said_goes_on_in_order_and_the_end_comes_last() -> None:
    events: list[Any] = []
    one = session(FakeExchange([codec.encode(SAID), codec.encode(GroupHeartbeat("g", "m", 3))]), events)
    one.run()
    assert [type(event) for event in events] == [Heartbeat, Heartbeat, SessionEnded]
    assert [event.message.member_epoch for event in events[:2]] == [0, 3]
    assert all(event.session is one for event in events)
    assert session(FakeExchange([]), []).number > one.number


@pytest.mark.parametrize("nonsense", [b"", b"\xff" * 20, codec.encode(ANSWER)])
def test_nonsense_ends_it(nonsense: bytes) -> None:
    events: list[Any] = []
    with pytest.raises(ProtocolError):
        session(FakeExchange([nonsense, codec.encode(SAID)]), events).run()
    assert [type(event) for event in events] == [SessionEnded]


def test_one_that_is_too_large_ends_it() -> None:
    """Its record would be refused by the log, and the shard taken over anew, again and again."""
    large = codec.encode(GroupHeartbeat("g", "m", 0, topics=["t" * group_sessions.HEARTBEAT_BYTES_MAX]))
    with pytest.raises(ProtocolError, match="at most"):
        session(FakeExchange([large]), []).run()


def test_it_is_read_no_further_while_too_much_is_unanswered() -> None:
    events: list[Any] = []
    exchange = FakeExchange([codec.encode(SAID)] * (UNANSWERED_MAX + 2))
    one = session(exchange, events)
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    eventually(lambda: len(events) == UNANSWERED_MAX, WAIT_S)
    eventually(lambda: len(exchange.incoming) == 1, WAIT_S)
    assert len(events) == UNANSWERED_MAX, "one is in hand, and waits"
    for count in (1, 2):
        one.answer(ANSWER)
        eventually(lambda count=count: len(events) >= UNANSWERED_MAX + count, WAIT_S)  # type: ignore[misc]
    thread.join(WAIT_S)
    assert isinstance(events[-1], SessionEnded) and len(exchange.sent) == 2


def test_one_that_does_not_read_is_ended() -> None:
    deaf, hears = FakeExchange([], reads=False), FakeExchange([])
    for exchange in (deaf, hears):
        one = session(exchange, [])
        for _ in range(UNREAD_MAX):
            one.say(ANSWER)
        assert not exchange.aborted
        one.say(ANSWER)
    assert deaf.aborted and not hears.aborted
