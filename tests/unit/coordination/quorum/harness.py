"""One quorum node by itself: the test plays its disk and its peers."""

from __future__ import annotations

from random import Random
from typing import Any, TypeVar

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Membership,
    Stored,
    Voter,
    VoteReply,
    VoteRequest,
    first_entries,
)

T = TypeVar("T")

A, B, C, D = (Voter(broker_id, "x") for broker_id in (1, 2, 3, 4))


class Solo:
    """Node A of the voters A, B and C, unless said otherwise.

    Attributes:
        effects: of the last event. now_ms: its boot clock.
    """

    def __init__(self, voters: tuple[Voter, ...] = (A, B, C), stored: Stored | None = None, **config: int) -> None:
        self.now_ms = 1_000
        self.stored = stored or Stored(entries=first_entries(Membership(voters)))
        self.machine = QuorumMachine(A, self.stored, QuorumConfig(**config), Random(1), self.now_ms)
        self.effects: list[Any] = []

    def step(self, event: Any, durable: bool = True) -> list[Any]:
        """Takes an event; with `durable` the disk answers at once, and what comes of that is added."""
        self.effects = list(self.machine.step(event, self.now_ms))
        self.machine.validate()
        if durable:
            self.persist()
        return self.effects

    def persist(self) -> list[Any]:
        """All writes become durable."""
        while self.machine.durability.done < self.machine.durability.issued:
            self.effects += self.machine.step(ev.Persisted(self.machine.durability.issued), self.now_ms)
            self.machine.validate()
        return self.effects

    def wait(self, ms: int, durable: bool = True) -> list[Any]:
        """Time passes, and the node is woken at the end of it."""
        self.now_ms += ms
        return self.step(ev.Tick(), durable)

    def elect(self, *by: Voter) -> Solo:
        """Makes it the active leader of the next epoch, with the votes and acknowledgements of `by` (default B)."""
        self.wait(1_000)
        for peer in by or (B,):
            self.step(VoteReply(peer, A, self.machine.epoch + 1, True, pre=True))
        for peer in by or (B,):
            self.step(VoteReply(peer, A, self.machine.epoch, True))
        for peer in by or (B,):
            self.ack(peer)
        assert self.machine.is_active
        return self

    def elect_alone(self) -> Solo:
        """Makes a lone voter active."""
        self.wait(1_000)
        assert self.machine.is_active
        return self

    def ack(self, peer: Voter, match: int | None = None, round_: int = 0) -> list[Any]:
        """A peer has all, or what is said."""
        end = self.machine.log.end if match is None else match
        return self.step(AppendReply(peer, A, self.machine.epoch, end, round_))

    def append(self, leader: Voter, epoch: int, prev: tuple[int, int], *entries: Entry, commit: int = 0) -> list[Any]:
        """A leader's append, durable at once."""
        return self.step(AppendRequest(leader, A, epoch, *prev, entries, commit, 0))

    def ask_vote(self, candidate: Voter, epoch: int, last: tuple[int, int], **kind: bool) -> list[Any]:
        """A candidate's request, durable at once."""
        return self.step(VoteRequest(candidate, A, epoch, *last, **kind))

    def sent(self, kind: type[T]) -> list[T]:
        """The messages of a kind among the last effects."""
        return [e.message for e in self.effects if isinstance(e, ev.Send) and isinstance(e.message, kind)]

    def got(self, kind: type[T]) -> list[T]:
        """The effects of a kind among the last."""
        return [e for e in self.effects if isinstance(e, kind)]
