"""Leading: giving proposals their place, replicating them, and knowing what is committed.

An entry is committed when a majority has it durably and it is of our own epoch; with it all before it (Raft, 5.4.2).
The first entry of an epoch is therefore a fence; until it is committed the leader is not *active* and takes nothing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from rayqueue.coordination.quorum.events import (
    Action,
    BecomeActive,
    ChangeMembership,
    Committed,
    Dropped,
    Propose,
    Read,
    StepDown,
    Transfer,
)
from rayqueue.coordination.quorum.membership import changed
from rayqueue.coordination.quorum.messages import (
    FENCE,
    MEMBERSHIP,
    RECORDS,
    AnyMessage,
    AppendReply,
    Entry,
    Membership,
    SnapshotReply,
    TransferRequest,
    Voter,
    encode,
)
from rayqueue.coordination.quorum.progress import Progress
from rayqueue.coordination.quorum.reads import Reads
from rayqueue.coordination.quorum.replicate import send_appends, send_beat, send_chunk

if TYPE_CHECKING:
    from rayqueue.coordination.quorum.machine import QuorumMachine

Request = Propose | Read | ChangeMembership | Transfer


class Leader:
    """The leader of an epoch.

    Attributes:
        epoch: the one it leads.
        peers: all voters and learners but ourselves.
        active: the fence is committed.
        tokens: (index, token): whom to tell once that entry is committed. Invariant: ascending, above the commit.
        successor: whom a transfer under way is for, with its token and when it is given up.
    """

    name = "leader"

    def __init__(self, node: QuorumMachine) -> None:
        self._node = node
        self.epoch = node.epoch
        self.peers: dict[Voter, Progress] = {}
        self.active = False
        self.reads = Reads(node.config.reads_max)
        self.tokens: deque[tuple[int, int]] = deque()
        self.successor: tuple[Voter, int, int] | None = None
        self._fence = node.log.end + 1
        self._beat_ms = node.now_ms + node.config.beat_ms
        self._commit_at_beat = node.commit
        above = node.log.entries[node.commit - node.log.base_index :]
        self._uncommitted_bytes = sum(len(entry.payload) for entry in above)

    @property
    def deadline_ms(self) -> int | None:
        """When the next beat is due."""
        return self._beat_ms

    def start(self) -> None:
        """Fences the epoch."""
        self._follow_membership()
        self._append(FENCE, b"")

    # --- requests -----------------------------------------------------------------------------------------------------

    def request(self, event: Request) -> None:
        """Somebody wants something of the active coordinator."""
        problem = "" if self.active else "the epoch is not fenced yet"
        if self.successor is not None and not isinstance(event, Read):
            problem = "the lead is being handed over"
        match event:
            case _ if problem:
                self._node.emit(Dropped(event.token, problem))
            case Propose():
                self._propose(event)
            case Read():
                self._read(event)
            case ChangeMembership():
                self._change(event)
            case Transfer():
                self._transfer(event)

    def _propose(self, event: Propose) -> None:
        config, node = self._node.config, self._node
        problem = ""
        if len(event.payload) > config.entry_bytes_max:
            problem = f"{len(event.payload)} bytes are more than {config.entry_bytes_max}"
        elif node.log.end - node.commit >= config.uncommitted_entries_max:
            problem = "too many proposals are uncommitted"
        elif self._uncommitted_bytes + len(event.payload) > config.uncommitted_bytes_max:
            problem = "too many bytes of proposals are uncommitted"
        if problem:
            node.emit(Dropped(event.token, problem))
            return
        self.tokens.append((node.log.end + 1, event.token))
        self._append(RECORDS, event.payload)

    def _append(self, kind: int, payload: bytes) -> None:
        node = self._node
        self._uncommitted_bytes += len(payload)
        node.append((Entry(node.log.end + 1, node.epoch, kind, payload),))
        if kind == MEMBERSHIP:
            self._follow_membership()
        for voter, peer in self.peers.items():
            send_appends(node, self.reads.round, voter, peer)

    def _read(self, event: Read) -> None:
        refusal = self.reads.add(event.token)
        if refusal is not None:
            self._node.emit(refusal)
        self._go_on_reading()

    def _go_on_reading(self) -> None:
        while self.reads.begin(self._node.commit):
            for voter, peer in self.peers.items():
                send_beat(self._node, self.reads.round, voter, peer)
            self._count_round()

    def _count_round(self) -> None:
        node, round_ = self._node, self.reads.round
        if not self.reads.is_asking:
            return
        membership = node.log.membership
        echoes = sum(v == node.me or self.peers[v].round >= round_ for v in membership.voters)
        if echoes >= membership.majority:
            for effect in self.reads.confirmed():
                node.emit(effect)

    # --- membership ---------------------------------------------------------------------------------------------------

    def _change(self, event: ChangeMembership) -> None:
        problem = self._change_problem(event)
        after = problem or changed(self._node.log.membership, event.action, event.voter, self._node.config)
        if isinstance(after, Membership) and not self._hears_majority(after, answered=True):
            after = "too few of the voters there would be then are heard"
        if isinstance(after, str):
            self._node.emit(Dropped(event.token, after))
            return
        self.tokens.append((self._node.log.end + 1, event.token))
        self._append(MEMBERSHIP, encode(after))
        self._count_commit()  # of fewer voters a majority may have all already

    def _change_problem(self, event: ChangeMembership) -> str:
        # Two changes at once could make two majorities that do not meet. A change that an earlier leader did not get
        # committed is settled by our fence, which is committed: we are active.
        if self._node.log.membership_index > self._node.commit:
            return "another change is under way"
        peer = self.peers.get(event.voter)
        if event.action is Action.PROMOTE and peer is not None and not self.caught_up(peer):
            return f"{event.voter} has not caught up"
        return ""

    def caught_up(self, peer: Progress) -> bool:
        """Whether it has all that was committed at the last beat, and was heard lately."""
        silence = self._node.now_ms - peer.heard_ms
        return peer.match >= self._commit_at_beat and silence < self._node.config.election_timeout_ms_min

    def _follow_membership(self) -> None:
        node = self._node
        membership = node.log.membership
        others = [v for v in (*membership.voters, *membership.learners) if v != node.me]
        next_index = node.log.end + 1
        self.peers = {v: self.peers.get(v) or Progress(next_index, node.now_ms) for v in others}

    # --- transfer -----------------------------------------------------------------------------------------------------

    def _transfer(self, event: Transfer) -> None:
        node = self._node
        to = event.to or self._best_voter()
        if to is None or to == node.me or to not in node.log.membership.voters:
            node.emit(Dropped(event.token, f"{to} cannot lead"))
            return
        self.successor = (to, event.token, node.now_ms + node.config.election_timeout_ms_max)
        self._hand_over()

    def _best_voter(self) -> Voter | None:
        voters = [v for v in self._node.log.membership.voters if v != self._node.me]
        return max(voters, key=lambda v: (self.peers[v].match, self.peers[v].heard_ms), default=None)

    def _hand_over(self) -> None:
        node = self._node
        if self.successor is not None:
            to = self.successor[0]
            if to in self.peers and self.peers[to].match == node.log.end:
                node.send(TransferRequest(node.me, to, node.epoch))

    # --- answers of the peers -----------------------------------------------------------------------------------------

    def receive(self, message: AnyMessage) -> None:
        """A message of our epoch."""
        peer = self.peers.get(message.sender)
        if peer is None or not isinstance(message, AppendReply | SnapshotReply):
            return
        node = self._node
        peer.heard_ms = node.now_ms
        peer.answered = True
        peer.round = max(peer.round, message.round)
        if isinstance(message, SnapshotReply):
            # An offset we know already answers a part that was sent twice: one part under way is enough.
            known = peer.snapshot is None or peer.snapshot.index != message.index or peer.offset == message.offset
            if not known:
                peer.offset = message.offset
                send_chunk(node, self.reads.round, message.sender, peer)
        elif message.rejected:
            if peer.rejected(message, self._next_after(message)):
                send_appends(node, self.reads.round, message.sender, peer)
        else:
            before = peer.match
            peer.accepted(message.match, node.log.base_index)
            if peer.match > before:
                self._count_commit()
                if node.role is not self:
                    return
                if self.successor is not None and message.sender == self.successor[0]:
                    self._hand_over()
            send_appends(node, self.reads.round, message.sender, peer)
        self._count_round()
        self._go_on_reading()

    def _next_after(self, reply: AppendReply) -> int:
        log = self._node.log
        if reply.hint_index < log.base_index:
            return log.base_index  # an entry that we no longer have: the snapshot is due
        return log.last_at_most(reply.hint_index, reply.hint_epoch)[0] + 1

    def persisted(self) -> None:
        """Our own entries count once they are durable here."""
        self._count_commit()

    def voted(self) -> None:
        """Never: our vote in this epoch is our own."""
        raise AssertionError("a leader voted for somebody else in its own epoch")

    # --- commit -------------------------------------------------------------------------------------------------------

    def _count_commit(self) -> None:
        node, log = self._node, self._node.log
        voters = log.membership.voters
        matches = sorted(node.durability.end if v == node.me else self.peers[v].match for v in voters)
        index = matches[len(matches) - log.membership.majority]
        if index <= node.commit or not self._may_commit(index):
            return
        first = node.commit + 1
        for entry in log.slice(first, index, index - first + 1, 1 << 62):
            self._uncommitted_bytes -= len(entry.payload)
        node.advance_commit(index)
        while self.tokens and self.tokens[0][0] <= index:
            at, token = self.tokens.popleft()
            node.emit(Committed(token, at))
        if not self.active and index >= self._fence:
            self.active = True
            node.emit(BecomeActive(node.epoch))
        if node.me not in voters and log.membership_index <= index:
            self._leave()

    def _may_commit(self, index: int) -> bool:
        # Entries of earlier epochs are not committed by being on a majority (figure 8 of the Raft paper).
        return self._node.log.epoch_at(index) == self._node.epoch

    def _leave(self) -> None:
        """We removed ourselves; the voter that has most need not wait for our silence."""
        heir = self._best_voter()
        if heir is not None:
            for voter, peer in self.peers.items():
                send_beat(self._node, self.reads.round, voter, peer)
            self._node.send(TransferRequest(self._node.me, heir, self._node.epoch))
        self._node.become_follower(None)

    # --- time ---------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """A beat is due; or nobody hears us any more, or does not answer."""
        node = self._node
        self._beat_ms = node.now_ms + node.config.beat_ms
        if not self._hears_majority(node.log.membership, answered=False):
            node.become_follower(None)
            return
        if self.successor is not None and node.now_ms >= self.successor[2]:
            node.emit(Dropped(self.successor[1], f"{self.successor[0]} has not taken over in time"))
            self.successor = None
        self._commit_at_beat = node.commit
        for voter, peer in self.peers.items():
            peer.waiting = False
            send_beat(node, self.reads.round, voter, peer)
        self._hand_over()

    def _hears_majority(self, membership: Membership, answered: bool) -> bool:
        node, peers = self._node, self.peers
        since = node.now_ms - node.config.election_timeout_ms_max
        heard = sum(
            v == node.me or (peers[v].heard_ms > since and peers[v].answered >= answered) for v in membership.voters
        )
        return heard >= membership.majority

    def retire(self) -> None:
        """No longer leader: what it has not committed may yet be, under somebody else."""
        node = self._node
        for _, token in self.tokens:
            node.emit(Dropped(token, "the coordinator stepped down", unknown=True))
        for effect in self.reads.drop("the coordinator stepped down"):
            node.emit(effect)
        if self.active:
            node.emit(StepDown(self.epoch))
        self.tokens.clear()
        self.active = False

    def validate(self) -> None:
        """Asserts every invariant."""
        node, log = self._node, self._node.log
        assert node.vote == node.me and node.epoch == self.epoch
        members = (*log.membership.voters, *log.membership.learners)
        assert list(self.peers) == [voter for voter in members if voter != node.me]
        for peer in self.peers.values():
            peer.validate(log.end, node.config.inflight_max)
        if self.tokens:
            assert node.commit < self.tokens[0][0] and self.tokens[-1][0] <= log.end
        assert not self.active or log.membership_index <= node.commit or log.memberships_above(node.commit) == 1
        assert self.active == (node.commit >= self._fence)
        assert self._uncommitted_bytes >= 0
