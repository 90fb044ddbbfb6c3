"""A member of a consumer group as the member sees it (KIP-848), pure.

Events come in through `on_...`, the user's moves (`subscribe`, `leave`) and the reader's (`take`, `gave_up`,
`take_lost`); `plan` turns the state into effects. Planning is idempotent: a second call without an event or a deadline
in between yields nothing.

    OUT --subscribe--> JOINING --answered--> IN --leave--> LEAVING --answered, or time is out--> OUT
                          ^                  |
                          +-- fenced, or no answer for the session: everything is lost
    any --refused for good--> FAILED --leave--> OUT

What it holds changes in steps, each of which the other side waits for:

    told without p --> reader gives p up, `gave_up` --> heartbeat `owned` without p --> p goes to another
    told with p --> reader takes p, `take` --> heartbeat `owned` with p

A heartbeat bears the epoch of the newest assignment heard, and with it `owned` answers that one. So `take` asks and
takes in one step: were p looked up first and taken later, the coordinator could take p back in between, hear under the
newer epoch that p is not owned, and give it to another while the reader takes it.

The way to the coordinator (`Link`) is apart from that: while there is none the member keeps what it holds, for the
length of its session.
"""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.client.groups.member_effects import (
    Connect,
    Effect,
    Find,
    HangUp,
    Link,
    Phase,
    Say,
    Tell,
    Warn,
)
from rayqueue.client.groups.member_state import MemberState
from rayqueue.errors import (
    AuthenticationError,
    ConfigError,
    FencedInstance,
    InvalidGroup,
    ProtocolError,
    RayQueueError,
    UnsupportedAssignor,
    from_wire,
)
from rayqueue.protocol.group_messages import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    GroupCoordinatorAddress,
    GroupHeartbeat,
    GroupHeartbeatResponse,
    GroupPartition,
)

# Trying again would bring the same answer.
FINAL = (AuthenticationError, ConfigError, FencedInstance, InvalidGroup, ProtocolError, UnsupportedAssignor)
FENCED = ("UnknownMember", "StaleMemberEpoch")

# A coordinator that is away for less is no news.
WARN_AFTER_MS = 5_000
WARN_EVERY_MS = 30_000


class MemberMachine(MemberState):
    """One member: the user's moves, events, and planning."""

    # --- the user's moves --------------------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str]) -> None:
        """Wants these topics from now on; joins, where it is not in."""
        names = frozenset(topics)
        if names != self.topics:
            self.topics = names
            self._whole = self._urgent = True
            self._tell()
        if self.phase is Phase.OUT:
            self.phase = Phase.JOINING
            self._urgent = True
        elif self.phase is Phase.LEAVING:
            self._again = True

    def leave(self, now_ms: int) -> None:
        """Leaves the group; what is held still is lost. A static member keeps its place for its session. Who was
        refused may try again after it."""
        self._again = False
        if self.phase is Phase.FAILED:
            self.error, self.trouble, self._warn_ms = None, "", None
            self._left()
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        self._let_go()
        self._leave_ms = now_ms + self.member.leave_timeout_ms
        self.phase = Phase.LEAVING
        self._urgent = True
        if not self._known_there:
            self._left()

    # --- events ------------------------------------------------------------------------------------------------------

    def on_found(self, answer: GroupCoordinatorAddress | RayQueueError, now_ms: int) -> None:
        """Who serves the group, or why nobody can be found."""
        if self._link is not Link.FINDING:
            return
        if isinstance(answer, RayQueueError):
            self._failed(answer, now_ms)
        elif answer.leader_epoch < self.coordinator_epoch:
            self._unlink(f"broker {answer.broker_id} served it under an older epoch ({answer.leader_epoch})", now_ms)
        else:
            self._link = Link.OPENING
            self._address_epoch = answer.leader_epoch
            self._effects.append(Connect(answer))

    def on_opened(self, now_ms: int) -> None:
        """The exchange is open."""
        if self._link is Link.OPENING:
            self._link = Link.OPEN
            self._whole = self._urgent = True
            self._asked_ms = None
            self._beat_ms = now_ms

    def on_closed(self, error: RayQueueError, now_ms: int) -> None:
        """The exchange broke, or could not be opened."""
        if self._link in (Link.OPENING, Link.OPEN):
            self._failed(error, now_ms)

    def on_response(self, response: GroupHeartbeatResponse, now_ms: int) -> None:
        """The coordinator's answer, or what it says unasked."""
        if self._link is not Link.OPEN or response.member_id != self.member.member_id:
            return
        if response.coordinator_epoch < self.coordinator_epoch:
            self._hang_up(f"it answers under an older epoch ({response.coordinator_epoch})", now_ms)
            return
        self.coordinator_epoch = response.coordinator_epoch
        if self._asked_ms is not None:
            self._answered_ms, self._asked_ms = self._asked_ms, None
        if response.error:
            self._refused(response, now_ms)
            return
        self._failures = 0
        self.trouble, self._warn_ms = "", None
        if self.phase is Phase.LEAVING:
            if response.member_epoch < 0:
                self._left()
            return
        self.phase = Phase.IN
        self._interval_ms = max(1, min(self.member.heartbeat_interval_ms, response.heartbeat_interval_ms))
        self._beat_ms = min(self._beat_ms, now_ms + self._interval_ms)
        before, self.epoch = self.epoch, response.member_epoch
        if response.assignment is not None:
            self._assigned(response, before)

    def _assigned(self, response: GroupHeartbeatResponse, before: int) -> None:
        self._refusals = 0
        target = {
            GroupPartition(topic.topic_id, partition): topic.topic
            for topic in response.assignment or ()
            for partition in topic.partitions
        }
        if target != self._target or self.epoch != before:
            self._target = target
            self._say_owned = True
            self._tell()
            # Where the reader has to give something up, that is said when it has.
            self._urgent = self._urgent or not self.changes().revoke

    def _refused(self, response: GroupHeartbeatResponse, now_ms: int) -> None:
        error = from_wire(response.error, response.message)
        if isinstance(error, FINAL):
            self._fail(error)
        elif response.error not in FENCED:
            self._hang_up(str(error), now_ms)
        elif self.phase is Phase.LEAVING:
            self._left()
        else:
            self._lose(f"the coordinator refuses it ({error})")
            self._find_ms = now_ms + (self.member.backoff_ms(self._refusals - 1) if self._refusals else 0)
            self._refusals += 1

    # --- the ends ----------------------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Nothing is ours any more."""
        self.lost.update(self.held)
        self.held, self._target = {}, {}
        self.epoch = JOIN_EPOCH
        self._tell()

    def _lose(self, why: str) -> None:
        """Everything is lost; joins anew, in an exchange of its own: in this one answers to what we said as a member
        may still be on their way."""
        self._effects.append(Warn(f"group {self.member.group_id!r}: {why}; {len(self.held)} partitions are lost"))
        self._let_go()
        self.phase = Phase.JOINING
        self._known_there = False
        self._drop_link()

    def _left(self) -> None:
        self.phase = Phase.JOINING if self._again else Phase.OUT
        self._again = self._known_there = False
        self._leave_ms = None
        self._drop_link()  # as where it is lost
        self._find_ms = 0

    def _fail(self, error: RayQueueError) -> None:
        if self.phase is Phase.LEAVING:
            self._left()
            return
        self._let_go()
        self.error, self.phase = error, Phase.FAILED
        self._drop_link()
        self._effects.append(Tell())

    # --- the way to the coordinator ----------------------------------------------------------------------------------

    def _failed(self, error: RayQueueError, now_ms: int) -> None:
        self._link = Link.NONE
        if isinstance(error, FINAL):
            self._fail(error)
        else:
            self._unlink(str(error), now_ms)

    def _hang_up(self, why: str, now_ms: int) -> None:
        self._drop_link()
        self._unlink(why, now_ms)

    def _drop_link(self) -> None:
        if self._link is not Link.NONE:
            self._effects.append(HangUp())
        self._link = Link.NONE

    def _unlink(self, why: str, now_ms: int) -> None:
        """There is no way to the coordinator: another is looked for, the first time at once."""
        self._link = Link.NONE
        self._unlucky, self._address_epoch = max(self._unlucky, self._address_epoch), -1
        self._find_ms = now_ms + (self.member.backoff_ms(self._failures - 1) if self._failures else 0)
        self._failures += 1
        self.trouble = why
        if self._warn_ms is None:
            self.trouble_ms, self._warn_ms = now_ms, now_ms + WARN_AFTER_MS

    # --- planning ----------------------------------------------------------------------------------------------------

    def next_deadline_ms(self) -> int | None:
        """When `plan` has something to do without a further event."""
        if self.phase in (Phase.OUT, Phase.FAILED):
            return None
        times = [self._warn_ms, self._leave_ms]
        if self.phase is Phase.IN:
            times.append(self._answered_ms + self.member.session_timeout_ms)
        if self._link is Link.NONE:
            times.append(self._find_ms)
        elif self._link is Link.OPEN:
            times.append(self._beat_ms if self._may_say() else None)
            times.append(None if self._asked_ms is None else self._asked_ms + self.member.answer_timeout_ms)
        return min((at for at in times if at is not None), default=None)

    def plan(self, now_ms: int) -> list[Effect]:
        """What to do now, in order."""
        if self._leave_ms is not None and now_ms >= self._leave_ms:
            self._left()
        if self.phase is Phase.IN and now_ms >= self._answered_ms + self.member.session_timeout_ms:
            self._lose(f"no answer of the coordinator for {self.member.session_timeout_ms} ms")
            self._find_ms = now_ms
        if self.phase not in (Phase.OUT, Phase.FAILED):
            self._look_after_link(now_ms)
        effects, self._effects = self._effects, []
        return effects

    def _look_after_link(self, now_ms: int) -> None:
        patience_ms = self.member.answer_timeout_ms
        if self._link is Link.OPEN and self._asked_ms is not None and now_ms >= self._asked_ms + patience_ms:
            self._hang_up(f"a heartbeat is not answered for {patience_ms} ms", now_ms)
        if self._link is Link.NONE and now_ms >= self._find_ms:
            self._link = Link.FINDING
            self._effects.append(Find(self._unlucky))
        elif self._may_say() and (self._urgent or now_ms >= self._beat_ms):
            self._say(now_ms)
        if self._warn_ms is not None and now_ms >= self._warn_ms:
            self._warn_ms = now_ms + WARN_EVERY_MS
            self._effects.append(Warn(f"group {self.member.group_id!r}: {self.describe(now_ms)}"))

    def _may_say(self) -> bool:
        """Whether a heartbeat may be sent. Who joins waits for the answer: to join again would undo what it gives."""
        return self._link is Link.OPEN and (self.phase is not Phase.JOINING or self._asked_ms is None)

    def _say(self, now_ms: int) -> None:
        me = self.member
        goodbye = LEAVE_STATIC_EPOCH if me.instance_id else LEAVE_EPOCH
        epoch = goodbye if self.phase is Phase.LEAVING else self.epoch
        beat = GroupHeartbeat(me.group_id, me.member_id, epoch, me.instance_id)
        if self._whole:
            beat.host, beat.client_id, beat.local_brokers = me.host, me.client_id, self.local_brokers
            beat.session_timeout_ms, beat.rebalance_timeout_ms = me.session_timeout_ms, me.rebalance_timeout_ms
            beat.topics, beat.assignor = sorted(self.topics), me.assignor
        if self._whole or self._say_owned:
            beat.owned = sorted(self.held)
        self._whole = self._say_owned = self._urgent = False
        self._known_there = True
        self._beat_ms = now_ms + self._interval_ms
        if self._asked_ms is None:
            self._asked_ms = now_ms
        self._effects.append(Say(beat))
