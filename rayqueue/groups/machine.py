"""A shard's machine: deterministic, without threads, clocks, files or sockets.

    Request ── handler ──▶ records ─ replay ─▶ settle (assign, reconcile) ─▶ Append ──▶ Appended ──▶ Reply, Push
                  └──▶ error ──▶ (a barrier) ──▶ Refuse, or Reply with the error

A handler gives records; only their replay changes the state. All records of one step are one Append, and nothing that
was decided in a step is said before an append that began with it, or later, is committed (`Answers`): then it is in the
log, and we were the owner after the request had come. Recovery is replay. When an append fails, the state is ahead of
the log: it is dropped, and the shard is taken over anew.
"""

from __future__ import annotations

from rayqueue.errors import (
    NotGroupCoordinator,
    ProtocolError,
    RayQueueError,
    StaleMemberEpoch,
    UnknownMember,
)
from rayqueue.groups import offsets, views
from rayqueue.groups.answers import Answers
from rayqueue.groups.commands import Result, Surroundings
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.events import (
    Append,
    Appended,
    AppendFailed,
    Closed,
    Effect,
    Event,
    Lead,
    Loaded,
    Opened,
    Push,
    Refuse,
    Replay,
    Reply,
    Request,
    Resign,
    TakeOverAnew,
    Tick,
    Topics,
    Warn,
)
from rayqueue.groups.exchanges import Exchanges
from rayqueue.groups.membership import check_member, fenced, go_away, join, remove, stay
from rayqueue.groups.records import BARRIER, Owner, decode_record, encode_record
from rayqueue.groups.regroup import validate_target
from rayqueue.groups.sessions import Sessions
from rayqueue.groups.state import GroupState, ShardState
from rayqueue.groups.timers import Timers
from rayqueue.groups.turn import Turn
from rayqueue.groups.upkeep import Upkeep
from rayqueue.protocol.group_messages import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    DeleteGroupRequest,
    DescribeGroupRequest,
    GroupHeartbeat,
    GroupHeartbeatResponse,
    ListGroupsRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
)


class ShardMachine:
    """The group coordinator of one shard.

    Invariants: see `validate`.

    Attributes:
        is_serving: whether it answers from the shard's state.
    """

    def __init__(self, shard: int, broker_id: int, config: GroupConfig | None = None) -> None:
        self.shard = shard
        self.is_serving = False
        self._config = config or GroupConfig()
        self._around = Surroundings(broker_id, self._config)
        self._has_topics = self._is_loaded = False
        self._answers = Answers()
        self._exchanges = Exchanges()
        self._timers = Timers()
        self._sessions = Sessions(self._config, self._timers)
        self._turn = Turn(self._around, self._timers)
        self._upkeep = Upkeep(self._around, self._timers, self._turn)

    @property
    def state(self) -> ShardState:
        """What the log says, and what is being appended to it."""
        return self._around.state

    @property
    def owner(self) -> Owner | None:
        """Who took over the shard last, as far as the log was replayed."""
        return self._around.state.owner

    @property
    def epoch(self) -> int:
        """The leader epoch of `Lead`; -1: we do not lead."""
        return self._around.epoch

    @property
    def is_idle(self) -> bool:
        """It serves, and all that it has appended is committed."""
        return self.is_serving and self._answers.issued == self._answers.appended

    # --- events --------------------------------------------------------------------------------------------------

    def step(self, event: Event, now_ms: int, wall_ms: int) -> list[Effect]:
        """Takes one event; the effects are to be performed in order."""
        effects: list[Effect] = []
        due_ms = self._timers.next_deadline_ms()
        if due_ms is not None and now_ms - due_ms > self._config.stalled_ms:
            self._sessions.stood_still(now_ms)
        match event:
            case Request():
                self._request(event, now_ms, wall_ms, effects)
            case Appended():
                effects += self._answers.committed(event.number)
            case Opened():
                self._exchanges.opened((event.group_id, event.member_id), event.session)
                self._sessions.reopened((event.group_id, event.member_id))
            case Closed():
                if self._exchanges.closed((event.group_id, event.member_id), event.session):
                    self._sessions.lost((event.group_id, event.member_id), now_ms)
            case Topics():
                self._topics(event, now_ms)
            case Lead():
                self._drop(effects)
                self._around.epoch = event.epoch
            case Replay():
                for key, value, _ in event.records:
                    self.state.replay(decode_record(key, value))
            case Loaded():
                self._is_loaded = True
                self._begin(now_ms)
            case Resign():
                self._drop(effects)
            case AppendFailed():
                if self._answers.is_present(event.number):
                    self._drop(effects)
                    effects.append(TakeOverAnew(f"an append to the offsets topic failed: {event.reason}"))
            case Tick():
                pass
        if self.is_serving:
            self._expire(now_ms, wall_ms, effects)
            self._tell(now_ms)
            self._append(effects)
        return effects

    def next_deadline_ms(self) -> int | None:
        """When `Tick` is due, whatever else happens; None: nothing waits."""
        return self._timers.next_deadline_ms()

    # --- reigns --------------------------------------------------------------------------------------------------

    def _begin(self, now_ms: int) -> None:
        """Serves from now on, once all that is needed is there."""
        if self.is_serving or not self._is_loaded or not self._has_topics:
            return
        self.is_serving = True
        for group in list(self.state.groups.values()):
            for member_id, member in group.members.items():
                self._sessions.heard((group.group_id, member_id), member, now_ms)
                self._turn.touched[group.group_id, member_id] = None
            self._turn.refresh(group, now_ms)
        self._upkeep.begin(now_ms)

    def _drop(self, effects: list[Effect]) -> None:
        """The reign is over. What was decided may be in the log or not; nobody is told."""
        self.is_serving = self._is_loaded = False
        self._around.state = ShardState()
        self._around.epoch = -1
        self._timers.clear()
        self._sessions.clear()
        self._turn.clear()
        for answer in self._answers.drop():
            if isinstance(answer, Reply) and isinstance(answer.response, GroupHeartbeatResponse):
                said = answer.response
                effects.append(Reply(answer.call, self._error(said.group_id, said.member_id, _not_serving())))
            elif not isinstance(answer, Push):
                effects.append(Refuse(answer.call, _not_serving()))

    # --- requests ------------------------------------------------------------------------------------------------

    def _request(self, event: Request, now_ms: int, wall_ms: int, effects: list[Effect]) -> None:
        message = event.message
        if type(message) is GroupHeartbeat:
            self._heartbeat(event, message, now_ms, wall_ms, effects)
            return
        if not self.is_serving:
            effects.append(Refuse(event.call, _not_serving()))
            return
        try:
            result = self._command(message, now_ms, wall_ms)
        except RayQueueError as error:
            self._answers.decided(Refuse(event.call, error))
            return
        self._turn.change(result.records)
        self._answers.decided(Reply(event.call, result.response))

    def _command(self, message: object, now_ms: int, wall_ms: int) -> Result:
        match message:
            case OffsetCommitRequest():
                return offsets.commit(self._around, message, wall_ms)
            case OffsetFetchRequest():
                return Result([], offsets.fetch(self._around, message))
            case DescribeGroupRequest():
                times = lambda group_id, member_id: self._sessions.times(now_ms, group_id, member_id)  # noqa: E731
                return Result([], views.describe(self._around, message, times))
            case ListGroupsRequest():
                return Result([], views.list_groups(self._around))
            case DeleteGroupRequest():
                return views.delete(self._around, message)
            case _:
                raise ProtocolError(f"a group coordinator takes no {type(message).__name__}")

    def _heartbeat(
        self, event: Request, said: GroupHeartbeat, now_ms: int, wall_ms: int, effects: list[Effect]
    ) -> None:
        member = (said.group_id, said.member_id)
        if not self.is_serving:
            effects.append(Reply(event.call, self._error(*member, _not_serving())))
            return
        if self._exchanges.is_void(member, event.session):
            error = StaleMemberEpoch(f"member {said.member_id!r} has opened another exchange since")
            effects.append(Reply(event.call, self._error(*member, error)))
            return
        try:
            response = self._membership(said, now_ms, wall_ms)
        except RayQueueError as error:
            response = self._error(*member, error)
        self._answers.decided(Reply(event.call, response))

    def _membership(self, said: GroupHeartbeat, now_ms: int, wall_ms: int) -> GroupHeartbeatResponse:
        member_id = said.member_id
        group = self.state.groups.get(said.group_id)
        if said.member_epoch == JOIN_EPOCH:
            return self._join(group or GroupState(said.group_id), said, now_ms)
        if said.member_epoch in (LEAVE_EPOCH, LEAVE_STATIC_EPOCH):
            if group is not None and member_id in group.members:
                self._leave(group, said, now_ms, wall_ms)
            return self._response(said.group_id, member_id, said.member_epoch, 0)
        member = check_member(group, said)
        assert group is not None
        records = stay(group, said, member)
        if records:
            self._turn.change(records)
            member = group.members[member_id]
        self._sessions.heard((said.group_id, member_id), member, now_ms)
        if records:
            self._turn.settle(group, now_ms)
        return self._say(group, member_id)

    def _join(self, group: GroupState, said: GroupHeartbeat, now_ms: int) -> GroupHeartbeatResponse:
        predecessor = group.instances.get(said.instance_id)
        self._turn.change(join(group, said))
        group = self.state.groups[said.group_id]
        session = self._sessions.heard((said.group_id, said.member_id), group.members[said.member_id], now_ms)
        session.told = -1
        if predecessor is not None and predecessor != said.member_id:
            self._put_out(group.group_id, predecessor, fenced(said))
        self._turn.settle(group, now_ms)
        return self._say(group, said.member_id)

    def _leave(self, group: GroupState, said: GroupHeartbeat, now_ms: int, wall_ms: int) -> None:
        member = group.members[said.member_id]
        if said.member_epoch == LEAVE_STATIC_EPOCH and member.instance_id:
            self._turn.change(go_away(group, said.member_id))
            self._sessions.heard((group.group_id, said.member_id), group.members[said.member_id], now_ms)
        else:
            self._turn.change(remove(group, [said.member_id], wall_ms))
            self._sessions.ended((group.group_id, said.member_id))
        self._turn.settle(group, now_ms)

    def _topics(self, event: Topics, now_ms: int) -> None:
        before, self._around.topics = self._around.topics, event.facts
        self._around.names = {facts.topic_id: name for name, facts in event.facts.items()}
        self._has_topics = True
        if not self.is_serving:
            self._begin(now_ms)
            return
        changed = {name for name in before.keys() | event.facts.keys() if before.get(name) != event.facts.get(name)}
        ended = {before[name].topic_id for name in changed if name in before} - self._around.names.keys()
        self._upkeep.topics_ended(sorted(ended), now_ms)
        for group in list(self.state.groups.values()):
            if any(not changed.isdisjoint(member.topics) for member in group.members.values()):
                self._turn.refresh(group, now_ms)

    # --- time ----------------------------------------------------------------------------------------------------

    def _expire(self, now_ms: int, wall_ms: int, effects: list[Effect]) -> None:
        for key in self._timers.expired(now_ms):  # one by one: who is put out by one of them has no others any more
            match key:
                case ("session", group_id, member_id):
                    text = f"member {member_id!r} was not heard of for its session: it is out, and may join again"
                    self._remove(group_id, member_id, UnknownMember(text), now_ms, wall_ms)
                case ("behind", group_id, member_id):
                    self._behind(group_id, member_id, now_ms, wall_ms, effects)
                case ("assign", group_id):
                    group = self.state.groups.get(group_id)
                    if group is not None:
                        self._turn.settle(group, now_ms)
                case ("absent", topic_id):
                    self._upkeep.absent(topic_id, now_ms)
                case ("upkeep",):
                    self._upkeep.expire(now_ms, wall_ms)

    def _behind(self, group_id: str, member_id: str, now_ms: int, wall_ms: int, effects: list[Effect]) -> None:
        group = self.state.groups[group_id]
        revoking = group.current[member_id].revoking
        what = (
            f"member {member_id!r} of group {group_id!r} has not given up {len(revoking)} partitions it was asked for"
        )
        if group.members[member_id].rebalance_timeout_ms:
            self._remove(group_id, member_id, UnknownMember(f"{what}: it is out, and may join again"), now_ms, wall_ms)
        else:
            effects.append(Warn(f"{what}: those who are to have them wait for it; it is busy, or does not poll"))

    def _remove(self, group_id: str, member_id: str, error: RayQueueError, now_ms: int, wall_ms: int) -> None:
        group = self.state.groups[group_id]
        self._turn.change(remove(group, [member_id], wall_ms))
        self._put_out(group_id, member_id, error)
        self._turn.settle(group, now_ms)

    def _put_out(self, group_id: str, member_id: str, error: RayQueueError) -> None:
        """It is no member any more, and is told, if it can be."""
        self._sessions.ended((group_id, member_id))
        exchange = self._exchanges.of((group_id, member_id))
        if exchange is not None:
            self._answers.decided(Push(exchange, self._error(group_id, member_id, error)))

    # --- what is said --------------------------------------------------------------------------------------------

    def _tell(self, now_ms: int) -> None:
        """Pushes what has changed for members that do not know yet."""
        for member in self._turn.touched:
            group_id, member_id = member
            group = self.state.groups.get(group_id)
            if group is None or member_id not in group.members:
                continue
            holding = group.current[member_id]
            self._sessions.changed(member, group.members[member_id], holding, now_ms)
            exchange = self._exchanges.of(member)
            if exchange is not None and self._sessions[member].told != holding.member_epoch:
                self._answers.decided(Push(exchange, self._say(group, member_id)))

    def _say(self, group: GroupState, member_id: str) -> GroupHeartbeatResponse:
        """The member's epoch, and its assignment unless it was said on this exchange already."""
        member = (group.group_id, member_id)
        holding, session = group.current[member_id], self._sessions[member]
        response = self._response(group.group_id, member_id, holding.member_epoch, session.timeout_ms)
        if session.told != holding.member_epoch:
            response.assignment = views.with_names(self._around, holding.assigned)
            if self._exchanges.of(member) is not None:
                session.told = holding.member_epoch
        return response

    def _response(self, group_id: str, member_id: str, member_epoch: int, timeout_ms: int) -> GroupHeartbeatResponse:
        interval_ms = self._config.heartbeat_interval_ms
        if timeout_ms:
            interval_ms = min(interval_ms, max(timeout_ms // 3, 1))
        return GroupHeartbeatResponse(group_id, member_id, self._around.epoch, member_epoch, interval_ms)

    def _error(self, group_id: str, member_id: str, error: RayQueueError) -> GroupHeartbeatResponse:
        response = self._response(group_id, member_id, 0, 0)
        response.error, response.message = type(error).__name__, str(error)
        return response

    def _append(self, effects: list[Effect]) -> None:
        records = self._turn.take()
        if records or self._answers.need_barrier:
            effects.append(Append(self._answers.issue(), records or [encode_record(BARRIER)]))

    # --- invariants ----------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Asserts every invariant; for tests, after each event."""
        self._answers.validate()
        self._timers.validate()
        self._exchanges.validate()
        assert not self._turn.records and not self._turn.touched
        if not self.is_serving:
            assert self._timers.next_deadline_ms() is None
            return
        self.state.validate()
        self._sessions.validate({(g, m) for g, group in self.state.groups.items() for m in group.members})
        for group in self.state.groups.values():
            validate_target(group, self._around.topics)


def _not_serving() -> NotGroupCoordinator:
    return NotGroupCoordinator("this process does not serve the group, or not yet: ask again who does")
