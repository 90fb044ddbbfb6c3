"""Committed offsets against a cluster in this process: what is committed when, by whom, and where a group goes on."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from rayqueue.errors import ConfigError, GroupNotEmpty, OffsetOutOfRange, PartitionNotOwned
from rayqueue.types import TopicPartition
from tests.integration.consumer_cluster import WAIT_S, World, numbers, take
from tests.integration.group_members import One, group_name, poll_until, settle
from tests.integration.waiting import eventually


def test_a_message_committed_is_the_last_one_processed(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 10)
    with world.consumer(topic, group_id=group, enable_auto_commit=False) as consumer:
        messages = take(consumer, 8)
        assert consumer.committed((topic, 0)) is None
        done = consumer.commit(messages[4])
        assert done == [TopicPartition(topic, 0)] and done[0].offset == 5  # type: ignore[comparison-overlap,index]
        assert consumer.committed((topic, 0)) == 5
        assert consumer.committed([TopicPartition(topic, 0)])[0].leader_epoch == messages[4].leader_epoch
    assert numbers(take(world.consumer(topic, group_id=group), 5)) == [5, 6, 7, 8, 9]


def test_commit_without_arguments_is_of_all_that_was_handed_out(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    world.fill(topic, 5, 0)
    world.fill(topic, 5, 1)
    consumer = world.consumer(topic, group_id=group, enable_auto_commit=False)
    take(consumer, 10)
    consumer.commit()
    assert [tp.offset for tp in consumer.committed()] == [5, 5]


def test_offsets_with_metadata_and_in_the_background(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    consumer = world.consumer(topic, group_id=group, enable_auto_commit=False)
    eventually(lambda: consumer.poll(0.01) or len(consumer.assignment()) == 2, WAIT_S)
    consumer.commit(offsets=[TopicPartition(topic, 1, 3, metadata="half way", leader_epoch=0)])
    [found] = consumer.committed([(topic, 1)])
    assert (found.offset, found.metadata, found.leader_epoch) == (3, "half way", 0)
    futures = [consumer.commit(offsets={(topic, 0): n}, asynchronous=True) for n in range(20)]
    consumer.commit(offsets=[TopicPartition(topic, 1, 4)])
    assert consumer.committed((topic, 0)) == 19, "in order, and before what was asked for later"
    assert [future.result(WAIT_S) for future in futures] == [None] * 20  # type: ignore[union-attr]


def test_what_is_no_commit_is_refused(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 1)
    consumer = world.consumer(topic, group_id=group)
    [message] = take(consumer, 1)
    with pytest.raises(ConfigError, match="not both"):
        consumer.commit(message, offsets=[TopicPartition(topic, 0, 1)])
    with pytest.raises(ConfigError, match="Message"):
        consumer.commit(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="next record"):
        consumer.commit(offsets=[TopicPartition(topic, 0)])
    with pytest.raises(OffsetOutOfRange):
        consumer.commit(offsets=[TopicPartition(topic, 0, -7)])


def test_automatic_commits_are_of_what_was_handed_out_before_the_last_poll(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 10)
    consumer = world.consumer(topic, group_id=group, auto_commit_interval_ms=50)
    look = world.consumer(group_id=group)
    assert numbers(take(consumer, 3)) == [0, 1, 2]
    give_up = time.monotonic() + 0.5
    while time.monotonic() < give_up:
        assert look.committed((topic, 0)) in (None, 0), "the three are being processed"
    consumer.poll(0)
    eventually(lambda: look.committed((topic, 0)) == 3, WAIT_S, "a commit of the three")


def test_a_partition_for_which_another_is_asked_is_not_ours_to_commit(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    first, second = One(world, topic, group_id=group), One(world, topic, group_id=group)
    settle(first, second, partitions=2)
    other = second.holds[0]
    with pytest.raises(PartitionNotOwned, match=f"{topic}-{other}"):
        first.consumer.commit(offsets=[TopicPartition(topic, first.holds[0], 1), TopicPartition(topic, other, 1)])
    assert first.consumer.committed((topic, first.holds[0])) == 1, "its own is committed all the same"
    assert first.consumer.committed((topic, other)) in (None, 0)


def test_assigned_by_hand_it_goes_on_where_the_group_has_committed_and_is_no_member(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    world.fill(topic, 10)
    with world.consumer(group_id=group) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        assert numbers(take(consumer, 4)) == [0, 1, 2, 3]
    with world.consumer(group_id=group) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        assert consumer.position((topic, 0)) == 4
        consumer.assign([TopicPartition(topic, 0, 7)])
        assert numbers(take(consumer, 1)) == [7]
        member = One(world, topic, group_id=group)
        settle(member, partitions=2)
        with pytest.raises(GroupNotEmpty):
            consumer.commit()


def test_assigned_by_hand_the_latest_is_that_of_the_call(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 3)
    consumer = world.consumer(group_id=group_name(), auto_offset_reset="latest")
    consumer.assign((topic, 0))
    world.fill(topic, 2, start=3)
    assert numbers(take(consumer, 2)) == [3, 4]


def test_a_callback_may_move_what_it_is_told_of(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 10)
    consumer = world.consumer(group_id=group)
    positions: list[int] = []

    def on_assign(_: object, partitions: list[TopicPartition]) -> None:
        positions.append(consumer.position(partitions[0]))
        consumer.assign([TopicPartition(topic, 0, 6)])

    consumer.subscribe(topic, on_assign=on_assign)
    assert numbers(take(consumer, 4)) == [6, 7, 8, 9]
    assert positions == [0]


def test_an_error_in_a_callback_comes_out_and_the_partition_is_given_up_all_the_same(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()

    def fail(_: object, partitions: list[TopicPartition]) -> None:
        raise RuntimeError("in the callback")

    first = One(world, group_id=group)
    first.consumer.subscribe(topic, on_revoke=fail)
    settle(first, partitions=2)
    second = One(world, topic, group_id=group)
    with pytest.raises(RuntimeError, match="in the callback"):
        poll_until([first, second], lambda: False, "the callback is called")
    settle(first, second, partitions=2)
    first.consumer.subscribe(topic)  # without it, so that it can be closed


@pytest.mark.parametrize("group", [None, "by-duration"])
def test_without_an_offset_it_begins_with_what_is_no_older(world: World, group: str | None) -> None:
    topic = world.topic()
    now = int(time.time() * 1000)
    for age_s in (7200, 5400, 1800, 60):
        world.fill(topic, 1, start=age_s, timestamp=now - age_s * 1000)
    for reset in ("by_duration:PT1H", timedelta(hours=1)):
        name = {} if group is None else {"group_id": group_name()}
        with world.consumer(topic, auto_offset_reset=reset, enable_auto_commit=False, **name) as consumer:
            assert numbers(take(consumer, 2)) == [1800, 60]
    with world.consumer(topic, auto_offset_reset="by_duration:PT1S", enable_auto_commit=False) as consumer:
        assert consumer.position((topic, 0)) == 4, "nothing is that new: at the end"


def test_auto_offset_reset_none_with_nothing_committed_is_an_error(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 3)
    consumer = world.consumer(topic, group_id=group_name(), auto_offset_reset="none")
    with pytest.raises(OffsetOutOfRange, match="no start is known"):
        consumer.poll(WAIT_S)


def test_a_group_that_begins_at_the_end_begins_there_once(world: World) -> None:
    """The first position is committed too: else what comes while nobody has the partition would be left out."""
    topic, group = world.topic(), group_name()
    world.fill(topic, 3)
    with world.consumer(topic, group_id=group, auto_offset_reset="latest") as consumer:
        eventually(lambda: consumer.poll(0.01) or consumer.assignment(), WAIT_S)
        assert consumer.position((topic, 0)) == 3
    world.fill(topic, 2, start=3)
    assert numbers(take(world.consumer(topic, group_id=group, auto_offset_reset="latest"), 2)) == [3, 4]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_block_that_ends_by_an_error_sets_no_commit_back(world: World, asynchronous: bool) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 10)
    with pytest.raises(RuntimeError), world.consumer(topic, group_id=group) as consumer:
        assert numbers(take(consumer, 6)) == list(range(6))
        consumer.commit(asynchronous=asynchronous)
        raise RuntimeError
    assert world.consumer(group_id=group).committed((topic, 0)) == 6
    with pytest.raises(RuntimeError), world.consumer(topic, group_id=group) as consumer:
        messages = take(consumer, 4)
        consumer.commit(messages[1], asynchronous=asynchronous)
        raise RuntimeError
    assert world.consumer(group_id=group).committed((topic, 0)) == 8, "what was not committed is read again"


def test_only_a_seek_sets_a_commit_back(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 10)
    with world.consumer(topic, group_id=group) as consumer:
        take(consumer, 3)
        consumer.commit(offsets={(topic, 0): 7})
    assert world.consumer(group_id=group).committed((topic, 0)) == 7, "more than was handed out"
    with pytest.raises(RuntimeError), world.consumer(topic, group_id=group) as consumer:
        take(consumer, 3)
        consumer.commit()
        consumer.seek((topic, 0), 2)
        take(consumer, 1)
        raise RuntimeError
    assert world.consumer(group_id=group).committed((topic, 0)) == 2, "the user went back"
