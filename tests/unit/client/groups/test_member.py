"""A member's machine: joins, reconciles step by step, and loses what it must not read any more."""

from __future__ import annotations

import pytest

from rayqueue.client.groups.member_effects import Phase
from rayqueue.errors import AuthenticationError, BrokerNotAvailable, FencedInstance, GroupCoordinatorNotAvailable
from rayqueue.protocol.group_messages import JOIN_EPOCH, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, GroupCoordinatorAddress
from tests.unit.client.groups.member_rig import Rig, Warn, part


def test_it_does_nothing_before_it_is_subscribed() -> None:
    rig = Rig()
    assert rig.plan() == [] and rig.machine.next_deadline_ms() is None


def test_it_joins_with_all_that_is_to_be_known_of_it() -> None:
    rig = Rig(instance_id="one")
    rig.machine.subscribe(["b", "a"])
    rig.machine.local_brokers = [4]
    rig.open()
    assert rig.plan() == ["Say"]
    said = rig.said[-1]
    assert (said.member_epoch, said.topics, said.owned, said.assignor) == (JOIN_EPOCH, ["a", "b"], [], "uniform")
    assert (said.instance_id, said.host, said.client_id, said.local_brokers) == ("one", "here", "me", [4])
    assert (said.session_timeout_ms, said.rebalance_timeout_ms) == (45_000, 0)


def test_it_does_not_join_a_second_time_while_the_answer_is_on_its_way() -> None:
    """The second would undo what the answer to the first gives."""
    rig = Rig()
    rig.machine.subscribe(["a"])
    rig.open()
    rig.plan()
    rig.machine.subscribe(["a", "b"])
    assert rig.pass_ms(9_000) == []
    rig.answer(1, [part(0)])
    assert len(rig.said) == 2 and rig.said[-1].topics == ["a", "b"] and rig.said[-1].member_epoch == 1


def test_what_it_is_given_it_takes_and_says() -> None:
    rig = Rig()
    rig.machine.subscribe(["a"])
    rig.open()
    rig.plan()
    assert rig.answer(3, [part(0), part(1)]) == ["Tell", "Say"]
    assert rig.said[-1].owned == [], "it knows of the assignment, and has not taken it yet"
    assert rig.machine.changes().assign == {part(0): "a", part(1): "a"}
    assert rig.machine.take([part(1)]) == [part(1)]
    rig.plan()
    assert rig.said[-1].owned == [part(1)] and rig.said[-1].member_epoch == 3
    assert rig.machine.changes().assign == {part(0): "a"}


def test_what_is_asked_back_is_said_to_be_given_up_only_when_it_is() -> None:
    rig = Rig().joined(part(0), part(1))
    assert rig.answer(2, [part(1)]) == ["Tell"]
    assert rig.machine.changes().revoke == {part(0): "a"}
    rig.pass_ms(3_000)
    assert rig.said[-1].owned == [part(0), part(1)], "the reader has not let go yet"
    rig.machine.gave_up([part(0)])
    assert rig.plan() == ["Say"], "at once"
    assert rig.said[-1].owned == [part(1)] and rig.said[-1].member_epoch == 2
    assert not rig.machine.changes()


def test_what_was_given_and_asked_back_before_it_was_taken_is_not_taken() -> None:
    rig = Rig().joined()
    rig.answer(2, [part(0)])
    seen = rig.machine.changes().assign
    rig.answer(3, [])
    assert rig.said[-1].owned == [] and rig.said[-1].member_epoch == 3
    assert rig.machine.take(seen) == [], "another may have it by now"


def test_a_partition_that_stays_is_neither_given_up_nor_taken_again() -> None:
    rig = Rig().joined(part(0))
    rig.answer(2, [part(0), part(1)])
    changes = rig.machine.changes()
    assert not changes.revoke and changes.assign == {part(1): "a"}


def test_without_news_it_speaks_each_interval_and_says_little() -> None:
    rig = Rig().joined(part(0))
    before = len(rig.said)
    for _ in range(3):
        assert rig.pass_ms(3_000) == ["Say"]
        rig.answer(1)
    assert len(rig.said) == before + 3
    assert rig.said[-1].topics is None and rig.said[-1].owned is None


def test_the_coordinator_may_want_to_hear_from_it_sooner() -> None:
    rig = Rig().joined()
    rig.answer(1, heartbeat_interval_ms=500)
    assert rig.pass_ms(500) == ["Say"]


def test_another_subscription_is_said_at_once_and_its_partitions_are_given_up() -> None:
    rig = Rig().joined(part(0, "a"), part(0, "b"))
    rig.machine.subscribe(["b"])
    assert rig.plan() == ["Tell", "Say"]
    assert rig.said[-1].topics == ["b"]
    assert rig.machine.changes().revoke == {part(0, "a"): "a"}
    rig.machine.gave_up([part(0, "a")])
    assert not rig.machine.changes(), "it is told to hold it, but does not want it"


@pytest.mark.parametrize("error", ["UnknownMember", "StaleMemberEpoch"])
def test_fenced_it_loses_everything_and_joins_anew_in_another_exchange(error: str) -> None:
    rig = Rig().joined(part(0), part(1))
    assert set(rig.answer(0, error=error, message="gone")) >= {"Tell", "HangUp", "Warn"}
    assert rig.machine.held == {} and rig.machine.phase is Phase.JOINING
    assert rig.machine.changes().lost == {part(0): "a", part(1): "a"}
    rig.machine.on_found(GroupCoordinatorAddress(3, 1, "host", 9, "inc", 7), rig.now)
    rig.plan()
    rig.machine.on_opened(rig.now)
    rig.plan()
    assert rig.said[-1].member_epoch == JOIN_EPOCH and rig.said[-1].owned == []
    rig.answer(9, [part(1)])
    assert not rig.machine.changes().assign, "first the reader is told what is lost"
    assert rig.machine.take([part(1)]) == []
    assert set(rig.machine.take_lost()) == {part(0), part(1)}
    assert rig.machine.take([part(1)]) == [part(1)]


def test_fenced_again_and_again_it_waits_ever_longer() -> None:
    rig = Rig().joined()
    waits = []
    for _ in range(4):
        rig.answer(0, error="UnknownMember", message="gone")
        begun = rig.now
        while rig.machine.next_deadline_ms() is not None and "Find" not in kinds_of(rig):
            rig.now = max(rig.now, rig.machine.next_deadline_ms() or 0)
            rig.plan()
        waits.append(rig.now - begun)
        rig.effects.clear()
        rig.machine.on_found(GroupCoordinatorAddress(3, 1, "host", 9, "inc", 7), rig.now)
        rig.plan()
        rig.machine.on_opened(rig.now)
        rig.plan()
    assert waits[0] == 0 and waits == sorted(waits) and waits[-1] > waits[1] > 0


def kinds_of(rig: Rig) -> list[str]:
    return [type(effect).__name__ for effect in rig.effects]


def test_without_a_coordinator_it_keeps_what_it_holds_for_its_session() -> None:
    rig = Rig(session_ms=10_000).joined(part(0))
    rig.machine.on_closed(BrokerNotAvailable("gone"), rig.now)
    assert rig.plan() == ["Find"], "the first time at once"
    lost_at = None
    for _ in range(400):
        rig.machine.on_found(GroupCoordinatorNotAvailable("nobody"), rig.now)
        rig.pass_ms(50)
        if not rig.machine.held:
            lost_at = rig.now
            break
        assert rig.machine.phase is Phase.IN
    assert lost_at is not None and 10_000 <= lost_at - 1_000 <= 10_200
    assert rig.machine.changes().lost == {part(0): "a"}
    assert any(isinstance(effect, Warn) and "nobody" in effect.text for effect in rig.effects), "and says why"


def test_a_coordinator_that_comes_back_in_time_finds_it_as_it_was() -> None:
    rig = Rig().joined(part(0), epoch=4)
    rig.machine.on_closed(BrokerNotAvailable("gone"), rig.now)
    rig.open(epoch=8)
    rig.plan()
    said = rig.said[-1]
    assert (said.member_epoch, said.owned, said.topics) == (4, [part(0)], ["a", "b"]), "all of it: it may be another"
    rig.answer(4, [part(0)])
    assert not rig.machine.changes() and rig.machine.trouble == ""


def test_a_coordinator_that_was_unlucky_is_named_when_another_is_asked_for() -> None:
    rig = Rig().joined()
    rig.answer(1, error="NotGroupCoordinator", message="moved")
    found = [effect for effect in rig.effects if type(effect).__name__ == "Find"]
    assert found[0].known == -1 and found[-1].known == 7  # type: ignore[union-attr]


def test_answers_and_addresses_of_an_older_coordinator_are_refused() -> None:
    rig = Rig().joined(part(0))
    rig.epoch = 6
    assert "HangUp" in rig.answer(9, [])
    assert rig.machine.held == {part(0): "a"} and rig.machine.epoch == 1
    rig.machine.on_found(GroupCoordinatorAddress(3, 1, "host", 9, "inc", 6), rig.now)
    assert "Connect" not in rig.plan()


def test_a_coordinator_that_hangs_is_given_up() -> None:
    rig = Rig(answer_ms=2_000).joined(part(0))
    rig.pass_ms(3_000)  # a heartbeat, which nobody answers
    assert rig.pass_ms(2_000)[:1] == ["HangUp"]
    assert rig.machine.held, "that alone loses nothing"


def test_the_session_counts_from_the_heartbeat_that_was_answered() -> None:
    """Not from the answer: the coordinator may have counted from the one before it came."""
    rig = Rig(session_ms=10_000, answer_ms=9_000).joined(part(0))
    rig.pass_ms(3_000)
    sent = rig.now
    rig.now += 2_500
    rig.answer(1)
    rig.machine.on_closed(BrokerNotAvailable("gone"), rig.now)
    rig.plan()
    rig.now = sent + 9_999
    rig.plan()
    assert rig.machine.held
    rig.now += 1
    rig.plan()
    assert not rig.machine.held


@pytest.mark.parametrize(("instance", "epoch"), [("", LEAVE_EPOCH), ("one", LEAVE_STATIC_EPOCH)])
def test_it_leaves_with_a_word(instance: str, epoch: int) -> None:
    rig = Rig(instance_id=instance).joined(part(0))
    rig.machine.gave_up([part(0)])
    rig.machine.leave(rig.now)
    rig.plan()
    assert rig.said[-1].member_epoch == epoch
    assert rig.answer(epoch) == ["HangUp"]
    assert rig.machine.phase is Phase.OUT and rig.machine.next_deadline_ms() is None


def test_what_was_said_before_the_coordinator_heard_that_it_leaves_is_not_for_it() -> None:
    rig = Rig().joined(part(0))
    rig.machine.leave(rig.now)
    rig.plan()
    rig.answer(2, [part(1)])
    assert rig.machine.phase is Phase.LEAVING and not rig.machine.changes().assign


def test_it_goes_without_an_answer_when_its_time_is_out() -> None:
    rig = Rig().joined()
    rig.machine.leave(rig.now)
    rig.pass_ms(1_999)
    assert rig.machine.phase is Phase.LEAVING
    rig.pass_ms(1)
    assert rig.machine.phase is Phase.OUT


def test_who_never_came_in_goes_at_once() -> None:
    rig = Rig()
    rig.machine.subscribe(["a"])
    rig.plan()
    rig.machine.leave(rig.now)
    assert rig.machine.phase is Phase.OUT


def test_subscribed_while_it_leaves_it_comes_back() -> None:
    rig = Rig().joined(part(0))
    rig.machine.leave(rig.now)
    rig.plan()
    rig.machine.subscribe(["b"])
    assert set(rig.answer(LEAVE_EPOCH)) == {"HangUp", "Find"}
    assert rig.machine.phase is Phase.JOINING
    assert rig.machine.changes().lost == {part(0): "a"}, "what it held when it left is lost"


def test_the_older_of_two_with_one_instance_id_is_told_for_good() -> None:
    rig = Rig(instance_id="one").joined(part(0))
    rig.answer(0, error="FencedInstance", message="another has it")
    assert isinstance(rig.machine.error, FencedInstance) and "another has it" in str(rig.machine.error)
    assert rig.machine.changes().lost and rig.machine.next_deadline_ms() is None
    rig.machine.subscribe(["b"])
    assert "Find" not in rig.plan()


def test_who_was_refused_joins_again_once_it_has_left() -> None:
    rig = Rig(instance_id="one").joined(part(0))
    rig.answer(0, error="FencedInstance", message="another has it")
    rig.machine.take_lost()
    rig.machine.leave(rig.now)
    assert rig.machine.phase is Phase.OUT and rig.machine.error is None
    assert rig.plan() == [] and rig.machine.next_deadline_ms() is None, "nobody is told that it leaves"
    rig.machine.subscribe(["a", "b"])
    rig.open()
    assert rig.plan() == ["Say"] and rig.said[-1].member_epoch == JOIN_EPOCH
    rig.answer(5, [part(0)])
    assert rig.machine.phase is Phase.IN and rig.machine.take([part(0)]) == [part(0)]


def test_a_wrong_token_is_final() -> None:
    rig = Rig()
    rig.machine.subscribe(["a"])
    rig.plan()
    rig.machine.on_found(AuthenticationError("token"), rig.now)
    assert rig.plan() == ["Tell"] and isinstance(rig.machine.error, AuthenticationError)


def test_until_the_reader_knows_what_is_lost_it_may_commit_nothing() -> None:
    """Though it is in again, and has been given the same partition: another may have read it on meanwhile."""
    rig = Rig().joined(part(0), epoch=4)
    assert rig.machine.reading_epoch == 4
    rig.answer(0, error="UnknownMember", message="gone")
    rig.open()
    rig.plan()
    rig.answer(9, [part(0)])
    assert rig.machine.epoch == 9 and rig.machine.reading_epoch == JOIN_EPOCH
    rig.machine.take_lost()
    assert rig.machine.reading_epoch == 9
