"""The exchange of kind "group": a member's session with its group coordinator. Heartbeats come in; answers, and what a
member is told unasked, go out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from rayqueue.actors.exchange import Exchange
from rayqueue.errors import ProtocolError
from rayqueue.protocol import codec
from rayqueue.protocol.group_messages import GroupHeartbeat, GroupHeartbeatResponse

log = logging.getLogger(__name__)

# Heartbeats of a session that are not answered yet; then it is read no further.
UNANSWERED_MAX = 16
# What was said to a session and is not written, as it does not read; then it is ended.
UNREAD_MAX = 64
# What is said in one stands in a record of the log, which has a largest size too (`commands_topics`).
HEARTBEAT_BYTES_MAX = 1024 * 1024
# A client has a session a consumer.
MEMBERS_MAX = 1_000

_numbers = count(1)


class Heartbeat(NamedTuple):
    """A member has said something."""

    session: GroupSession
    message: GroupHeartbeat


class SessionEnded(NamedTuple):
    """The connection is gone, or was ended."""

    session: GroupSession


class GroupSession:
    """One exchange.

    Args:
        exchange: the connection.
        submit: gives `Heartbeat`s, and `SessionEnded` as the last, to the loop.

    Attributes:
        number: of the session, rising. members: those that have spoken, as (group id, member id); of the loop.
    """

    def __init__(self, exchange: Exchange, submit: Callable[[Heartbeat | SessionEnded], None]) -> None:
        self._exchange = exchange
        self._submit = submit
        self._unanswered = threading.Semaphore(UNANSWERED_MAX)
        self._unread = 0
        self._lock = threading.Lock()
        self.number = next(_numbers)
        self.members: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"GroupSession({self.number}, {len(self.members)} members)"

    def run(self) -> None:
        """Reads to the end of the exchange.

        Raises:
            ProtocolError: a message is no heartbeat, or too large, or there are too many members.
        """
        decode = codec.decoder(GroupHeartbeat).decode
        try:
            while (received := self._exchange.receive()) is not None:
                if len(received[0]) > HEARTBEAT_BYTES_MAX:
                    raise ProtocolError(f"a heartbeat has {HEARTBEAT_BYTES_MAX} bytes at most, not {len(received[0])}")
                try:
                    message = decode(received[0])
                except Exception as error:
                    raise ProtocolError(f"not a GroupHeartbeat: {error}") from error
                if len(self.members) >= MEMBERS_MAX:
                    raise ProtocolError(f"a connection is for {MEMBERS_MAX} members at most: open another one")
                self._unanswered.acquire()
                self._submit(Heartbeat(self, message))
        finally:
            self._submit(SessionEnded(self))

    def answer(self, response: GroupHeartbeatResponse) -> None:
        """Answers a heartbeat."""
        self.say(response)
        self._unanswered.release()

    def say(self, response: GroupHeartbeatResponse) -> None:
        """Says something, unasked; never waits."""
        with self._lock:
            self._unread += 1
            stuck = self._unread > UNREAD_MAX
        if stuck:
            log.warning("%r does not read what it is told, and is ended", self)
            self._exchange.abort()
            return
        self._exchange.send(codec.encode(response), written=self._written)

    def _written(self) -> None:
        with self._lock:
            self._unread -= 1
