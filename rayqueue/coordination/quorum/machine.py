"""One node of the metadata quorum: Raft as a machine without threads, clocks, files or sockets.

The node that leads is the active coordinator, the others are its warm standbys. Legal transitions, and their causes:

    from          to            because
    follower      pre-candidate silence of the leader, if we vote          (candidate.py; nothing is promised yet)
    follower      candidate     the leader hands over                      (TransferRequest)
    pre-candidate candidate     a majority would vote for us: the next epoch is claimed
    pre-candidate pre-candidate, candidate -> pre-candidate   no majority in time: once more
    candidate     leader        a majority has voted for us, ourselves durably
    leader        active        the fence of our epoch is committed and all before it applied (still role leader)
    any           follower      a higher epoch; a leader of our epoch (candidate); no majority heard, removed (leader)
    any           halted        the disk failed

A *learner* is a follower that is no voter in the newest membership of its log (nor in the one before, if the newest
may not be committed): it never stands for election. It does
answer a candidate that asks it, for it may have been promoted by entries it has not got yet; only a candidate whose
membership has it as a voter counts the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from rayqueue.coordination.quorum import voting
from rayqueue.coordination.quorum.candidate import Candidate
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.durability import Durability
from rayqueue.coordination.quorum.events import (
    Append,
    Apply,
    ChangeMembership,
    Dropped,
    Effect,
    Event,
    InstallSnapshot,
    LeaderKnown,
    Persisted,
    PersistVote,
    Propose,
    Read,
    Restore,
    Send,
    SnapshotTaken,
    StorageFailed,
    TakeSnapshot,
    Tick,
    Transfer,
)
from rayqueue.coordination.quorum.follower import Follower
from rayqueue.coordination.quorum.leader import Leader
from rayqueue.coordination.quorum.log import QuorumLog
from rayqueue.coordination.quorum.membership import validate_membership
from rayqueue.coordination.quorum.messages import (
    AnyMessage,
    AppendReply,
    AppendRequest,
    Entry,
    Membership,
    SnapshotReply,
    SnapshotRequest,
    Stored,
    TransferRequest,
    Voter,
    VoteReply,
    VoteRequest,
)
from rayqueue.coordination.quorum.snapshots import Incoming, snapshot_persisted, snapshot_taken
from rayqueue.coordination.quorum.status import PeerStatus, QuorumStatus


class QuorumMachine:
    """One node.

    Args:
        me: this copy of the log.
        stored: what its disk holds.
        random: for election timeouts.
        now_ms: boot time, as in `step`.

    Attributes:
        epoch: newest we know. Invariant: it never falls, nor below the last entry's.
        vote: whom we vote for in it.
        leader: who leads it, as far as we know. heard_ms: when we last heard of that one.
        commit: all up to it is committed. applied: and has been given out. Invariant: applied <= commit <= log.end.
        role: what we are in this epoch; `halted`: nothing any more, and why.
    """

    def __init__(self, me: Voter, stored: Stored, config: QuorumConfig, random: Random, now_ms: int) -> None:
        self.me = me
        self.config = config
        self.random = random
        self.now_ms = now_ms
        self.log = QuorumLog(stored)
        # The log may have reached the disk without the epoch that came with it: then nothing was promised in it.
        self.epoch = max(stored.epoch, self.log.last_epoch)
        self.vote = stored.vote if stored.epoch == self.epoch else None
        self.durability = Durability(self.log.end, config.promises_max)
        self.leader: Voter | None = None
        self._announced: tuple[int, Voter | None] = (0, None)
        self.heard_ms = now_ms
        self.commit = self.applied = self.log.snapshot.index
        self.incoming: Incoming | None = None
        self.saving: tuple[int, int] | None = None  # our own snapshot on its way to disk: write, index
        self.snapshot_asked = False
        self.halted = ""
        self._validated: Membership | None = None
        self.role: Follower | Candidate | Leader = Follower(self)
        # Handed out by the first step: the state machine starts from the snapshot, and so does the log.
        self._effects: list[Effect] = [Restore(self.log.snapshot)] if self.commit else []
        if self.log.is_stale:
            self._effects.append(InstallSnapshot(self.durability.write(), self.log.snapshot))
        self._handlers: dict[type, Callable[[Any], None]] = {
            Persisted: self._persisted,
            Propose: self._for_leader,
            Read: self._for_leader,
            ChangeMembership: self._for_leader,
            Transfer: self._for_leader,
            SnapshotTaken: lambda event: snapshot_taken(self, event),
            StorageFailed: self._storage_failed,
            Tick: lambda event: None,
            **dict.fromkeys((VoteRequest, VoteReply, AppendRequest, AppendReply), self._receive),
            **dict.fromkeys((SnapshotRequest, SnapshotReply, TransferRequest), self._receive),
        }

    # --- the interface ------------------------------------------------------------------------------------------------

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """Takes one event; the effects are to be performed in order."""
        self.now_ms = max(self.now_ms, now_ms)
        effects = self._effects
        if self.halted:
            if isinstance(event, Propose | Read | ChangeMembership | Transfer):
                effects.append(Dropped(event.token, self.halted))
        else:
            self._handlers[type(event)](event)
            deadline = self.role.deadline_ms
            if deadline is not None and deadline <= self.now_ms:
                self.role.expire()
        self._effects = []
        return effects

    def next_deadline_ms(self) -> int | None:
        """When `Tick` is due, whatever else happens; None: never."""
        return None if self.halted else self.role.deadline_ms

    @property
    def is_active(self) -> bool:
        """Whether it leads, with all of earlier epochs committed and applied."""
        return isinstance(self.role, Leader) and self.role.active

    @property
    def may_lead(self) -> bool:
        """Whether it is to stand for election; a learner is not."""
        return self.log.may_lead(self.me, self.commit)

    def status(self) -> QuorumStatus:
        """For `rayqueue status`, and for whoever decides about changes of the membership."""
        role, peers = self.role, []
        if isinstance(role, Leader):
            peers = [
                PeerStatus(voter, p.match, self.now_ms - p.heard_ms, role.caught_up(p))
                for voter, p in role.peers.items()
            ]
        name = "halted" if self.halted else role.name
        return QuorumStatus(
            self.me, name, self.epoch, self.leader, self.log.membership, self.commit, self.log.end, peers
        )

    # --- events -------------------------------------------------------------------------------------------------------

    def _receive(self, message: AnyMessage) -> None:
        if not self._is_for_me(message):
            return
        if message.epoch != self.epoch and not voting.settle_epoch(self, message):
            return
        if isinstance(message, VoteRequest):
            voting.answer(self, message)
        else:
            self.role.receive(message)

    def _is_for_me(self, message: AnyMessage) -> bool:
        # The directory that was at this address before ours may have voted or adopted entries; we have not.
        return message.to == self.me

    def _persisted(self, event: Persisted) -> None:
        for message in self.durability.persisted(event.write):
            if message.epoch == self.epoch:
                self._effects.append(Send(message))
        snapshot_persisted(self)
        self.role.persisted()

    def _for_leader(self, event: Propose | Read | ChangeMembership | Transfer) -> None:
        if isinstance(self.role, Leader):
            self.role.request(event)
        else:
            self.emit(Dropped(event.token, "not the active coordinator"))

    def _storage_failed(self, event: StorageFailed) -> None:
        self.become_follower(None)
        self.halted = event.message or "the disk failed"

    # --- what roles do through the node -------------------------------------------------------------------------------

    def emit(self, effect: Effect) -> None:
        """Adds an effect."""
        self._effects.append(effect)

    def send(self, message: AnyMessage) -> None:
        """Sends a message that promises nothing, or nothing that is not durable already."""
        self._effects.append(Send(message))

    def promise(self, message: AnyMessage) -> None:
        """Sends a message once all that was written so far is durable."""
        if self.durability.done == self.durability.issued:
            self._effects.append(Send(message))
        else:
            self.durability.promise(message)

    def answer(self, message: AnyMessage) -> None:
        """Sends an answer that tells of no new entry; only our epoch must be durable."""
        if self.durability.done >= self.durability.vote_write:
            self._effects.append(Send(message))
        else:
            self.durability.promise(message)

    def persist_vote(self, epoch: int, vote: Voter | None) -> int:
        """Moves on to an epoch and a vote in it; the number of that write."""
        assert (epoch, self.vote) == (self.epoch, None) or epoch > self.epoch
        self.epoch, self.vote = epoch, vote
        write = self.durability.vote_write = self.durability.write()
        self.emit(PersistVote(write, epoch, vote))
        return write

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Appends entries to the log in memory, and asks for them on disk."""
        self.log.append(entries)
        write = self.durability.write()
        self.durability.grows(write, self.log.end)
        self.emit(Append(write, entries))

    def advance_commit(self, commit: int) -> None:
        """Everything up to `commit` is committed: gives it out."""
        if commit <= self.commit:
            return
        self.commit = commit
        entries = self.log.slice(self.applied + 1, commit, commit - self.applied, 1 << 62)
        self.applied = commit
        self.emit(Apply(entries))
        since = commit - self.log.snapshot.index
        big = since >= self.config.snapshot_after_entries
        if (big or self.log.bytes_after_snapshot >= self.config.snapshot_after_bytes) and not self.snapshot_asked:
            self.snapshot_asked = True
            self.emit(TakeSnapshot(commit))

    # --- roles --------------------------------------------------------------------------------------------------------

    def become_follower(self, leader: Voter | None) -> None:
        """In the present epoch; an active leader steps down first."""
        if isinstance(self.role, Leader):
            self.role.retire()
        self.know_leader(leader)
        self.role = Follower(self)

    def adopt_epoch(self, epoch: int, leader: Voter | None) -> None:
        """A higher epoch than ours exists."""
        self.incoming = None
        self.persist_vote(epoch, None)
        self.become_follower(leader)

    def stand(self, pre: bool, forced: bool = False) -> None:
        """Stands for election, or asks whether it would be worth it (`pre`)."""
        self.know_leader(None)
        self.role = Candidate(self, pre, forced)
        self.role.start()

    def lead(self) -> None:
        """A majority has voted for us."""
        self.know_leader(self.me)
        self.role = Leader(self)
        self.role.start()

    def know_leader(self, leader: Voter | None) -> None:
        """Notes who leads, and says so if that is news."""
        self.leader = leader
        epoch = self.epoch if leader else 0
        if (epoch, leader) != self._announced:
            self._announced = (epoch, leader)
            self.emit(LeaderKnown(self.epoch, leader))

    def hears_leader(self) -> bool:
        """Whether there is a leader that we should not help to replace."""
        if isinstance(self.role, Leader):
            return True
        silence = self.now_ms - self.heard_ms
        return self.leader is not None and silence < self.config.election_timeout_ms_min

    def election_deadline_ms(self) -> int:
        """A new deadline, drawn at random."""
        config = self.config
        return self.now_ms + self.random.randint(config.election_timeout_ms_min, config.election_timeout_ms_max)

    # --- invariants ---------------------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Asserts every invariant; for tests, after each event."""
        self.log.validate()
        self.durability.validate(self.log.end)
        assert self.epoch >= self.log.last_epoch
        assert self.log.snapshot.index <= self.commit <= self.log.end
        assert self.applied == self.commit
        if self.log.membership is not self._validated:
            self._validated = self.log.membership
            validate_membership(self._validated, self.config)
        assert (self.leader == self.me) == isinstance(self.role, Leader)
        self.role.validate()
