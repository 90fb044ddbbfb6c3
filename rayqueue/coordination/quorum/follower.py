"""Following a leader: adopting its entries, or its snapshot, and noticing its silence. Learners are followers too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.coordination.quorum.events import Truncate
from rayqueue.coordination.quorum.messages import (
    AnyMessage,
    AppendReply,
    AppendRequest,
    Entry,
    SnapshotRequest,
    TransferRequest,
)
from rayqueue.coordination.quorum.snapshots import receive_chunk

if TYPE_CHECKING:
    from rayqueue.coordination.quorum.machine import QuorumMachine


class Follower:
    """A voter or learner that leads nothing."""

    def __init__(self, node: QuorumMachine) -> None:
        self._node = node
        alone = node.log.membership.voters == (node.me,)  # then there is nobody to hear of, and nobody to wait for
        self._deadline_ms = node.now_ms if alone else node.election_deadline_ms()

    @property
    def name(self) -> str:
        """Its role in words."""
        return "follower" if self._node.may_lead else "learner"

    @property
    def deadline_ms(self) -> int | None:
        """When to stand for election; a learner never does."""
        return self._deadline_ms if self._node.may_lead else None

    def receive(self, message: AnyMessage) -> None:
        """A message of our epoch."""
        match message:
            case AppendRequest():
                self._hear(message)
                self._append(message)
            case SnapshotRequest():
                self._hear(message)
                receive_chunk(self._node, message)
            case TransferRequest() if self._node.may_lead:
                self._node.stand(pre=False, forced=True)
            case _:
                pass

    def _hear(self, message: AnyMessage) -> None:
        node = self._node
        node.know_leader(message.sender)
        node.heard_ms = node.now_ms
        self._deadline_ms = node.election_deadline_ms()

    def lost_leader(self) -> None:
        """Its connection broke. If it lives, its next beat takes this back; if not, all voters know, one stands soon.

        Not at once: all at once would split the votes.
        """
        node = self._node
        node.heard_ms = node.now_ms - node.config.election_timeout_ms_min
        self._deadline_ms = min(self._deadline_ms, node.now_ms + node.random.randint(0, node.config.beat_ms))

    def voted(self) -> None:
        """Whoever has our vote gets time to use it."""
        self._deadline_ms = self._node.election_deadline_ms()

    def persisted(self) -> None:
        """Nothing of a follower's own waits for the disk but its promises."""

    def expire(self) -> None:
        """The leader is silent."""
        self._node.stand(pre=True)

    def _append(self, request: AppendRequest) -> None:
        node, log = self._node, self._node.log
        prev, entries = request.prev_index, request.entries
        end = prev + len(entries)
        if prev < node.commit:
            # What is committed is the same in every leader's log; ours may be gone from memory.
            entries = entries[node.commit - prev :]
            end = max(prev + len(request.entries), node.commit)
        elif log.epoch_at(prev) != request.prev_epoch:
            self._reject(request)
            return
        new = self._cut_mismatch(entries)
        if new:
            node.append(new)
            node.promise(AppendReply(node.me, request.sender, node.epoch, end, request.round))
        else:
            match = min(end, node.durability.end)
            node.answer(AppendReply(node.me, request.sender, node.epoch, match, request.round))
        node.advance_commit(min(request.commit, end))

    def _cut_mismatch(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """The entries that we do not have; what stood in their place is cut off."""
        node, log = self._node, self._node.log
        for position, entry in enumerate(entries):
            if entry.index > log.end:
                return entries[position:]
            if log.epoch_at(entry.index) != entry.epoch:
                assert entry.index > node.commit
                log.truncate(entry.index - 1)
                node.durability.cut(entry.index - 1)
                node.emit(Truncate(node.durability.write(), entry.index - 1))
                return entries[position:]
        return ()

    def _reject(self, request: AppendRequest) -> None:
        node = self._node
        index, epoch = node.log.last_at_most(request.prev_index, request.prev_epoch)
        node.answer(
            AppendReply(node.me, request.sender, node.epoch, 0, request.round, True, request.prev_index, index, epoch)
        )

    def validate(self) -> None:
        """Asserts every invariant."""
        assert self._deadline_ms <= self._node.now_ms + self._node.config.election_timeout_ms_max
