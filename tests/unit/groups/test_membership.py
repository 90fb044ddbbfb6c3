"""Members come, hold, and go."""

from __future__ import annotations

import pytest

from rayqueue.errors import UnknownMember
from tests.unit.groups.harness import Member, Shard, calm, topic_id


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
