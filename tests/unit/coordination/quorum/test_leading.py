"""A leader, seen by itself: proposals and their bounds, commitment, changes, transfer, failure of its disk."""

from __future__ import annotations

import pytest

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
    TransferRequest,
    VoteReply,
    first_entries,
)
from tests.unit.coordination.quorum.harness import A, B, C, D, Solo

TRIO = Membership((A, B, C))


def test_only_an_active_leader_takes_requests() -> None:
    node = Solo()
    for event in (ev.Propose(1, b"x"), ev.Read(2), ev.ChangeMembership(3, ev.Action.REMOVE, C), ev.Transfer(4)):
        node.step(event)
        assert node.effects == [ev.Dropped(event.token, "not the active coordinator")]
    node.wait(1_000)
    node.step(VoteReply(B, A, 2, True, pre=True))
    node.step(VoteReply(B, A, 2, True))
    assert node.machine.role.name == "leader"
    node.step(ev.Propose(5, b"x"))
    assert node.effects == [ev.Dropped(5, "the epoch is not fenced yet")]


@pytest.mark.parametrize(
    ("config", "payload", "reason"),
    [
        ({"entry_bytes_max": 3}, b"long", "4 bytes are more than 3"),
        ({"uncommitted_entries_max": 1}, b"x", "too many proposals are uncommitted"),
        ({"uncommitted_bytes_max": 7}, b"four", "too many bytes of proposals are uncommitted"),
    ],
)
def test_proposals_are_bounded(config: dict[str, int], payload: bytes, reason: str) -> None:
    node = Solo(**config).elect()
    node.step(ev.Propose(1, payload))
    node.step(ev.Propose(2, payload))
    assert node.effects == [ev.Dropped(2, reason)]
    node.ack(B)
    node.step(ev.Propose(3, b"x"))
    assert not node.got(ev.Dropped)


def test_a_proposal_is_committed_by_a_majority_that_has_it_durably() -> None:
    node = Solo().elect()
    node.step(ev.Propose(7, b"x"), durable=False)
    node.step(AppendReply(B, A, 2, 3, 0), durable=False)
    assert not node.got(ev.Committed), "our own copy is not durable yet"
    node.persist()
    assert node.got(ev.Committed) == [ev.Committed(7, 3)]
    node.step(ev.Propose(8, b"y"), durable=False)
    node.step(AppendReply(B, A, 2, 4, 0), durable=False)
    node.step(AppendReply(C, A, 2, 4, 0), durable=False)
    assert node.got(ev.Committed) == [ev.Committed(8, 4)], "the others are a majority without us"


def test_entries_of_earlier_epochs_are_not_committed_by_counting() -> None:
    """Figure 8 of the Raft paper."""
    entries = [*first_entries(TRIO), Entry(2, 2), Entry(3, 2)]
    node = Solo(stored=Stored(epoch=3, entries=entries))
    node.wait(1_000)
    node.step(VoteReply(B, A, 4, True, pre=True))
    node.step(VoteReply(B, A, 4, True))
    node.ack(B, match=3)
    assert node.machine.commit == 0 and not node.got(ev.Apply)
    node.ack(B, match=4)
    assert [e.index for e in node.got(ev.Apply)[0].entries] == [1, 2, 3, 4] and node.machine.is_active


def test_the_window_to_a_peer_is_bounded() -> None:
    node = Solo(inflight_max=2).elect(B, C)
    for token in range(5):
        node.step(ev.Propose(token, b"x"))
    assert len(node.machine.role.peers[B].inflight) == 2
    node.ack(B, match=3)
    assert [[e.index for e in r.entries] for r in node.sent(AppendRequest) if r.to == B] == [[5, 6, 7]]


def test_answers_of_strangers_and_foreign_kinds_are_ignored() -> None:
    node = Solo().elect()
    node.step(AppendReply(D, A, 2, 99, 0))
    node.step(VoteReply(C, A, 2, True))
    node.step(SnapshotReply(B, A, 2, 5, 5, 0))
    assert node.effects == [] and node.machine.commit == 2


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_change_needs_the_voters_that_remain_to_be_heard() -> None:
    node = Solo().elect()  # C has never answered
    node.step(ev.ChangeMembership(1, ev.Action.REMOVE, B))
    assert node.effects == [ev.Dropped(1, "too few of the voters there would be then are heard")]
    node.step(ev.ChangeMembership(2, ev.Action.REMOVE, C))
    assert node.machine.log.membership == Membership((A, B))
    node.step(ev.ChangeMembership(3, ev.Action.ADD_LEARNER, D))
    assert node.effects == [ev.Dropped(3, "another change is under way")]
    node.ack(B)
    assert node.got(ev.Committed) == [ev.Committed(2, 3)]
    node.step(ev.ChangeMembership(4, ev.Action.REMOVE, C))
    assert node.effects == [ev.Dropped(4, f"{C} is not there")]


def test_a_learner_is_promoted_when_it_has_caught_up() -> None:
    node = Solo((A, B)).elect()
    node.step(ev.ChangeMembership(1, ev.Action.ADD_LEARNER, D))
    node.ack(B)
    node.step(ev.ChangeMembership(2, ev.Action.PROMOTE, D))
    assert node.effects == [ev.Dropped(2, f"{D} has not caught up")]
    node.ack(D)
    assert [p.caught_up for p in node.machine.status().peers] == [True, True]
    node.step(ev.ChangeMembership(3, ev.Action.PROMOTE, D))
    node.ack(B)
    node.ack(D)
    assert node.machine.log.membership == Membership((A, B, D)) and node.machine.commit == 4


def test_a_removed_leader_leads_until_that_is_committed() -> None:
    node = Solo().elect(B, C)
    node.step(ev.ChangeMembership(1, ev.Action.REMOVE, A))
    node.ack(B)
    assert node.machine.is_active, "it does not count itself"
    node.ack(C)
    assert node.got(ev.Committed) == [ev.Committed(1, 3)] and node.got(ev.StepDown) == [ev.StepDown(2)]
    assert [request.to for request in node.sent(TransferRequest)] == [B]
    assert node.machine.next_deadline_ms() is None


# --- transfer ---------------------------------------------------------------------------------------------------------


def test_transfer_waits_for_the_successor_and_gives_up() -> None:
    node = Solo().elect(B, C)
    node.step(ev.Propose(1, b"x"))
    node.ack(C)
    node.step(ev.Transfer(2, B))
    assert not node.sent(TransferRequest)
    node.step(ev.Propose(3, b"y"))
    assert node.effects == [ev.Dropped(3, "the lead is being handed over")]
    node.step(ev.Read(4))
    assert not node.got(ev.Dropped)
    node.ack(B)
    assert node.sent(TransferRequest) == [TransferRequest(A, B, 2)]
    for _ in range(5):
        node.wait(200)
        node.ack(B)
    assert node.machine.is_active
    node.wait(200)
    assert node.machine.role.successor is None
    node.step(ev.Propose(5, b"y"))
    assert not node.got(ev.Dropped)


def test_transfer_goes_to_a_voter_that_has_most() -> None:
    node = Solo().elect(B, C)
    node.step(ev.Propose(1, b"x"))
    node.ack(C)
    for wrong in (A, D):
        node.step(ev.Transfer(2, wrong))
        assert node.effects == [ev.Dropped(2, f"{wrong} cannot lead")]
    node.step(ev.Transfer(3))
    assert node.sent(TransferRequest) == [TransferRequest(A, C, 2)]
    assert Solo((A,)).elect_alone().step(ev.Transfer(4)) == [ev.Dropped(4, "None cannot lead")]


# --- silence, failure -------------------------------------------------------------------------------------------------


def test_a_leader_that_hears_no_majority_steps_down() -> None:
    node = Solo().elect()
    node.step(ev.Propose(1, b"x"))
    node.step(ev.Read(2))
    for _ in range(4):
        node.wait(200)
        assert node.machine.is_active
    node.wait(200)
    assert node.effects[:3] == [
        ev.Dropped(1, "the coordinator stepped down", unknown=True),
        ev.Dropped(2, "the coordinator stepped down"),
        ev.StepDown(2),
    ]
    assert node.machine.status().role == "follower"


def test_a_leader_that_was_stopped_refuses_what_it_finds_first() -> None:
    node = Solo().elect()
    node.now_ms += 5_000
    node.step(ev.Propose(1, b"x"))
    assert node.got(ev.Dropped) == [ev.Dropped(1, "not the active coordinator")] and node.machine.log.end == 2


def test_a_failed_disk_ends_a_node() -> None:
    node = Solo().elect()
    node.step(ev.Propose(1, b"x"))
    node.step(ev.StorageFailed("no space"))
    assert node.got(ev.Dropped)[0].unknown and node.got(ev.StepDown)
    assert node.machine.next_deadline_ms() is None and node.machine.status().role == "halted"
    node.step(ev.Propose(2, b"y"))
    assert node.effects == [ev.Dropped(2, "no space")]
    node.append(B, 9, (1, 1))
    node.wait(60_000)
    assert node.effects == []
    other = Solo()
    other.step(ev.StorageFailed(""))
    assert other.machine.halted == "the disk failed"


def test_a_leader_whose_disk_hangs_hands_over() -> None:
    node = Solo(uncommitted_entries_max=1).elect(B, C)
    node.step(ev.Propose(1, b"x"), durable=False)
    for peer in (B, C):
        node.step(AppendReply(peer, A, 2, 3, 0), durable=False)
    assert node.machine.commit == 3, "the others commit it"
    node.step(ev.Propose(2, b"y"), durable=False)
    assert node.effects == [ev.Dropped(2, "too many proposals are uncommitted")], "our memory is bounded"
    for _ in range(15):
        node.wait(200, durable=False)
        node.step(AppendReply(B, A, 2, 3, 0), durable=False)
        assert node.machine.is_active
    node.wait(200, durable=False)
    assert [request.to for request in node.sent(TransferRequest)] == [B] and node.got(ev.StepDown)


def test_a_read_round_counts_only_answers_to_it() -> None:
    node = Solo().elect(B, C)
    node.step(ev.Read(1))
    assert [r.round for r in node.sent(AppendRequest)] == [1, 1]
    node.step(ev.Read(2))
    assert node.effects == [], "it waits for the next round"
    node.ack(B, round_=0)
    assert node.effects == []
    node.ack(C, round_=1)
    assert node.effects[0] == ev.ReadReady(1, 2) and [r.round for r in node.sent(AppendRequest)] == [2, 2]
    node.ack(C, round_=2)
    assert node.effects == [ev.ReadReady(2, 2)]


# --- snapshots to a peer ----------------------------------------------------------------------------------------------


def with_snapshot() -> Solo:
    """A leader whose log begins after index 2."""
    stored = Stored(3, A, Snapshot(2, 3, TRIO, b"0123456789"), 2, 3, [Entry(3, 3), Entry(4, 3)])
    node = Solo(stored=stored, snapshot_chunk_bytes=4)
    assert node.step(ev.Tick()) == [ev.Restore(stored.snapshot)]
    return node.elect()


def test_a_peer_without_the_base_gets_the_snapshot_in_parts() -> None:
    node = with_snapshot()
    node.step(AppendReply(C, A, 4, 0, 0, True, 4, 0, 0))
    assert [(r.offset, r.data, r.total) for r in node.sent(SnapshotRequest)] == [(0, b"0123", 10)]
    node.step(SnapshotReply(C, A, 4, 2, 4, 0))
    assert [(r.offset, r.data) for r in node.sent(SnapshotRequest)] == [(4, b"4567")]
    node.step(SnapshotReply(C, A, 4, 2, 4, 0))
    assert node.effects == [], "the answer to a part that came twice"
    node.step(ev.Read(1))
    assert [(r.to, r.prev_index) for r in node.sent(AppendRequest)] == [(B, 5), (C, 2)], "a read sends no part again"
    node.ack(C, match=0, round_=1)
    assert node.got(ev.ReadReady)
    node.wait(200)
    assert not node.sent(SnapshotRequest), "it may be on its way"
    node.ack(B)
    node.wait(200)
    assert [(r.to, r.offset) for r in node.sent(SnapshotRequest)] == [(C, 4)], "a lost part is sent again"
    node.step(SnapshotReply(C, A, 4, 2, 0, 0))
    assert [r.offset for r in node.sent(SnapshotRequest)] == [0], "the peer was restarted in between"
    node.ack(C, match=2)
    assert [[e.index for e in r.entries] for r in node.sent(AppendRequest)] == [[3, 4, 5]]


def test_a_peer_that_waits_while_the_log_is_compacted_gets_the_snapshot() -> None:
    node = Solo(snapshot_after_entries=4, kept_entries=0).elect()
    node.ack(C)
    for token in range(3):
        node.step(ev.Propose(token, b"x"))
        node.ack(B)
    assert node.got(ev.TakeSnapshot) == [] or node.machine.snapshot_asked
    node.step(ev.SnapshotTaken(node.machine.commit, b"state"))
    assert node.got(ev.SaveSnapshot) and node.got(ev.Compact)
    node.machine.role.peers[C].next = node.machine.log.base_index
    node.wait(200)
    assert [r.to for r in node.sent(SnapshotRequest)] == [C]
