"""Elections, seen from one node: to whom it gives its vote, and when it stands itself."""

from __future__ import annotations

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Membership,
    SnapshotRequest,
    Stored,
    TransferRequest,
    Voter,
    VoteReply,
    VoteRequest,
    first_entries,
)
from tests.unit.coordination.quorum.harness import A, B, C, D, Solo


def test_one_vote_an_epoch_and_the_same_again() -> None:
    node = Solo()
    node.ask_vote(B, 2, (1, 1))
    assert node.sent(VoteReply) == [VoteReply(A, B, 2, True)]
    node.ask_vote(C, 2, (9, 1))
    assert node.sent(VoteReply) == [VoteReply(A, C, 2, False)]
    node.ask_vote(B, 2, (1, 1))
    assert node.sent(VoteReply) == [VoteReply(A, B, 2, True)] and not node.got(ev.PersistVote)


def test_a_vote_is_given_only_when_it_is_durable() -> None:
    node = Solo()
    node.step(VoteRequest(B, A, 2, 1, 1), durable=False)
    assert node.got(ev.PersistVote)[-1].vote == B and not node.sent(VoteReply)
    assert [e.message.granted for e in node.persist() if isinstance(e, ev.Send)] == [True]


def test_a_promise_of_an_epoch_that_is_over_is_not_sent() -> None:
    node = Solo()
    node.step(VoteRequest(B, A, 2, 1, 1), durable=False)
    node.step(VoteRequest(C, A, 3, 1, 1), durable=False)
    node.persist()
    assert node.sent(VoteReply) == [VoteReply(A, C, 3, True)]


def test_no_vote_for_a_shorter_log() -> None:
    node = Solo(stored=Stored(epoch=3, entries=[*first_entries(Membership((A, B, C))), Entry(2, 3)]))
    node.ask_vote(B, 4, (9, 2))
    assert node.sent(VoteReply) == [VoteReply(A, B, 4, False)]
    node.ask_vote(B, 5, (9, 2), pre=True)
    assert node.sent(VoteReply) == [VoteReply(A, B, 4, False, pre=True)]


def test_a_pre_vote_changes_nothing() -> None:
    node = Solo()
    node.ask_vote(B, 7, (1, 1), pre=True)
    assert node.sent(VoteReply) == [VoteReply(A, B, 7, True, pre=True)]
    assert (node.machine.epoch, node.machine.vote) == (1, None) and not node.got(ev.PersistVote)


def test_who_hears_a_leader_helps_nobody_else() -> None:
    node = Solo()
    node.append(B, 2, (1, 1), Entry(2, 2))
    node.wait(599)
    node.ask_vote(C, 3, (9, 9), pre=True)
    assert node.sent(VoteReply) == [VoteReply(A, C, 2, False, pre=True)]
    node.ask_vote(C, 3, (9, 9))
    assert node.effects == [] and node.machine.epoch == 2
    node.ask_vote(C, 3, (9, 9), forced=True)
    assert node.sent(VoteReply) == [VoteReply(A, C, 3, True)]


def test_who_has_not_heard_the_leader_lately_does() -> None:
    node = Solo()
    node.append(B, 2, (1, 1), Entry(2, 2))
    node.now_ms += 600
    node.ask_vote(C, 3, (9, 9), pre=True)
    assert node.sent(VoteReply)[-1].granted


def test_a_broken_connection_to_the_leader_spares_the_wait() -> None:
    node = Solo()
    node.append(B, 2, (1, 1), Entry(2, 2))
    node.step(ev.PeerLost(C))
    assert (node.machine.next_deadline_ms() or 0) >= node.now_ms + 600, "that is not the leader"
    node.step(ev.PeerLost(B))
    assert (node.machine.next_deadline_ms() or 0) <= node.now_ms + 200
    node.ask_vote(C, 3, (9, 9), pre=True)
    assert node.sent(VoteReply)[-1].granted
    node.append(B, 2, (2, 2))
    assert (node.machine.next_deadline_ms() or 0) >= node.now_ms + 600, "it lives"


def test_a_leader_is_not_deposed_by_somebody_who_cannot_hear_it() -> None:
    node = Solo().elect()
    node.ask_vote(C, 9, (9, 9))
    assert node.machine.is_active and node.effects == []
    node.ask_vote(C, 9, (9, 9), forced=True)
    assert not node.machine.is_active and node.got(ev.StepDown) == [ev.StepDown(2)]


def test_messages_of_old_epochs_are_refused_with_ours() -> None:
    node = Solo(stored=Stored(epoch=5, entries=first_entries(Membership((A, B, C)))))
    node.ask_vote(B, 4, (9, 9))
    assert node.sent(VoteReply) == [VoteReply(A, B, 5, False)]
    node.append(B, 4, (1, 1), Entry(2, 4))
    assert [(r.epoch, r.rejected) for r in node.sent(AppendReply)] == [(5, True)] and node.machine.log.end == 1
    node.step(SnapshotRequest(B, A, 4, 9, 4, Membership((A, B, C)), 0, 1, b"x", 0))
    assert [(r.epoch, r.rejected) for r in node.sent(AppendReply)] == [(5, True)]
    node.step(AppendReply(B, A, 4, 9, 0))
    node.step(TransferRequest(B, A, 4))
    assert node.effects == [] and node.machine.role.name == "follower"


def test_what_is_meant_for_another_directory_is_not_for_us() -> None:
    node = Solo()
    node.step(VoteRequest(B, Voter(1, "old"), 2, 9, 9))
    assert node.effects == [] and node.machine.epoch == 1


def test_votes_are_asked_for_only_when_our_own_is_durable() -> None:
    node = Solo()
    node.wait(1_000)
    node.step(VoteReply(B, A, 2, True, pre=True), durable=False)
    assert node.got(ev.PersistVote) == [ev.PersistVote(1, 2, A)] and not node.sent(VoteRequest)
    node.step(VoteReply(B, A, 2, True), durable=False)  # cannot be: nobody was asked
    assert node.machine.role.name == "candidate"
    assert [request.to for request in node.persist() and node.sent(VoteRequest)] == [B, C]


def test_a_split_vote_begins_anew() -> None:
    node = Solo()
    node.wait(1_000)
    node.step(VoteReply(B, A, 2, True, pre=True))
    node.step(VoteReply(B, A, 2, False))
    assert node.machine.role.name == "candidate"
    node.wait(1_000)
    assert node.machine.role.name == "pre-candidate" and node.sent(VoteRequest)[0].epoch == 3
    node.ask_vote(C, 2, (9, 9))  # of our own epoch: our vote is ours
    assert node.sent(VoteReply) == [VoteReply(A, C, 2, False)]


def test_a_candidate_follows_the_leader_of_its_epoch() -> None:
    node = Solo()
    node.wait(1_000)
    node.step(VoteReply(B, A, 2, True, pre=True))
    node.append(C, 2, (1, 1), Entry(2, 2))
    assert (node.machine.role.name, node.machine.leader) == ("follower", C) and node.machine.log.end == 2
    node.step(VoteReply(B, A, 2, True))
    assert node.machine.role.name == "follower"


def test_a_candidate_ignores_what_is_for_others_and_votes_of_strangers() -> None:
    node = Solo()
    node.wait(1_000)
    node.step(AppendReply(B, A, 1, 1, 0))
    node.step(VoteReply(D, A, 2, True, pre=True))
    assert node.machine.role.name == "pre-candidate"


def test_a_candidate_may_vote_for_another_in_an_epoch_it_has_not_claimed() -> None:
    node = Solo()
    node.wait(1_000)
    node.step(VoteRequest(B, A, 1, 1, 1))
    assert node.sent(VoteReply) == [VoteReply(A, B, 1, True)] and node.machine.role.name == "pre-candidate"


def test_a_learner_never_stands_but_answers() -> None:
    node = Solo(stored=Stored())
    assert node.machine.next_deadline_ms() is None and node.machine.status().role == "learner"
    node.wait(60_000)
    assert node.effects == []
    node.step(TransferRequest(B, A, 0))
    assert node.machine.role.name == "learner"
    node.ask_vote(B, 2, (1, 1))
    assert node.sent(VoteReply)[-1].granted


def test_a_lone_voter_elects_itself() -> None:
    node = Solo((A,))
    node.wait(1_000)
    assert node.machine.is_active and node.got(ev.BecomeActive) == [ev.BecomeActive(2)]
    node.step(ev.Read(1))
    assert node.effects == [ev.ReadReady(1, 2)]


def test_an_epoch_that_reached_only_the_log_counts() -> None:
    stored = Stored(epoch=1, vote=B, entries=[*first_entries(Membership((A, B, C))), Entry(2, 4)])
    node = Solo(stored=stored)
    assert (node.machine.epoch, node.machine.vote) == (4, None)
    assert Solo(stored=Stored(epoch=1, vote=B, entries=stored.entries[:1])).machine.vote == B


def test_the_leader_is_announced_once_an_epoch() -> None:
    node = Solo()
    node.append(B, 2, (1, 1), Entry(2, 2))
    assert node.got(ev.LeaderKnown) == [ev.LeaderKnown(2, B)]
    node.append(B, 2, (2, 2))
    assert not node.got(ev.LeaderKnown)
    node.append(B, 3, (2, 2))
    assert node.got(ev.LeaderKnown) == [ev.LeaderKnown(3, B)]


def test_answers_that_need_no_write_wait_for_the_epoch() -> None:
    node = Solo()
    node.step(AppendRequest(B, A, 2, 1, 1, (), 0, 0), durable=False)
    assert not node.sent(AppendReply)
    assert [e.message.match for e in node.persist() if isinstance(e, ev.Send)] == [1]
