"""Snapshots on the receiving side, and our own: taking one, and letting go of the log below it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.coordination.quorum.events import Compact, InstallSnapshot, Restore, SaveSnapshot, SnapshotTaken
from rayqueue.coordination.quorum.messages import AppendReply, Snapshot, SnapshotReply, SnapshotRequest

if TYPE_CHECKING:
    from rayqueue.coordination.quorum.machine import QuorumMachine


class Incoming:
    """A leader's snapshot of which the first parts have come. Invariant: received <= total <= snapshot_bytes_max."""

    def __init__(self, request: SnapshotRequest) -> None:
        self.index, self.epoch = request.index, request.last_epoch
        self.total = request.total
        self.received = 0
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        """The next part."""
        self._parts.append(data)
        self.received += len(data)

    @property
    def data(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)


def receive_chunk(node: QuorumMachine, request: SnapshotRequest) -> None:
    """Adds a part of the leader's snapshot; with the last one installs it."""
    if request.index <= node.commit:
        _acknowledge(node, request)
        return
    if node.log.epoch_at(request.index) == request.last_epoch:
        # We have that entry, hence all before it. Our log may reach further, and we have promised what it holds.
        node.advance_commit(request.index)
        _acknowledge(node, request)
        return
    if request.total > node.config.snapshot_bytes_max:
        return
    incoming = node.incoming
    if incoming is None or (incoming.index, incoming.epoch) != (request.index, request.last_epoch):
        incoming = node.incoming = Incoming(request)
    if request.offset == incoming.received and len(request.data) <= incoming.total - incoming.received:
        incoming.add(request.data)
    if incoming.received < incoming.total or request.offset > incoming.received:
        node.answer(SnapshotReply(node.me, request.sender, node.epoch, request.index, incoming.received, request.round))
        return
    node.incoming = None
    _install(node, Snapshot(request.index, request.last_epoch, request.membership, incoming.data))
    node.promise(AppendReply(node.me, request.sender, node.epoch, request.index, request.round))


def _acknowledge(node: QuorumMachine, request: SnapshotRequest) -> None:
    node.incoming = None
    match = min(node.commit, node.durability.end)
    node.answer(AppendReply(node.me, request.sender, node.epoch, match, request.round))


def _install(node: QuorumMachine, snapshot: Snapshot) -> None:
    # Until the write is durable, the disk holds our old log: what of it is committed still counts.
    node.durability.cut(node.commit)
    node.log.install(snapshot)
    write = node.durability.write()
    node.durability.grows(write, snapshot.index)
    node.emit(InstallSnapshot(write, snapshot))
    node.commit = node.applied = snapshot.index
    node.saving, node.snapshot_asked = None, False
    node.emit(Restore(snapshot))


def snapshot_taken(node: QuorumMachine, event: SnapshotTaken) -> None:
    """The state machine has encoded its state; keep it, unless a leader's newer one has come meanwhile."""
    if not node.snapshot_asked or event.index <= node.log.snapshot.index:
        return
    epoch = node.log.epoch_at(event.index)
    assert epoch is not None and event.index <= node.applied
    snapshot = Snapshot(event.index, epoch, node.log.membership_at(event.index), event.data)
    write = node.durability.write()
    node.saving = (write, event.index)
    node.log.save(snapshot)
    node.emit(SaveSnapshot(write, snapshot))


def snapshot_persisted(node: QuorumMachine) -> None:
    """Once our own snapshot is durable the log below it may go, but for what followers may still need."""
    if node.saving is None or node.durability.done < node.saving[0]:
        return
    _, index = node.saving
    node.saving, node.snapshot_asked = None, False
    base = index - node.config.kept_entries
    if base > node.log.base_index:
        node.log.compact(base)
        node.emit(Compact(node.durability.write(), base, node.log.base_epoch))
