"""Consumer groups against a cluster in this process: who reads what, as members come and go."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from rayqueue.client.groups import watch
from rayqueue.errors import ConfigError, FencedInstance, UnknownTopicOrPartition, UnsupportedAssignor
from tests.integration.consumer_cluster import World, numbers, take
from tests.integration.group_members import WAIT_S, One, group_name, poll_until, settle
from tests.integration.waiting import eventually


def fill_all(world: World, topic: str, partitions: int, each: int, start: int = 0) -> list[int]:
    """So many records in each partition, all with values of their own."""
    for partition in range(partitions):
        world.fill(topic, each, partition, start=start + partition * each)
    return list(range(start, start + partitions * each))


def test_every_record_goes_to_one_member(world: World) -> None:
    topic, group = world.topic(partitions=6), group_name()
    members = [One(world, topic, group_id=group) for _ in range(3)]
    settle(*members, partitions=6)
    sent = fill_all(world, topic, 6, 50)
    poll_until(members, lambda: sum(len(one.got) for one in members) >= len(sent), "all records")
    assert sorted(value for one in members for value in one.values) == sent
    assert [len(one.got) for one in members] == [100, 100, 100]


def test_a_member_that_joins_takes_only_its_share_and_the_others_are_told_only_that(world: World) -> None:
    topic, group = world.topic(partitions=4), group_name()
    first = One(world, topic, group_id=group)
    settle(first, partitions=4)
    assert first.told == [("assign", [0, 1, 2, 3])]
    second = One(world, topic, group_id=group)
    settle(first, second, partitions=4)
    assert first.told[1:] == [("revoke", second.holds)]
    assert second.told == [("assign", second.holds)]


def test_who_leaves_commits_and_the_others_go_on_there(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    first, second = One(world, topic, group_id=group), One(world, topic, group_id=group)
    settle(first, second, partitions=2)
    sent = fill_all(world, topic, 2, 20)
    poll_until([first, second], lambda: len(first.got) + len(second.got) == 40, "all records")
    first.consumer.close()
    assert first.told[-1][0] == "revoke"
    begun = time.monotonic()
    settle(second, partitions=2)
    assert time.monotonic() - begun < 5, "at once: it said that it leaves"
    sent += fill_all(world, topic, 2, 5, start=40)
    poll_until([second], lambda: len(first.got) + len(second.got) >= 50, "the rest")
    assert sorted(first.values + second.values) == sent, "nothing twice"


def test_a_partition_that_moves_is_read_on_after_what_was_handed_out(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    sent = fill_all(world, topic, 2, 100)
    first = One(world, topic, group_id=group)
    while len(first.got) < 70:
        first.got += first.consumer.consume(7, timeout=1.0)
    second = One(world, topic, group_id=group)
    deadline = time.monotonic() + WAIT_S
    while len(first.got) + len(second.got) < len(sent):
        assert time.monotonic() < deadline, (first.consumer, second.consumer)
        for one in (first, second):
            one.got += one.consumer.consume(7, timeout=0.01)
    assert sorted(first.values + second.values) == sent, "nothing twice, nothing left out"


def test_members_with_iteration_and_tables(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    sent = fill_all(world, topic, 2, 30)
    with world.consumer(topic, group_id=group) as consumer:
        seen = []
        for message in consumer:
            seen.append(int(message.value))
            if len(seen) == 10:
                break
    with world.consumer(topic, group_id=group) as consumer:
        while len(seen) < len(sent):
            table = consumer.consume_arrow(timeout=WAIT_S)
            assert table.num_rows
            seen += [int(value) for value in table["value"].to_pylist()]
    assert sorted(seen) == sent


def test_what_failed_in_processing_is_not_committed_on_the_way_out(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 10)
    with pytest.raises(ZeroDivisionError), world.consumer(topic, group_id=group) as consumer:
        for message in consumer:
            assert int(message.value) < 4 or 1 // 0
    assert numbers(take(world.consumer(topic, group_id=group), 1)) == [4]


def test_iteration_to_the_end_with_a_group(world: World) -> None:
    topic, group = world.topic(partitions=4), group_name()
    sent = fill_all(world, topic, 4, 25)
    seen: list[list[int]] = [[], []]

    def read(index: int) -> None:
        with world.consumer(topic, group_id=group, stop_at="latest") as consumer:
            seen[index] = [int(message.value) for message in consumer]

    threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert sorted(seen[0] + seen[1]) == sent


def test_a_static_member_that_returns_finds_its_partitions_and_nobody_is_disturbed(world: World) -> None:
    topic, group = world.topic(partitions=4), group_name()
    other = One(world, topic, group_id=group)
    one = One(world, topic, group_id=group, group_instance_id="one")
    settle(other, one, partitions=4)
    before, told = one.holds, list(other.told)
    one.consumer.close()
    again = One(world, topic, group_id=group, group_instance_id="one")
    poll_until([other, again], lambda: again.holds == before, "the same partitions")
    assert other.told == told


def test_of_two_with_one_instance_id_the_newer_has_it_and_the_older_is_told(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    older = One(world, topic, group_id=group, group_instance_id="one")
    settle(older, partitions=2)
    newer = One(world, topic, group_id=group, group_instance_id="one")
    poll_until([newer], lambda: newer.holds == [0, 1], "the newer one has all")
    with pytest.raises(FencedInstance, match="one"):
        poll_until([older], lambda: False, "the older is told")
    assert older.told[-1] == ("lost", [0, 1])
    with pytest.raises(FencedInstance):
        older.consumer.poll(0)
    older.consumer.unsubscribe()
    older.subscribe(topic)
    settle(older, partitions=2)
    with pytest.raises(FencedInstance, match="unsubscribe"):
        poll_until([newer], lambda: False, "it is taken back")


def test_slow_processing_costs_no_membership(world: World, caplog: pytest.LogCaptureFixture) -> None:
    topic, group = world.topic(partitions=2), group_name()
    options: dict[str, Any] = {
        "group_id": group,
        "session_timeout_ms": 1000,
        "heartbeat_interval_ms": 100,
        "max_poll_interval_ms": 700,
    }
    slow, other = One(world, topic, **options), One(world, topic, **options)
    settle(slow, other, partitions=2)
    world.fill(topic, 3, slow.holds[0])
    mine, told = slow.holds, list(slow.told)
    deadline = time.monotonic() + 3  # three sessions
    poll_until([other], lambda: time.monotonic() > deadline, "the time passes")
    assert len(other.holds) == 1
    warnings = [r.getMessage() for r in caplog.records if "poll was not called" in r.getMessage()]
    assert len(warnings) == 1 and f"{topic}-{mine[0]}: 3" in warnings[0], warnings
    slow.poll(1.0)
    assert len(slow.got) == 3 and slow.holds == mine and slow.told == told
    slow.consumer.commit()


def test_where_it_is_configured_who_does_not_poll_leaves_and_comes_back(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    other = One(world, topic, group_id=group)
    slow = One(world, topic, group_id=group, max_poll_interval_ms=500, max_poll_interval_action="leave")
    settle(slow, other, partitions=2)
    mine = slow.holds
    poll_until([other], lambda: other.holds == [0, 1], "the other takes over")
    slow.poll()
    assert slow.told[-1] == ("lost", mine)
    settle(slow, other, partitions=2)


def test_topics_that_match_a_pattern_are_found_when_they_appear(world: World) -> None:
    group, prefix = group_name(), f"p{time.monotonic_ns()}"
    one = One(world, f"^{prefix}-", group_id=group, metadata_max_age_ms=200)
    one.poll()
    topic = world.topic(partitions=2, prefix=prefix)
    world.fill(topic, 5, 1)
    poll_until([one], lambda: len(one.got) == 5, "records of a topic that matches")
    assert one.holds == [0, 1]


def test_topics_that_appear_later_are_read_from_their_beginning(world: World) -> None:
    prefix, again = f"p{time.monotonic_ns()}", world.topic()
    world.topic(prefix=prefix)  # known at the start
    one = One(world, f"^{prefix}-", again, group_id=group_name(), auto_offset_reset="latest", metadata_max_age_ms=200)
    poll_until([one], lambda: len(one.holds) == 2, "what there is")
    late = world.topic(prefix=prefix)
    world.fill(late, 5)
    poll_until([one], lambda: len(one.got) == 5, "records written before a topic that matches was found")
    world.admin.delete_topic(again)
    world.admin.create_topic(again)
    world.fill(again, 3)
    poll_until([one], lambda: len(one.got) == 8, "records of a topic that was deleted and created again")
    later = world.topic(prefix=prefix)
    world.fill(later, 2)
    one.subscribe(f"^{prefix}-")  # finds it, and did not have it: it is younger than the subscription before
    poll_until([one], lambda: len(one.got) == 10, "records written before it was found by subscribing anew")
    assert len(one.holds) == 3, "of the topics that match"


def test_partitions_that_are_added_are_read_from_their_beginning(world: World) -> None:
    topic, group = world.topic(), group_name()
    one = One(world, topic, group_id=group, auto_offset_reset="latest")
    settle(one, partitions=1)
    one.poll(0.2)  # the end as of now is looked up
    world.admin.create_partitions(topic, 3)
    world.fill(topic, 4, 2)
    poll_until([one], lambda: len(one.got) == 4, "records of a partition that was added")
    assert one.holds == [0, 1, 2]


def test_another_subscription_keeps_what_both_have(world: World) -> None:
    one, two, three = (world.topic(prefix=f"s{i}") for i in range(3))
    member = One(world, one, two, group_id=group_name())
    poll_until([member], lambda: len(member.holds) == 2, "both")
    member.subscribe(two, three)
    names = lambda: sorted(tp.topic for tp in member.consumer.assignment())  # noqa: E731
    poll_until([member], lambda: names() == sorted([two, three]), "the new ones")
    assert [what for what, _ in member.told] == ["assign", "revoke", "assign"]
    assert member.consumer.subscription() == [two, three]


def test_partitions_by_ranges_of_each_topic(world: World) -> None:
    one, two, group = world.topic(partitions=3), world.topic(partitions=3), group_name()
    members = [One(world, one, two, group_id=group, partition_assignment="range") for _ in range(2)]
    poll_until(members, lambda: sorted(len(member.holds) for member in members) == [2, 4], "shares")
    assert sorted(sorted(member.holds) for member in members) == [[0, 0, 1, 1], [2, 2]]
    with pytest.raises(UnsupportedAssignor, match="give all of them the same"):
        other = One(world, one, group_id=group)
        poll_until([*members, other], lambda: False, "it is refused")


def test_unsubscribe_leaves(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    first, second = One(world, topic, group_id=group), One(world, topic, group_id=group)
    settle(first, second, partitions=2)
    first.consumer.unsubscribe()
    assert first.holds == [] and first.told[-1][0] == "revoke"
    settle(second, partitions=2)
    first.subscribe(topic)
    settle(first, second, partitions=2)


def test_a_topic_that_is_deleted_is_lost_and_found_again_under_its_name(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stays = world.topic(), world.topic()
    one = One(world, gone, stays, group_id=group_name(), metadata_max_age_ms=200)
    poll_until([one], lambda: len(one.holds) == 2, "both")
    world.admin.delete_topic(gone)
    poll_until([one], lambda: len(one.holds) == 1, "one is gone")
    assert one.told[-1] == ("lost", [0])
    eventually(lambda: one.poll() or "does not exist" in caplog.text, WAIT_S, "a word about it")
    world.admin.create_topic(gone)
    world.fill(gone, 3)
    poll_until([one], lambda: len(one.got) == 3, "records of the new one")


def test_a_member_with_nothing_to_read_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "WAIT_MS", 100)
    monkeypatch.setattr(watch, "ASK_EVERY_MS", 100)
    topic, group = world.topic(), group_name()
    first = One(world, topic, group_id=group, client_id="busy")
    settle(first, partitions=1)
    second = One(world, topic, group_id=group)
    poll_until([second], lambda: "2 members share 1 partitions" in repr(second.consumer), "why it has nothing")
    eventually(lambda: "2 members share 1 partitions" in caplog.text, WAIT_S, "a warning")
    first.subscribe(world.topic())  # gives the partition up at its next poll, which does not come
    poll_until([second], lambda: f"{topic}-0 held by member" in repr(second.consumer), "who has what it waits for")
    assert "(busy on " in repr(second.consumer)


def test_bad_groups_are_refused_with_a_hint(world: World) -> None:
    for settings, hint in (
        ({"group_id": ""}, "1 to 249"),
        ({"group_id": "g", "partition_assignment": "sticky"}, "uniform"),
        ({"group_instance_id": "one"}, "group.id"),
        ({"enable_auto_commit": True}, "group.id"),
        ({"group_id": "g", "session_timeout_ms": 1000, "heartbeat_interval_ms": 900}, "a third"),
        ({"group_id": "g", "auto_offset_reset": "by_duration:yesterday"}, "by_duration"),
    ):
        with pytest.raises(ConfigError, match=hint):
            world.consumer(**settings)
    with pytest.raises(UnknownTopicOrPartition, match="nosuch"):
        world.consumer("nosuch", group_id="g")
    with pytest.raises(ConfigError, match="regular expression"):
        world.consumer("^(", group_id="g")
