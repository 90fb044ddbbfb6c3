"""The shards of a group coordinator: their machines, and what they say is done. Of the actor's loop alone.

Places, Heartbeat, SessionEnded, Ask, Answered ─▶ ShardMachine.step ─▶ append, answer, tell, take over anew
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple, assert_never

from rayqueue.actors.driver import boot_ms, wall_ms
from rayqueue.actors.group_batches import Latest
from rayqueue.actors.group_finding import shard_of
from rayqueue.actors.group_log import Answered, ShardLog
from rayqueue.actors.group_places import Places
from rayqueue.actors.group_reading import Place
from rayqueue.actors.group_sessions import GroupSession, Heartbeat
from rayqueue.errors import NotGroupCoordinator, RayQueueError
from rayqueue.groups import events as ev
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.machine import ShardMachine
from rayqueue.protocol.group_messages import GroupHeartbeat, GroupHeartbeatResponse

log = logging.getLogger(__name__)

REPLAYED_AT_ONCE = 2_000  # records; then others have their turn

NO_GROUPS = "no such shard of the groups is known here yet: ask a broker who serves it"

OpenLog = Callable[[Place], ShardLog]


class Ask(NamedTuple):
    """A request, and who is given its answer: a response or a RayQueueError.

    Attributes:
        shard: that it is about.
    """

    shard: int
    message: Any
    answer: Callable[[Any], None]


class Shard:
    """A shard.

    Attributes:
        log: while our broker leads its partition. problem: why that could not be taken over, "": nothing is known of.
    """

    def __init__(self, number: int, machine: ShardMachine) -> None:
        self.number = number
        self.machine = machine
        self.log: ShardLog | None = None
        self.problem = ""

    def __repr__(self) -> str:
        return f"Shard({self.number}, {self.log})"

    @property
    def refusal(self) -> str:
        """Why it is not served, "" when it is."""
        if self.log is None:
            return f"shard {self.number} of the groups is another broker's: ask a broker who serves it"
        if self.log.reign:
            return ""
        what = f"shard {self.number} of the groups is being taken over: try again"
        return f"{what} ({self.problem})" if self.problem else what


class Shards:
    """See the module.

    Args:
        broker_id: whose shards these are.
        open_log: makes the log of a shard that is led at a place, and starts it.
    """

    def __init__(self, broker_id: int, config: GroupConfig, open_log: OpenLog) -> None:
        self._broker_id = broker_id
        self._config = config
        self._open_log = open_log
        self._places = Places(0, {}, {})
        self._shards: dict[int, Shard] = {}
        self._calls: dict[int, Callable[[Any], None]] = {}
        self._numbers = count(1)
        self._sessions: dict[int, GroupSession] = {}

    def __repr__(self) -> str:
        return f"Shards({sorted(self._places.mine)} of {self._places.shards})"

    @property
    def served(self) -> list[int]:
        """The shards whose partitions our broker leads."""
        return sorted(self._places.mine)

    @property
    def count(self) -> int:
        """How many shards there are, 0 before there are groups."""
        return self._places.shards

    # --- events ------------------------------------------------------------------------------------------------------

    def placed(self, places: Places) -> None:
        """The metadata log has news."""
        before, self._places = self._places, places
        for number in range(before.shards, places.shards):
            self._shards[number] = Shard(number, ShardMachine(number, self._broker_id, self._config))
        for shard in self._shards.values():
            if places.topics is not before.topics or shard.number >= before.shards:
                self._step(shard, ev.Topics(places.topics))
            place = places.mine.get(shard.number)
            if shard.log is not None and shard.log.place != place:
                self._let_go(shard)
            if shard.log is None and place is not None:
                shard.log = self._open_log(place)

    def _let_go(self, shard: Shard) -> None:
        assert shard.log is not None
        shard.log.stop()
        shard.log = None
        self._step(shard, ev.Resign())

    def heartbeat(self, event: Heartbeat) -> None:
        """A member says something on its session."""
        session, message = event
        shard = self._shard_of(message.group_id)
        if shard is None or shard.refusal:
            session.answer(_refused(message, NO_GROUPS if shard is None else shard.refusal))
            return
        key = message.group_id, message.member_id
        if key not in session.members:
            session.members.add(key)
            self._sessions[session.number] = session
            self._step(shard, ev.Opened(*key, session.number))
        self._request(shard, message, session.answer, session.number)

    def ended(self, session: GroupSession) -> None:
        """A session is over."""
        self._sessions.pop(session.number, None)
        for group_id, member_id in session.members:
            shard = self._shard_of(group_id)
            if shard is not None:
                self._step(shard, ev.Closed(group_id, member_id, session.number))
        session.members.clear()

    def ask(self, event: Ask) -> None:
        """A request that is no heartbeat."""
        shard = self._shards.get(event.shard)
        if shard is None or shard.refusal:
            event.answer(NotGroupCoordinator(NO_GROUPS if shard is None else shard.refusal))
        else:
            self._request(shard, event.message, event.answer)

    def answered(self, event: Answered, now_ms: int) -> None:
        """The leader of a shard's partition has answered an append."""
        log_, result = event.log, event.result
        shard = self._shards[log_.place.partition]
        if shard.log is not log_ or log_.reign != event.reign:
            return
        number = log_.answered(now_ms)
        if result.error:
            self._step(shard, ev.AppendFailed(number, f"{result.error}: {result.message}"))
        else:
            self._step(shard, ev.Appended(number))

    def tick(self, now_ms: int, wall: int) -> None:
        """Deadlines that are reached, and what waits to be appended."""
        for shard in self._shards.values():
            deadline = shard.machine.next_deadline_ms()
            if deadline is not None and deadline <= now_ms:
                self._step(shard, ev.Tick(), now_ms, wall)
            if shard.log is not None:
                try:
                    shard.log.flush(now_ms)
                except RayQueueError as error:
                    log.debug("%r: %s", shard, error)  # its thread sees the same
                shard.log.tick(now_ms)

    def next_deadline_ms(self) -> int | None:
        """When `tick` is due."""
        deadlines = [shard.machine.next_deadline_ms() for shard in self._shards.values()]
        deadlines += [shard.log.next_deadline_ms() for shard in self._shards.values() if shard.log is not None]
        return min((one for one in deadlines if one is not None), default=None)

    def close(self) -> list[ShardLog]:
        """Serves nothing any more: whoever waits is refused. Gives the logs whose threads are about to end."""
        logs = [shard.log for shard in self._shards.values() if shard.log is not None]
        self._places = Places(self._places.shards, {}, self._places.topics)
        for shard in self._shards.values():
            if shard.log is not None:
                self._let_go(shard)
        return logs

    # --- taking over (inside of the loop, for the thread of a log) ----------------------------------------------------

    def lead(self, log_: ShardLog) -> None:
        """The log was taken over: its records follow."""
        self._step(self._current(log_), ev.Lead(log_.place.leader_epoch))

    def replay(self, log_: ShardLog, records: list[tuple[bytes, bytes | None, int]]) -> None:
        """Some of its records."""
        self._step(self._current(log_), ev.Replay(records))

    def loaded(self, log_: ShardLog) -> None:
        """That were all: it is served."""
        self._step(self._current(log_), ev.Loaded())

    def lost(self, log_: ShardLog, reason: str) -> None:
        """What was taken over is over, or could not be taken over."""
        log_.forget()
        shard = self._shards[log_.place.partition]
        if shard.log is log_:
            shard.problem = reason
            self._step(shard, ev.Resign())

    def _current(self, log_: ShardLog) -> Shard:
        shard = self._shards[log_.place.partition]
        if shard.log is not log_:
            raise NotGroupCoordinator(f"shard {shard.number} is not led there any more")
        return shard

    # --- the machines ------------------------------------------------------------------------------------------------

    def _shard_of(self, group_id: str) -> Shard | None:
        return self._shards.get(shard_of(group_id, self.count)) if self.count else None

    def _request(self, shard: Shard, message: Any, answer: Callable[[Any], None], session: int = 0) -> None:
        call = next(self._numbers)
        self._calls[call] = answer
        self._step(shard, ev.Request(call, message, session))

    def _step(self, shard: Shard, event: ev.Event, now_ms: int | None = None, wall: int | None = None) -> None:
        now_ms, wall = boot_ms() if now_ms is None else now_ms, wall_ms() if wall is None else wall
        for effect in shard.machine.step(event, now_ms, wall):
            match effect:
                case ev.Append():
                    if shard.log is not None:
                        shard.log.append(effect.number, effect.records)
                case ev.Reply():
                    self._calls.pop(effect.call)(effect.response)
                case ev.Refuse():
                    self._calls.pop(effect.call)(effect.error)
                case ev.Push():
                    session = self._sessions.get(effect.session)
                    if session is not None:
                        session.say(effect.response)
                case ev.TakeOverAnew():
                    log.warning("shard %d is taken over anew: %s", shard.number, effect.reason)
                    if shard.log is not None:
                        shard.log.forget()
                        shard.log.again()
                case ev.Warn():
                    log.warning("%s", effect.message)
                case _:
                    assert_never(effect)


def _refused(message: GroupHeartbeat, why: str) -> GroupHeartbeatResponse:
    return GroupHeartbeatResponse(
        message.group_id,
        message.member_id,
        -1,
        message.member_epoch,
        0,
        None,
        NotGroupCoordinator.__name__,
        why,
    )


def replay_all(log_: ShardLog, latest: Latest, inside: Callable[[Callable[[], None]], None], shards: Shards) -> None:
    """Hands a log that was taken over to its machine. On the log's thread.

    Raises:
        RayQueueError: it is not wanted any more.
    """
    inside(lambda: shards.lead(log_))
    records = [(key, value, timestamp) for key, (value, timestamp) in latest.items()]
    for at in range(0, len(records), REPLAYED_AT_ONCE):
        some = records[at : at + REPLAYED_AT_ONCE]
        inside(lambda some=some: shards.replay(log_, some))  # type: ignore[misc]
    inside(lambda: shards.loaded(log_))
