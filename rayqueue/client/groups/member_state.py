"""What a member of a consumer group knows, and what it says of it to who reads. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.client.groups.member_effects import Changes, Effect, Link, Member, Phase, Tell
from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import JOIN_EPOCH, GroupPartition


class MemberState:
    """One member.

    Attributes:
        epoch: the member epoch, JOIN_EPOCH while it is not in. Invariant: nothing is held at JOIN_EPOCH.
        held: what the reader reads, by partition its topic: taken, and not given up or lost since.
        lost: what was held when everything was lost, until the reader has been told.
        topics: names subscribed to. local_brokers: as in a heartbeat.
        coordinator_epoch: the highest heard of; answers of a lower one are refused.
        error: why it was refused for good, or None.
        trouble: why there is no way to the coordinator, or "". trouble_ms: since when.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.phase = Phase.OUT
        self.epoch = JOIN_EPOCH
        self.held: dict[GroupPartition, str] = {}
        self.lost: dict[GroupPartition, str] = {}
        self.topics: frozenset[str] = frozenset()
        self.local_brokers: list[int] = []
        self.coordinator_epoch = -1
        self.error: RayQueueError | None = None
        self.trouble = ""
        self.trouble_ms = 0
        self._target: dict[GroupPartition, str] = {}
        self._effects: list[Effect] = []
        self._told = Changes({}, {}, {})
        self._link = Link.NONE
        self._interval_ms = member.heartbeat_interval_ms
        self._failures = 0  # in a row
        self._refusals = 0  # times fenced in a row
        self._find_ms = 0  # when to look for the coordinator
        self._unlucky = -1  # the epoch of the coordinator found last, with which it came to nothing
        self._address_epoch = -1
        self._warn_ms: int | None = None
        # Of the open exchange:
        self._whole = True  # nothing was said yet, or the subscription has changed: all is to be said
        self._say_owned = False
        self._urgent = False  # there is news for the coordinator
        self._beat_ms = 0  # when the next heartbeat is due without any
        self._asked_ms: int | None = None  # when the oldest heartbeat was sent that is not answered
        # Of the membership:
        self._answered_ms = 0  # when the newest heartbeat was sent that was answered
        self._known_there = False  # a coordinator may hold us for a member
        self._leave_ms: int | None = None  # when to go without an answer
        self._again = False  # joins once it has left

    def __repr__(self) -> str:
        return f"MemberMachine({self.member.group_id}/{self.member.member_id} {self.phase.name} epoch {self.epoch})"

    # --- the reader's ------------------------------------------------------------------------------------------------

    @property
    def reading_epoch(self) -> int:
        """The member epoch under which positions of the reader may be committed: none while it has not been told that
        all was lost, though the member may be in again, and under a newer epoch been given the same partitions."""
        return JOIN_EPOCH if self.lost else self.epoch

    def changes(self) -> Changes:
        """What is to be done by who reads."""
        if self.lost:
            return Changes(dict(self.lost), {}, {})
        wanted = self._wanted()
        revoke = {part: topic for part, topic in self.held.items() if part not in wanted}
        return Changes({}, revoke, {part: topic for part, topic in wanted.items() if part not in self.held})

    def take(self, partitions: Iterable[GroupPartition]) -> list[GroupPartition]:
        """Takes those of the partitions that are (still) to be read; they are held from now on."""
        wanted = {} if self.lost else self._wanted()
        taken = [part for part in partitions if part in wanted and part not in self.held]
        self.held.update((part, wanted[part]) for part in taken)
        self._owned_changed(bool(taken))
        return taken

    def gave_up(self, partitions: Iterable[GroupPartition]) -> None:
        """The reader has let go of these, and will not commit for them any more."""
        gone = [part for part in partitions if self.held.pop(part, None) is not None]
        self._owned_changed(bool(gone))

    def take_lost(self) -> dict[GroupPartition, str]:
        """What is lost, which the reader takes note of by this call."""
        lost, self.lost = self.lost, {}
        self._tell()
        return lost

    def _owned_changed(self, changed: bool) -> None:
        if changed:
            self._say_owned = self._urgent = True
        self._told = self.changes()

    def _wanted(self) -> dict[GroupPartition, str]:
        """What it was told to hold, but for topics that it gave up since."""
        return {part: topic for part, topic in self._target.items() if topic in self.topics}

    def _tell(self) -> None:
        """Wakes the reader when there is news for it."""
        changes = self.changes()
        if changes and changes != self._told:
            self._effects.append(Tell())
        self._told = changes

    # --- for people, and for tests -----------------------------------------------------------------------------------

    def describe(self, now_ms: int) -> str:
        """Where it stands, in words."""
        if self.error is not None:
            return str(self.error)
        text = f"{self.phase.value}, {len(self.held)} partitions held"
        if self.phase is Phase.IN:
            text = f"member {self.member.member_id}, epoch {self.epoch}, {len(self.held)} partitions held"
        if self.trouble:
            text += f"; its coordinator is not reached for {(now_ms - self.trouble_ms) / 1000:.0f} s: {self.trouble}"
            if self.held:
                left = max(0, self._answered_ms + self.member.session_timeout_ms - now_ms)
                text += f" (what is held is read on, for {left / 1000:.0f} s at most)"
        return text

    def validate(self) -> None:
        """Raises AssertionError where an invariant does not hold."""
        assert not (self.held and self.epoch == JOIN_EPOCH), "holds what nobody gave it"
        assert self.phase is not Phase.IN or self.epoch > 0, (self.phase, self.epoch)
        assert self.phase is Phase.IN or not self.held, (self.phase, self.held)
        assert not (self.lost.keys() & self.held.keys()), "held and lost at once"
        assert self.phase is not Phase.FAILED or self.error is not None
