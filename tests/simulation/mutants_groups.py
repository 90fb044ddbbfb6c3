"""Planted bugs of the groups' core, which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from rayqueue.groups import machine, offsets, reconcile
from rayqueue.groups.events import Append, Effect, Event
from rayqueue.groups.exchanges import Exchanges
from rayqueue.groups.machine import ShardMachine
from rayqueue.groups.records import Record
from rayqueue.groups.state import GroupState, Holding
from rayqueue.protocol.group_messages import GroupHeartbeat

_reconciled = reconcile.reconciled


def assign_what_is_held(group: GroupState, member_id: str, epoch: int) -> Holding | None:
    """Members are given what they are to have, whoever still holds it. (The log's own checks see to the rest.)"""
    holders, group.holders = group.holders, {}
    try:
        return _reconciled(group, member_id, epoch)
    finally:
        group.holders = holders


def take_any_order(group: GroupState, request: Any, one: Any) -> bool:
    """A commit that comes after a later one is taken."""
    return False


_step = ShardMachine.step


def answer_at_once(self: ShardMachine, event: Event, now_ms: int, wall_ms: int) -> list[Effect]:
    """Answers leave when they are decided."""
    effects = _step(self, event, now_ms, wall_ms)
    waiting = [answer for _, answer in self._answers._waiting] + self._answers._next
    self._answers._waiting.clear()
    self._answers._next.clear()
    return effects + waiting


def answer_reads_at_once(self: ShardMachine, event: Event, now_ms: int, wall_ms: int) -> list[Effect]:
    """What changes nothing is answered without a round: a zombie does, too."""
    effects = _step(self, event, now_ms, wall_ms)
    barriers = [
        one for one in effects if isinstance(one, Append) and one.records[0][1] is None and len(one.records) == 1
    ]
    if not barriers and any(isinstance(one, Append) for one in effects):
        return effects
    number = barriers[0].number if barriers else self._answers.issued + 1
    now = [answer for n, answer in self._answers._waiting if n == number] + self._answers._next
    self._answers._next.clear()
    left = [(n, answer) for n, answer in self._answers._waiting if n != number]
    self._answers._waiting.clear()
    self._answers._waiting.extend(left)
    return effects + now


class _Anything(dict[Any, int]):
    """Has whatever is asked for, since ever."""

    def get(self, key: Any, default: Any = None) -> int:
        return 0


_holding = offsets._holding


def take_any_epoch(group: Any, request: Any) -> Holding | None:
    """Commits of members are taken for all partitions, under whatever epoch."""
    holding = _holding(group, request)
    return holding and Holding(holding.member_epoch, _Anything(), {})


_stay = machine.stay


def take_any_ack(group: GroupState, said: GroupHeartbeat, member: Any) -> list[Record]:
    """What a member says it holds counts, whichever assignment it knew of."""
    said.member_epoch = group.current[said.member_id].member_epoch
    return _stay(group, said, member)


_drop = ShardMachine._drop


def keep_state(self: ShardMachine, effects: list[Effect]) -> None:
    """After an append that failed the state is kept, though it is ahead of the log."""
    state = self._around.state
    _drop(self, effects)
    self._around.state = state


def never_void(self: Exchanges, member: tuple[str, str], session: int) -> bool:
    """What comes late by an exchange that a member has given up counts."""
    return False


# Name -> what is replaced, where, by what.
MUTANTS: Mapping[str, tuple[Any, str, Callable[..., Any]]] = {
    "assigned before the old owner let go": (reconcile, "reconciled", assign_what_is_held),
    "offsets committed out of order": (offsets, "_came_late", take_any_order),
    "answer before the append": (ShardMachine, "step", answer_at_once),
    "a zombie owner answers": (ShardMachine, "step", answer_reads_at_once),
    "no epoch check on a commit": (offsets, "_holding", take_any_epoch),
    "state kept after a failed append": (ShardMachine, "_drop", keep_state),
    "an ack of an older assignment": (machine, "stay", take_any_ack),
    "late joins by an old exchange": (Exchanges, "is_void", never_void),
}

# Seldom found here: two hand-overs must fall into the second in which something is late. Unit tests show them.
RARE = ("an ack of an older assignment", "late joins by an old exchange")


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """While inside, the core has this bug; None: none."""
    if not name:
        yield
        return
    target, attribute, replacement = MUTANTS[name]
    with patch.object(target, attribute, replacement):
        yield
