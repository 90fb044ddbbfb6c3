"""Committing, asking what is committed, and forgetting it."""

from __future__ import annotations

import pytest

from rayqueue.errors import GroupNotEmpty, GroupNotFound, InvalidGroup, StaleMemberEpoch, UnknownMember
from rayqueue.groups.config import GroupConfig
from rayqueue.groups.events import Topics
from rayqueue.groups.upkeep import FORGET_MAX
from rayqueue.protocol.group_messages import (
    CommittedOffset,
    DeleteGroupRequest,
    DescribeGroupRequest,
    GroupPartition,
    ListGroupsRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
)
from tests.unit.groups.harness import AT_ONCE, Member, Shard, calm, facts, topic_id

DAY_MS = 24 * 3600 * 1000


def alone(shard: Shard, *topics: str) -> Member:
    member = Member(shard, "a", *topics)
    member.join()
    return member


def test_all_that_belongs_to_an_offset_comes_back() -> None:
    shard = Shard(t=2)
    member = alone(shard, "t")
    offset = CommittedOffset(topic_id("t"), 1, 7, leader_epoch=3, metadata="half way")
    shard.say(OffsetCommitRequest("g", "a", member.epoch, [offset]))
    partitions = [GroupPartition(topic_id("t"), 0), GroupPartition(topic_id("t"), 1)]
    found = shard.say(OffsetFetchRequest("g", partitions, "a", member.epoch)).offsets
    assert found[0] == CommittedOffset(topic_id("t"), 0, -1)
    assert found[1] == CommittedOffset(topic_id("t"), 1, 7, 3, "half way", shard.wall_ms)
    assert shard.say(OffsetFetchRequest("other", partitions)).offsets[1].offset == -1
    assert shard.say(OffsetFetchRequest("other", None)).offsets == []


def test_each_offset_is_judged_by_itself() -> None:
    shard = Shard(t=2, u=1)
    member = alone(shard, "t")
    offsets = [
        CommittedOffset(topic_id("t"), 0, 5),
        CommittedOffset(topic_id("u"), 0, 5),
        CommittedOffset(topic_id("t"), 2, 5),
        CommittedOffset(topic_id("t"), 1, -5),
        CommittedOffset(topic_id("t"), 1, 5, -1, "x" * 4_097),
    ]
    response = shard.say(OffsetCommitRequest("g", "a", member.epoch, offsets))
    assert response.errors == ["", "PartitionNotOwned", "PartitionNotOwned", "OffsetOutOfRange", "RecordTooLarge"]
    assert [bool(message) for message in response.messages] == [False, True, True, True, True]
    assert shard.offsets() == {("t", 0): 5}


def test_a_commit_is_taken_as_long_as_the_partition_is_held_also_while_it_is_given_up() -> None:
    shard = Shard(t=2)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t")
    first.join()
    epoch = first.epoch
    second.join()
    first.hear()
    assert first.epoch > epoch
    assert first.commit(t_0=5, t_1=5) == ["", ""]
    assert first.commit(epoch=epoch, t_0=6, t_1=6) == ["", ""], "it was given both at that epoch (KIP-1251)"
    calm(first, second)
    errors = first.commit(t_0=7, t_1=7)
    assert sorted(errors) == ["", "PartitionNotOwned"]
    assert sorted(shard.offsets().values()) == [6, 7]


def test_an_epoch_of_before_the_partition_was_given_is_refused() -> None:
    shard = Shard(t=2)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t")
    first.join()
    epoch = first.epoch
    second.join()
    calm(first, second)
    lost = next(iter(second.owned)).partition
    second.heartbeat(-1)
    first.follow()
    assert len(first.owned) == 2
    name = f"t_{lost}"
    assert first.commit(epoch=epoch, **{name: 3}) == ["PartitionNotOwned"], "b may have read on since"
    assert first.commit(**{name: 3}) == [""]
    with pytest.raises(StaleMemberEpoch):
        first.commit(epoch=first.epoch + 1, **{name: 3})


def test_a_request_that_was_overtaken_by_a_later_one_sets_nothing_back() -> None:
    shard = Shard(t=1)
    member = alone(shard, "t")
    assert member.commit(number=2, t_0=20) == [""]
    assert member.commit(number=1, t_0=10) == [""], "as if it had been taken before the other"
    assert shard.offsets() == {("t", 0): 20}
    assert member.commit(number=3, t_0=5) == [""], "who seeks may go back"
    assert shard.offsets() == {("t", 0): 5}
    shard.lead()
    assert member.commit(number=2, t_0=20) == [""] and shard.offsets() == {("t", 0): 5}
    assert member.commit(t_0=1) == [""] and shard.offsets() == {("t", 0): 1}, "not counted"


def test_without_a_member_offsets_are_set_while_there_are_none() -> None:
    shard = Shard(t=1)
    assert shard.commits_by("", t=9) == [""]
    assert shard.commits_by("", none=9) == ["UnknownTopicOrPartition"]
    assert shard.offsets() == {("t", 0): 9}
    member = alone(shard, "t")
    with pytest.raises(GroupNotEmpty):
        shard.commits_by("", t=5)
    member.heartbeat(-1)
    assert shard.commits_by("", t=5) == [""] and shard.offsets() == {("t", 0): 5}
    with pytest.raises(UnknownMember):
        shard.commits_by("nobody", t=5)
    with pytest.raises(UnknownMember):
        shard.say(OffsetFetchRequest("g", None, "nobody", 1))
    with pytest.raises(InvalidGroup):
        shard.commits_by("", group="", t=5)


def test_offsets_are_forgotten_so_long_after_the_group_became_empty() -> None:
    shard = Shard(GroupConfig(offsets_retention_ms=DAY_MS, upkeep_interval_ms=3600_000), t=1)
    member = Member(shard, "a", "t", session_timeout_ms=100 * DAY_MS)
    member.join()
    member.commit(t_0=5)
    shard.pass_time(3 * DAY_MS)
    assert shard.offsets() == {("t", 0): 5}
    member.heartbeat(-1)
    shard.pass_time(23 * 3600_000)
    assert shard.offsets() == {("t", 0): 5}
    shard.pass_time(2 * 3600_000)
    assert shard.offsets() == {} and shard.machine.state.groups == {}


def test_of_a_group_that_never_had_members_each_offset_has_its_time() -> None:
    shard = Shard(GroupConfig(offsets_retention_ms=DAY_MS, upkeep_interval_ms=3600_000), t=1, u=1)
    shard.commits_by("", t=1)
    shard.pass_time(DAY_MS // 2)
    shard.commits_by("", u=1)
    shard.pass_time(DAY_MS // 2 + 3600_000)
    assert shard.offsets() == {("u", 0): 1}


def test_what_nobody_subscribes_to_any_more_goes_too() -> None:
    shard = Shard(GroupConfig(offsets_retention_ms=3600_000, upkeep_interval_ms=60_000), t=1, u=1)
    member = alone(shard, "t", "u")
    member.commit(t_0=5, u_0=5)
    member.heartbeat(topics=["t"])
    for _ in range(300):
        shard.pass_time(15_000)
        member.heartbeat()
    assert shard.offsets() == {("t", 0): 5}


def test_offsets_of_a_deleted_topic_go_at_once_and_not_its_namesakes() -> None:
    shard = Shard(t=1, u=1)
    shard.commits_by("", t=1, u=1)
    shard.tell_topics(u=1)
    assert shard.offsets() == {("u", 0): 1}
    shard.step(Topics({"u": facts(partitions=1, name="another")}))
    assert shard.offsets() == {}


def test_a_new_owner_that_does_not_know_a_topic_yet_forgets_nothing_of_it() -> None:
    shard = Shard(t=1, u=1)
    shard.commits_by("", t=1, u=1)
    shard.topics = {"t": shard.topics["t"]}
    shard.machine.step(Topics(shard.topics), shard.now_ms, shard.wall_ms)
    other = Shard(AT_ONCE, t=1)
    other.log = [record for record in shard.log if b"offset" in record[0] and record[1] is not None]
    other.lead()
    other.pass_time(59_000)
    other.tell_topics(t=1, u=1)
    other.pass_time(2_000)
    assert other.offsets() == {("t", 0): 1, ("u", 0): 1}
    other.lead()
    other.tell_topics(t=1)
    assert other.offsets() == {("t", 0): 1}


def test_a_topic_that_stays_away_is_forgotten_after_all() -> None:
    shard = Shard(t=1, u=1)
    shard.commits_by("", t=1, u=1)
    other = Shard(AT_ONCE, t=1)
    other.log = list(shard.log)
    other.lead()
    other.pass_time(61_000)
    assert other.offsets() == {("t", 0): 1}


def test_much_is_forgotten_in_parts() -> None:
    shard = Shard(t=2 * FORGET_MAX + 1)
    offsets = [CommittedOffset(topic_id("t"), n, 1) for n in range(2 * FORGET_MAX + 1)]
    shard.say(OffsetCommitRequest("g", "", 0, offsets))
    shard.tell_topics()
    shard.pass_time(1)
    assert shard.offsets() == {}
    assert max(len(append.records) for append in shard.appends[2:]) <= FORGET_MAX


# --- looking and deleting -------------------------------------------------------------------------------------------


def test_groups_are_listed_and_described() -> None:
    shard = Shard(t=2)
    member = Member(shard, "a", "t", host="h", client_id="c", instance_id="i")
    member.join()
    member.commit(t_1=4)
    shard.commits_by("", group="other", t=1)
    shard.pass_time(300)
    listed = {one.group_id: (one.state, one.members) for one in shard.say(ListGroupsRequest()).groups}
    assert listed == {"g": ("Stable", 1), "other": ("Empty", 0)}
    group = shard.say(DescribeGroupRequest("g"))
    assert (group.state, group.assignor, group.coordinator, group.coordinator_epoch) == ("Stable", "uniform", 1, 1)
    (one,) = group.members
    assert (one.host, one.client_id, one.instance_id, one.topics, one.heard_ms) == ("h", "c", "i", ["t"], 300)
    assert one.holds == one.target and one.holds[0].partitions == [0, 1] and one.revoking == []
    assert [(o.partition, o.offset) for o in group.offsets] == [(1, 4)]
    with pytest.raises(GroupNotFound):
        shard.say(DescribeGroupRequest("nobody"))


def test_an_empty_group_can_be_deleted_and_one_in_use_cannot() -> None:
    shard = Shard(t=1, u=1)
    member = alone(shard, "t")
    member.commit(t_0=5)
    with pytest.raises(GroupNotEmpty):
        shard.say(DeleteGroupRequest("g"))
    member.heartbeat(-1)
    shard.say(DeleteGroupRequest("g"))
    assert shard.machine.state.groups == {} and shard.offsets() == {}
    with pytest.raises(GroupNotFound):
        shard.say(DeleteGroupRequest("g"))


def test_single_offsets_can_be_deleted_where_nobody_reads() -> None:
    shard = Shard(t=2, u=1)
    shard.commits_by("", t=1, u=1)
    alone(shard, "u")
    with pytest.raises(GroupNotEmpty):
        shard.say(DeleteGroupRequest("g", [GroupPartition(topic_id("u"), 0)]))
    shard.say(DeleteGroupRequest("g", [GroupPartition(topic_id("t"), 0), GroupPartition(topic_id("t"), 1)]))
    assert shard.offsets() == {("u", 0): 1}
