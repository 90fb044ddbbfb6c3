"""Members come, hold, and go."""

from __future__ import annotations

import pytest

from rayqueue.errors import UnknownMember
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.events import Closed
from rayqueue.protocol.group_messages import DescribeGroupRequest, GroupHeartbeat
from tests.unit.groups.harness import AT_ONCE, Member, Shard, calm, flat, topic_id


def test_the_only_member_has_all_partitions_until_it_leaves() -> None:
    shard = Shard(t=4)
    member = Member(shard, "a", "t")
    response = member.join()
    assert (response.member_epoch, response.error) == (2, "") and response.coordinator_epoch == 1
    assert [(one.topic, one.partitions) for one in response.assignment or []] == [("t", [0, 1, 2, 3])]
    assert member.commit(t_0=5, t_3=7) == ["", ""]
    assert shard.offsets() == {("t", 0): 5, ("t", 3): 7}
    assert member.heartbeat().assignment is None, "it was said already"
    assert member.heartbeat(-1).member_epoch == -1
    with pytest.raises(UnknownMember):
        member.commit(t_0=6)
    assert shard.offsets() == {("t", 0): 5, ("t", 3): 7}


def test_a_second_member_is_given_what_the_first_has_let_go() -> None:
    shard = Shard(t=4)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t")
    first.join()
    response = second.join()
    assert second.assignment == set() and response.member_epoch > 0
    first.hear()
    assert len(first.assignment) == 2, "it was told at once"
    calm(first, second)
    assert len(first.owned) == len(second.owned) == 2 and not first.owned & second.owned
    assert {one.topic_id for one in first.owned} == {topic_id("t")}


def two_at_rest(**settings: object) -> tuple[Shard, Member, Member]:
    shard = Shard(t=4)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t", **settings)
    first.join()
    second.join()
    calm(first, second)
    return shard, first, second


def test_who_loses_nothing_is_told_nothing() -> None:
    shard = Shard(t=3, u=1)
    members = [Member(shard, name, "t") for name in "abc"]
    for member in members:
        member.join()
    calm(*members)
    told = len(shard.pushes)
    Member(shard, "d", "u").join()
    assert len(shard.pushes) == told and all(member.heartbeat().assignment is None for member in members)


def test_a_partition_waits_for_its_old_holder_and_others_do_not() -> None:
    shard = Shard(t=6)
    first, slow, new = Member(shard, "a", "t"), Member(shard, "b", "t"), Member(shard, "c", "t")
    first.join()
    slow.join()
    calm(first, slow)
    new.join()
    calm(first, new)
    assert len(new.owned) == 1, "the other one is still with b"
    described = shard.say(DescribeGroupRequest("g"))
    assert described.state == "Reconciling"
    assert [len(flat(member.revoking)) for member in described.members] == [0, 1, 0]
    shard.pass_time(500)
    assert shard.say(DescribeGroupRequest("g")).members[1].behind_ms == 500
    calm(first, slow, new)
    assert [len(member.owned) for member in (first, slow, new)] == [2, 2, 2]
    assert shard.say(DescribeGroupRequest("g")).state == "Stable"


def test_an_ack_counts_only_from_who_knew_of_the_assignment() -> None:
    """A heartbeat without p was sent before p was given, and comes after p was asked back: p was not given up."""
    shard = Shard(t=4)
    slow, second, third = Member(shard, "a", "t"), Member(shard, "b", "t"), Member(shard, "c", "t")
    slow.join()
    before = slow.epoch
    second.join()
    calm(slow, second)
    third.join()
    slow.hear()
    present = slow.epoch
    assert len(slow.owned - slow.assignment) == 1 and not third.assignment, "it was asked to give up one"
    slow.heartbeat(before, owned=[])
    calm(third)
    assert not third.owned, "that was said before it was asked"
    slow.follow()
    assert slow.epoch == present, "what it gave up is no news for itself"
    calm(slow, second, third)
    assert [len(member.owned) for member in (slow, second, third)] == [1, 2, 1]


def test_what_is_asked_back_and_given_again_was_never_lost() -> None:
    shard, first, second = two_at_rest()
    third = Member(shard, "c", "t")
    third.join()
    third.heartbeat(-1)
    assert second.commit(**{f"t_{one.partition}": 5 for one in second.owned}) == ["", ""]
    calm(first, second)
    assert len(first.owned) == len(second.owned) == 2


def test_a_member_that_claims_what_it_was_not_given_begins_anew() -> None:
    _, first, second = two_at_rest()
    assert second.heartbeat(owned=sorted(first.owned)).error == "StaleMemberEpoch"
    assert second.heartbeat(second.epoch + 1).error == "StaleMemberEpoch"
    second.join()
    calm(first, second)
    assert len(second.owned) == 2


def test_an_unknown_member_is_told_to_join() -> None:
    shard = Shard(t=1)
    assert Member(shard, "a", "t").heartbeat(5).error == "UnknownMember"
    member = Member(shard, "b", "t")
    member.join()
    assert Member(shard, "c", "t").heartbeat(1).error == "UnknownMember"


@pytest.mark.parametrize("said, error", [
    ({"topics": None}, "InvalidGroup"),
    ({"assignor": "best"}, "UnsupportedAssignor"),
    ({"instance_id": "i" * 250}, "InvalidGroup"),
])  # fmt: skip
def test_a_bad_join_is_refused(said: dict[str, object], error: str) -> None:
    shard = Shard(t=1)
    response = Member(shard, "a", "t").heartbeat(0, **{"topics": ["t"], **said})
    assert response.error == error and response.message
    assert shard.machine.state.groups == {}


def test_ids_are_checked() -> None:
    shard = Shard(t=1)
    assert Member(shard, "a", "t", group="").join().error == "InvalidGroup"
    assert Member(shard, "", "t").join().error == "InvalidGroup"


def test_all_members_have_one_assignor() -> None:
    shard = Shard(t=4, u=4)
    first, second = Member(shard, "a", "t", "u", assignor="range"), Member(shard, "b", "t", "u")
    first.join()
    assert second.join(assignor="uniform").error == "UnsupportedAssignor"
    second.join()
    calm(first, second)
    assert {one.partition for one in first.owned} == {0, 1}
    second.heartbeat(-1)
    first.join(assignor="uniform")
    assert first.error == "" and shard.say(DescribeGroupRequest("g")).assignor == "uniform"


def test_another_subscription_gives_other_partitions() -> None:
    shard = Shard(t=2, u=2)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t", "u")
    first.join()
    second.join()
    calm(first, second)
    assert len(first.owned) == 2 and {one.topic_id for one in second.owned} == {topic_id("u")}
    first.heartbeat(topics=["u", "none"])
    calm(first, second)
    assert len(first.owned) == len(second.owned) == 2
    assert {one.topic_id for one in first.owned} == {topic_id("u")}


def test_members_that_come_together_are_counted_in_together() -> None:
    shard = Shard(GroupConfig(assignment_interval_ms=200), t=4)
    members = [Member(shard, name, "t") for name in "abcd"]
    for member in members:
        member.join()
    assert shard.say(DescribeGroupRequest("g")).state == "Assigning"
    assert len(members[0].assignment) == 4
    shard.pass_time(200)
    calm(*members)
    assert [len(member.owned) for member in members] == [1, 1, 1, 1]
    assert shard.machine.state.groups["g"].record.target_epoch <= 8


def test_a_join_whose_answer_was_lost_may_be_said_again() -> None:
    _, first, second = two_at_rest()
    second.close()
    second.open()
    second.join()
    calm(first, second)
    assert len(second.owned) == 2


def test_what_comes_late_by_an_exchange_that_was_given_up_is_void() -> None:
    """A join means "I hold nothing": read late, after the member joined by another exchange and was asked to give up
    something that it still reads, it would free that."""
    shard, first, second = two_at_rest()
    old = second.session
    second.open()
    second.heartbeat(topics=["t"], owned=sorted(second.owned))
    third = Member(shard, "c", "t")
    third.join()
    late = GroupHeartbeat("g", "b", 0, topics=["t"], owned=[])
    assert shard.say(late, old).error == "StaleMemberEpoch"
    calm(first, third)
    assert not third.owned & second.owned and len(third.owned | first.owned | second.owned) == 4
    assert AT_ONCE.disconnect_grace_ms == 3_000
    second.shard.step(Closed("g", "b", old))
    shard.pass_time(5_000)
    assert second.heartbeat().error == "", "the end of the old exchange is not that of the member"
