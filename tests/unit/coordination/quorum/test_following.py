"""A follower, seen by itself: what it adopts, cuts, refuses and acknowledges, and how a snapshot gets in."""

from __future__ import annotations

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Membership,
    Snapshot,
    SnapshotReply,
    SnapshotRequest,
    Stored,
    VoteReply,
    first_entries,
)
from tests.unit.coordination.quorum.harness import A, B, C, Solo

TRIO = Membership((A, B, C))


def follower(*entries: Entry, epoch: int = 2, **config: int) -> Solo:
    """A follower with these entries after the first."""
    return Solo(stored=Stored(epoch=epoch, entries=[*first_entries(TRIO), *entries]), **config)


def test_entries_are_acknowledged_when_durable() -> None:
    node = follower()
    node.step(AppendRequest(B, A, 2, 1, 1, (Entry(2, 2), Entry(3, 2)), 1, 5), durable=False)
    assert node.got(ev.Append)[0].entries == (Entry(2, 2), Entry(3, 2)) and not node.sent(AppendReply)
    node.persist()
    assert node.sent(AppendReply) == [AppendReply(A, B, 2, 3, 5)]
    node.append(B, 2, (1, 1), Entry(2, 2), Entry(3, 2))
    assert node.sent(AppendReply) == [AppendReply(A, B, 2, 3, 0)] and not node.got(ev.Append)


def test_a_beat_acknowledges_only_what_is_durable() -> None:
    node = follower()
    node.step(AppendRequest(B, A, 2, 1, 1, (Entry(2, 2),), 1, 0), durable=False)
    node.step(AppendRequest(B, A, 2, 2, 2, (), 1, 0), durable=False)
    assert [reply.match for reply in node.sent(AppendReply)] == [1]


def test_a_mismatch_is_refused_with_a_hint() -> None:
    node = follower(Entry(2, 2), Entry(3, 4), Entry(4, 4), epoch=5)
    node.append(B, 5, (9, 5))
    assert node.sent(AppendReply) == [AppendReply(A, B, 5, 0, 0, True, 9, 4, 4)]
    node.append(B, 5, (4, 3))
    assert node.sent(AppendReply) == [AppendReply(A, B, 5, 0, 0, True, 4, 2, 2)]


def test_what_differs_is_cut_and_replaced() -> None:
    node = follower(Entry(2, 2), Entry(3, 2), Entry(4, 2))
    node.append(B, 3, (1, 1), Entry(2, 2), Entry(3, 3))
    assert [e.end for e in node.got(ev.Truncate)] == [2] and node.got(ev.Append)[0].entries == (Entry(3, 3),)
    assert [reply.match for reply in node.sent(AppendReply)] == [3] and node.machine.log.end == 3


def test_a_short_append_cuts_nothing() -> None:
    node = follower(Entry(2, 2), Entry(3, 2), Entry(4, 2))
    node.append(B, 2, (1, 1), Entry(2, 2))
    assert node.machine.log.end == 4 and [reply.match for reply in node.sent(AppendReply)] == [2]


def test_only_what_was_compared_is_committed() -> None:
    node = follower(Entry(2, 2), Entry(3, 2))
    node.append(B, 3, (2, 2), commit=9)
    assert node.machine.commit == 2 and [e.index for e in node.got(ev.Apply)[0].entries] == [1, 2]
    node.append(B, 3, (1, 1), Entry(2, 2), commit=1)
    assert node.machine.commit == 2 and [reply.match for reply in node.sent(AppendReply)] == [2]
    node.append(B, 3, (0, 0), *first_entries(TRIO), Entry(2, 2), Entry(3, 3), commit=3)
    assert node.machine.commit == 3 and node.machine.log.epoch_at(3) == 3


def test_foreign_kinds_are_ignored() -> None:
    node = follower()
    node.step(AppendReply(B, A, 2, 9, 0))
    node.step(VoteReply(B, A, 2, True))
    assert node.effects == []


# --- a leader's snapshot ----------------------------------------------------------------------------------------------


def part(offset: int, data: bytes, index: int = 9, total: int = 6, epoch: int = 3) -> SnapshotRequest:
    """A part of the leader's snapshot at `index`."""
    return SnapshotRequest(B, A, 3, index, epoch, Membership((A, B)), offset, total, data, 0)


def test_a_snapshot_replaces_log_and_state() -> None:
    node = follower(Entry(2, 2))
    node.step(part(0, b"abc"))
    assert node.sent(SnapshotReply) == [SnapshotReply(A, B, 3, 9, 3, 0)]
    node.step(part(0, b"abc"))
    node.step(part(4, b"zz"))
    assert node.sent(SnapshotReply) == [SnapshotReply(A, B, 3, 9, 3, 0)], "neither twice nor with a gap"
    node.step(part(3, b"def"), durable=False)
    snapshot = Snapshot(9, 3, Membership((A, B)), b"abcdef")
    assert node.got(ev.Restore) == [ev.Restore(snapshot)] and not node.sent(AppendReply)
    assert (node.machine.commit, node.machine.log.end, node.machine.log.membership) == (9, 9, snapshot.membership)
    node.persist()
    assert node.got(ev.InstallSnapshot)[0].snapshot == snapshot and [r.match for r in node.sent(AppendReply)] == [9]
    node.step(part(0, b"abc"))
    assert [r.match for r in node.sent(AppendReply)] == [9] and node.machine.incoming is None


def test_a_snapshot_of_what_we_have_costs_nothing() -> None:
    """It must not replace the log, either: that may reach further, and was acknowledged."""
    node = follower(Entry(2, 3), Entry(3, 3), epoch=3)
    node.step(part(0, b"abc", index=2))
    assert (node.machine.commit, node.machine.log.end) == (2, 3) and not node.got(ev.InstallSnapshot)
    assert [r.match for r in node.sent(AppendReply)] == [2]


def test_a_newer_snapshot_begins_anew_and_a_huge_one_is_not_taken() -> None:
    node = follower(snapshot_bytes_max=10)
    node.step(part(0, b"abc"))
    node.step(part(0, b"xyz", index=12))
    assert node.sent(SnapshotReply) == [SnapshotReply(A, B, 3, 12, 3, 0)]
    node.step(part(0, b"x", index=20, total=11))
    assert node.effects == []
    node.step(part(3, b"1234", index=12))
    assert node.sent(SnapshotReply) == [SnapshotReply(A, B, 3, 12, 3, 0)], "more than was announced"


def test_a_new_epoch_forgets_half_a_snapshot() -> None:
    node = follower()
    node.step(part(0, b"abc"))
    node.ask_vote(C, 4, (9, 9), forced=True)
    assert node.machine.incoming is None


def test_half_installed_is_finished_at_the_start() -> None:
    snapshot = Snapshot(9, 3, TRIO, b"state")
    node = Solo(stored=Stored(3, None, snapshot, entries=[*first_entries(TRIO), Entry(2, 2)]))
    node.step(ev.Tick())
    assert node.effects == [ev.Restore(snapshot), ev.InstallSnapshot(1, snapshot)]
    assert (node.machine.log.end, node.machine.commit) == (9, 9)


# --- our own snapshot -------------------------------------------------------------------------------------------------


def test_a_snapshot_is_asked_for_kept_and_then_the_log_goes() -> None:
    node = follower(snapshot_after_entries=4, kept_entries=1)
    node.append(B, 2, (1, 1), *(Entry(i, 2) for i in range(2, 6)), commit=4)
    assert node.got(ev.TakeSnapshot) == [ev.TakeSnapshot(4)]
    node.append(B, 2, (5, 2), commit=5)
    assert not node.got(ev.TakeSnapshot), "one at a time"
    node.step(ev.SnapshotTaken(4, b"state"), durable=False)
    assert node.got(ev.SaveSnapshot)[0].snapshot == Snapshot(4, 2, TRIO, b"state") and not node.got(ev.Compact)
    node.persist()
    assert [(e.index, e.epoch) for e in node.got(ev.Compact)] == [(3, 2)] and node.machine.log.base_index == 3
    node.step(ev.SnapshotTaken(4, b"state"))
    assert node.effects == [], "asked for once"


def test_bytes_ask_for_a_snapshot_too_and_a_short_log_is_kept() -> None:
    node = follower(snapshot_after_bytes=6, kept_entries=5)
    node.append(B, 2, (1, 1), Entry(2, 2, 0, b"0123456789"), commit=2)
    assert node.got(ev.TakeSnapshot)
    node.step(ev.SnapshotTaken(2, b"state"))
    assert node.got(ev.SaveSnapshot) and not node.got(ev.Compact)


def test_a_leaders_snapshot_overtakes_our_own() -> None:
    node = follower(snapshot_after_entries=2)
    node.append(B, 2, (1, 1), Entry(2, 2), commit=2)
    node.step(part(0, b"abcdef"))
    node.step(ev.SnapshotTaken(2, b"state"))
    assert node.effects == [] and node.machine.log.snapshot.index == 9
