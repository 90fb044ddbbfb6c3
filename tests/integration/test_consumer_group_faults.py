"""Consumer groups when something is lost: a member's process, its connection, a group coordinator, a broker."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayqueue.consumer import Consumer
from rayqueue.errors import GroupCoordinatorNotAvailable, RayQueueError
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.consumer_cluster import World, numbers, take
from tests.integration.group_members import WAIT_S, One, group_name, poll_until, settle
from tests.integration.waiting import eventually

GRACE_MS = 500

MEMBER = """
import sys
from rayqueue import Consumer
servers, topic, group = sys.argv[1:]
consumer = Consumer(topic, bootstrap_servers=servers, group_id=group, auto_offset_reset="earliest")
while True:
    messages = consumer.consume(100, timeout=0.1)
    print(len(consumer.assignment()), *(int(message.value) for message in messages), flush=True)
    consumer.commit()
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    config = {"group.disconnect.grace.ms": GRACE_MS, "offsets.topic.num.partitions": 2}
    with InProcessCluster(tmp_path_factory.mktemp("cluster"), brokers=3, config=config) as cluster:
        made = World(cluster)
        yield made
        made.close()


def coordinator_of(one: One) -> int:
    """The broker whose group coordinator the member speaks to."""
    return eventually(lambda: _coordinator_of(one), WAIT_S, "a coordinator") - 1  # type: ignore[no-any-return]


def _coordinator_of(one: One) -> int:
    from rayqueue.client.groups.calls import find_coordinator

    engine = one.consumer._engine
    group = one.consumer._config.group_id
    assert group is not None
    return find_coordinator(engine.client, group, -1, 5.0).broker_id + 1


def test_what_a_killed_process_held_goes_to_the_others(world: World) -> None:
    topic, group = world.topic(partitions=4), group_name()
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", MEMBER, world.servers, topic, group],
        env=dict(os.environ, PYTHONPATH=str(root)),
        stdout=subprocess.PIPE,
        text=True,
    )
    theirs: list[int] = []
    held = [0]

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            words = [int(word) for word in line.split()]
            held[0] = words[0]
            theirs.extend(words[1:])

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        one = One(world, topic, group_id=group)
        poll_until([one], lambda: held[0] == 2 and len(one.holds) == 2, "both have a share")
        for partition in range(4):
            world.fill(topic, 10, partition, start=10 * partition)
        poll_until([one], lambda: len(theirs) + len(one.got) >= 40, "all records")
    finally:
        process.kill()
        process.wait()
        listener.join()
    killed = time.monotonic()
    settle(one, partitions=4)
    took_s = time.monotonic() - killed
    assert took_s < GRACE_MS / 1000 + 2, f"{took_s:.1f} s, and not its session's 45"
    world.fill(topic, 10, 0, start=40)
    world.fill(topic, 10, 3, start=50)
    poll_until([one], lambda: set(one.values) | set(theirs) >= set(range(60)), "what came since")
    assert set(one.values) & set(theirs) <= set(theirs[-10:]), "twice only what it had not committed"


def test_a_consumer_that_is_forgotten_leaves_its_group(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    one = One(world, topic, group_id=group)
    kept = [Consumer(topic, group_id=group, bootstrap_servers=world.servers)]
    poll_until([one], lambda: kept[0].poll(0.01) or len(one.holds) == 1 == len(kept[0].assignment()), "shares")
    thread = kept[0]._membership.session._thread  # type: ignore[union-attr]
    kept.clear()
    gc.collect()
    dropped = time.monotonic()
    settle(one, partitions=2)
    assert time.monotonic() - dropped < 2
    thread.join(WAIT_S)
    assert not thread.is_alive()


def test_a_member_whose_connection_breaks_is_back_before_it_is_missed(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    first, second = One(world, topic, group_id=group), One(world, topic, group_id=group)
    settle(first, second, partitions=2)
    told = [list(first.told), list(second.told)]
    for _ in range(3):
        exchange = first.consumer._membership.session._exchange  # type: ignore[union-attr]
        assert exchange is not None
        exchange.abort()
        deadline = time.monotonic() + 2 * GRACE_MS / 1000
        poll_until([first, second], lambda: time.monotonic() > deadline, "the grace passes")  # noqa: B023
    assert [first.told, second.told] == told


def test_without_its_coordinator_a_member_reads_on_and_a_commit_waits_for_the_next(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    one = One(world, topic, group_id=group, enable_auto_commit=False)
    settle(one, partitions=2)
    assert [one.consumer.position((topic, partition)) for partition in (0, 1)] == [0, 0]
    broker = coordinator_of(one)
    world.cluster.stop_groups(broker)
    world.fill(topic, 20, 0)
    poll_until([one], lambda: len(one.got) == 20, "records")
    back = threading.Timer(1.0, lambda: world.cluster.start_groups(broker))
    back.start()
    one.consumer.commit()
    back.join()
    assert one.consumer.committed((topic, 0)) == 20
    assert one.told == [("assign", [0, 1])], "nobody has noticed"
    deadline = time.monotonic() + 1.0
    poll_until([one], lambda: time.monotonic() > deadline, "a while")
    assert one.told == [("assign", [0, 1])]


def test_a_commit_that_nobody_takes_in_time_says_so(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 5)
    one = One(world, topic, group_id=group, enable_auto_commit=False, request_timeout_ms=1000)
    poll_until([one], lambda: len(one.got) == 5, "records")
    broker = coordinator_of(one)
    world.cluster.stop_groups(broker)
    try:
        begun = time.monotonic()
        with pytest.raises(RayQueueError) as caught:
            one.consumer.commit()
        assert caught.value.retriable and time.monotonic() - begun < 5
    finally:
        world.cluster.start_groups(broker)
    eventually(lambda: one.consumer.commit() or True, WAIT_S)
    assert one.consumer.committed((topic, 0)) == 5


def test_after_its_session_without_a_coordinator_a_member_lets_go_and_comes_back(world: World) -> None:
    topic, group = world.topic(partitions=2), group_name()
    one = One(world, topic, group_id=group, session_timeout_ms=1000, heartbeat_interval_ms=200)
    settle(one, partitions=2)
    broker = coordinator_of(one)
    world.cluster.stop_groups(broker)
    poll_until([one], lambda: one.told[-1] == ("lost", [0, 1]), "it lets go")
    assert one.holds == []
    world.cluster.start_groups(broker)
    settle(one, partitions=2)


def test_the_broker_of_its_coordinator_ends_and_the_group_goes_on_at_another(world: World) -> None:
    topic, group = world.topic(partitions=4, replication_factor=3), group_name()
    first, second = One(world, topic, group_id=group), One(world, topic, group_id=group)
    settle(first, second, partitions=4)
    for partition in range(4):
        world.fill(topic, 10, partition, start=10 * partition)
    poll_until([first, second], lambda: len(first.got) + len(second.got) == 40, "records")
    told = [list(first.told), list(second.told)]
    broker = coordinator_of(first)
    world.cluster.stop_broker(broker)
    try:
        for partition in range(4):
            world.fill(topic, 10, partition, start=40 + 10 * partition)
        poll_until([first, second], lambda: len(first.got) + len(second.got) >= 80, "what came since")
        for one in (first, second):
            one.consumer.commit()
        assert sorted(first.values + second.values) == list(range(80))
        assert [first.told, second.told] == told, "nobody has lost anything"
        assert coordinator_of(first) != broker
    finally:
        world.cluster.restart_broker(broker)


def test_offsets_outlive_a_stop_of_all_group_coordinators(world: World) -> None:
    topic, group = world.topic(), group_name()
    world.fill(topic, 9)
    with world.consumer(topic, group_id=group) as consumer:
        take(consumer, 4)
    brokers = sorted(world.cluster.groups)
    for broker in brokers:
        world.cluster.stop_groups(broker)
    with world.consumer(group_id=group, request_timeout_ms=500) as look, pytest.raises(RayQueueError) as caught:
        look.committed((topic, 0))
    assert isinstance(caught.value, GroupCoordinatorNotAvailable) or caught.value.retriable
    for broker in brokers:
        world.cluster.start_groups(broker)
    assert numbers(take(world.consumer(topic, group_id=group), 5)) == [4, 5, 6, 7, 8]
