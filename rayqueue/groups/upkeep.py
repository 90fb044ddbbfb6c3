"""What goes by itself: offsets whose time is over or whose topic is gone, and groups that have nothing left."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from rayqueue.groups.commands import Surroundings
from rayqueue.groups.offsets import expired, forget
from rayqueue.groups.state import GroupState
from rayqueue.groups.timers import Timers
from rayqueue.groups.turn import Turn
from rayqueue.groups.views import wholly
from rayqueue.protocol.group_messages import GroupPartition

# Offsets that one step forgets at most.
FORGET_MAX = 1_000
EXPIRY = ("upkeep",)


class Upkeep:
    """Runs when its timers pass: EXPIRY, and ("absent", topic id)."""

    def __init__(self, around: Surroundings, timers: Timers, turn: Turn) -> None:
        self._around = around
        self._timers = timers
        self._turn = turn

    def begin(self, now_ms: int) -> None:
        """The shard is served from now on."""
        for group in self._around.state.groups.values():
            for one in group.offsets:
                if one.topic_id not in self._around.names:
                    self._timers.set(("absent", one.topic_id), now_ms + self._around.config.absent_topic_ms)
        self._timers.set(EXPIRY, now_ms + self._around.config.upkeep_interval_ms)

    def topics_ended(self, topic_ids: Iterable[bytes], now_ms: int) -> None:
        """These topics were there, and are deleted."""
        for topic_id in topic_ids:
            self._timers.set(("absent", topic_id), now_ms)

    def absent(self, topic_id: bytes, now_ms: int) -> None:
        """A topic has been away for so long that it will not come any more."""
        if topic_id not in self._around.names:
            what = ((group, [one for one in group.offsets if one.topic_id == topic_id]) for group in self._groups())
            self._forget(what, ("absent", topic_id), now_ms)

    def expire(self, now_ms: int, wall_ms: int) -> None:
        """Offsets whose time is over, then groups."""
        self._timers.set(EXPIRY, now_ms + self._around.config.upkeep_interval_ms)
        what = ((group, expired(self._around, group, wall_ms)) for group in self._groups())
        if self._forget(what, EXPIRY, now_ms):
            for group in self._groups():
                if not group.members and not group.offsets:
                    self._turn.change(wholly(group))
                    self._turn.forget(group.group_id)

    def _groups(self) -> list[GroupState]:
        return list(self._around.state.groups.values())

    def _forget(self, what: Iterable[tuple[GroupState, list[GroupPartition]]], key: Hashable, now_ms: int) -> bool:
        """Not too many in one step; whether that was all."""
        left = FORGET_MAX
        for group, partitions in what:
            self._turn.change(forget(group, partitions[:left]))
            left -= len(partitions)
            if left < 0:
                self._timers.set(key, now_ms)
                return False
        return True
