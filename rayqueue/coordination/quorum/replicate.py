"""What a leader sends to one peer: entries, a beat, or a part of a snapshot, as its progress asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.coordination.quorum.messages import AppendRequest, Entry, SnapshotRequest, Voter
from rayqueue.coordination.quorum.progress import Mode, Progress

if TYPE_CHECKING:
    from rayqueue.coordination.quorum.machine import QuorumMachine


def send_appends(node: QuorumMachine, round_: int, voter: Voter, peer: Progress) -> None:
    """All that may be sent now: in probe mode one message, in pipeline mode what the window leaves room for."""
    log, config = node.log, node.config
    while not peer.waiting and peer.mode is not Mode.SNAPSHOT:
        if peer.mode is Mode.PIPELINE and (peer.next > log.end or len(peer.inflight) >= config.inflight_max):
            return
        if peer.next <= log.base_index:
            peer.begin_snapshot(log.snapshot)
            send_chunk(node, round_, voter, peer)
            return
        entries = log.slice(peer.next, log.end, config.append_entries_max, config.append_bytes_max)
        _send(node, round_, voter, peer, entries)
        if peer.mode is Mode.PROBE:
            peer.waiting = True
        else:
            peer.next += len(entries)
            peer.inflight.append(peer.next - 1)


def send_beat(node: QuorumMachine, round_: int, voter: Voter, peer: Progress) -> None:
    """Shows that we lead, and finds out what was lost: the peer rejects it if it lacks what it was sent before."""
    if peer.mode is Mode.SNAPSHOT:
        send_chunk(node, round_, voter, peer)
    elif peer.mode is Mode.PROBE and not peer.waiting:
        send_appends(node, round_, voter, peer)
    elif peer.next <= node.log.base_index:
        peer.begin_snapshot(node.log.snapshot)
        send_chunk(node, round_, voter, peer)
    else:
        _send(node, round_, voter, peer, ())


def _send(node: QuorumMachine, round_: int, voter: Voter, peer: Progress, entries: tuple[Entry, ...]) -> None:
    prev = peer.next - 1
    prev_epoch = node.log.epoch_at(prev)
    assert prev_epoch is not None
    node.send(AppendRequest(node.me, voter, node.epoch, prev, prev_epoch, entries, node.commit, round_))


def send_chunk(node: QuorumMachine, round_: int, voter: Voter, peer: Progress) -> None:
    """The next part of the snapshot."""
    snapshot = peer.snapshot
    assert snapshot is not None
    data = snapshot.data[peer.offset : peer.offset + node.config.snapshot_chunk_bytes]
    node.send(
        SnapshotRequest(
            node.me,
            voter,
            node.epoch,
            snapshot.index,
            snapshot.epoch,
            snapshot.membership,
            peer.offset,
            len(snapshot.data),
            data,
            round_,
        )
    )
