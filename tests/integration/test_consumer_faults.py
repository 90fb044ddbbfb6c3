"""The consumer when things go wrong: replicas that go away, damaged and deleted logs, signals, forks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from rayqueue.consumer import Consumer
from rayqueue.errors import CorruptRecord, RayQueueError, UnknownTopicOrPartition
from rayqueue.types import TopicPartition
from tests.integration.consumer_cluster import WAIT_S, World, numbers, take
from tests.integration.waiting import eventually


def test_a_restarted_replica_actor_is_found_again_without_hole_or_repetition(world: World, mapped: bool) -> None:
    topic = world.topic(partitions=2)
    for partition in (0, 1):
        world.fill(topic, 50, partition)
    consumer = world.consumer(topic, mapped_reads=mapped)
    got = take(consumer, 30)
    for start in (50, 60):
        world.cluster.stop_replica(0)
        got += consumer.consume(5, timeout=0.1)  # what was fetched before is good
        world.cluster.start_replica(0)
        for partition in (0, 1):
            world.fill(topic, 10, partition, start)
    got += take(consumer, 140 - len(got))
    for partition in (0, 1):
        mine = [m for m in got if m.partition == partition]
        assert [m.offset for m in mine] == list(range(70)) and numbers(mine) == list(range(70))


def test_a_log_whose_files_are_gone_is_read_over_the_stream(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 10)
    consumer = world.consumer(topic)
    assert len(take(consumer, 10)) == 10
    (cursor,) = consumer._machine.cursors.values()
    assert cursor.mapping is not None
    mapped = consumer._engine._mapped[cursor]
    mapped._directory = str(Path(mapped._directory) / "gone")
    mapped._view = None
    world.fill(topic, 10, start=10)
    assert numbers(take(consumer, 10)) == list(range(10, 20))
    assert cursor.mapping is None, "on the stream now"


def test_records_deleted_under_the_reader_are_reset_by_policy(world: World, mapped: bool) -> None:
    topic = world.topic()
    world.fill(topic, 20)
    world.admin.delete_records({TopicPartition(topic, 0): 12})
    consumer = world.consumer(mapped_reads=mapped)
    consumer.assign([TopicPartition(topic, 0, 5)])
    assert numbers(take(consumer, 8)) == list(range(12, 20))
    consumer.seek((topic, 0), 10_000)
    assert numbers(take(consumer, 8)) == list(range(12, 20)), "beyond the end: the policy too"


def test_a_deleted_topic_is_an_error_until_it_is_let_go(world: World, mapped: bool) -> None:
    topic, other = world.topic(), world.topic()
    world.fill(topic, 3)
    consumer = world.consumer(topic, mapped_reads=mapped)
    take(consumer, 3)
    world.admin.delete_topic(topic)
    for _ in range(2):
        with pytest.raises(UnknownTopicOrPartition, match="was deleted"):
            for _ in range(100):
                assert consumer.poll(0.1) is None
    world.fill(other, 2)
    consumer.subscribe(other)
    assert numbers(take(consumer, 2)) == [0, 1]


def test_a_topic_made_again_under_its_name_is_read_from_its_beginning(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 3)
    consumer = world.consumer(topic)
    take(consumer, 3)
    world.admin.delete_topic(topic)
    with pytest.raises(UnknownTopicOrPartition):
        for _ in range(100):
            consumer.poll(0.1)
    world.admin.create_topic(topic, partitions=1)
    with World(world.cluster).producer as producer:
        producer.produce(topic, b"77").result(WAIT_S)
    found, pause = None, threading.Event()
    for _ in range(200):
        try:
            found = consumer.poll(0.1)
        except UnknownTopicOrPartition:
            pause.wait(0.05)  # the error stays until metadata shows the new topic
        if found is not None:
            break
    assert found is not None and numbers([found]) == [77] and found.offset == 0


def damage(world: World, topic: str, needle: bytes) -> None:
    """Turns a bit of the record with this content."""
    for path in world.segments(topic):
        data = path.read_bytes()
        at = data.find(needle)
        if at >= 0:
            with open(path, "r+b") as file:
                file.seek(at)
                file.write(bytes([needle[0] ^ 1]))
            return
    raise AssertionError("the record is in no segment")


def test_a_damaged_batch_stays_an_error_until_the_user_seeks_past_it(world: World, mapped: bool) -> None:
    topic = world.topic()
    for value in (b"0", b"1", b"damage-here", b"3"):
        world.producer.produce(topic, value).result(WAIT_S)
    damage(world, topic, b"damage-here")
    consumer = world.consumer(topic, mapped_reads=mapped)
    assert numbers(take(consumer, 2)) == [0, 1], "what comes before it is handed out"
    for _ in range(2):
        with pytest.raises(CorruptRecord, match=f"{topic}-0.*offset 2.*seek") as raised:
            for _ in range(100):
                consumer.consume(timeout=0.1)
    assert "3))" in str(raised.value), "it says where to go on"
    assert consumer.position((topic, 0)) == 2
    with pytest.raises(CorruptRecord):
        consumer.consume_arrow(timeout=1)
    consumer.seek((topic, 0), 3)
    assert numbers(take(consumer, 1)) == [3]


def test_check_crcs_can_be_turned_off(world: World) -> None:
    topic = world.topic()
    world.producer.produce(topic, b"damage-here").result(WAIT_S)
    damage(world, topic, b"damage-here")
    (message,) = take(world.consumer(topic, check_crcs=False), 1)
    assert message.value == b"eamage-here"


def test_an_interrupt_gets_through_to_a_waiting_poll(world: World) -> None:
    consumer = world.consumer(world.topic())
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            consumer.poll(timeout=WAIT_S * 10)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert consumer.poll(0) is None, "it can be used on"


def test_without_threads_a_consumer_tries_again_and_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = world.topic()
    world.fill(topic, 5)
    start = threading.Thread.start
    refused: list[str] = []

    def refusing(self: threading.Thread) -> None:
        kind = self.name.rsplit("-", 1)[0] if self.name[-1].isdigit() else self.name
        if kind in ("rayqueue-fetch", "rayqueue-metadata", "rayqueue-offsets") and refused.count(kind) < 2:
            refused.append(kind)
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refusing)
        consumer = world.consumer(topic, retry_backoff_ms=1)
        assert numbers(take(consumer, 5)) == [0, 1, 2, 3, 4]
    assert set(refused) == {"rayqueue-fetch", "rayqueue-metadata", "rayqueue-offsets"}


def test_a_consumer_whose_stream_never_had_a_thread_can_be_closed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    refused: list[str] = []

    def refusing(self: threading.Thread) -> None:
        if self.name.startswith("rayqueue-fetch"):
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    consumer = world.consumer()
    consumer.assign([TopicPartition(world.topic(), 0, 0)])
    assert consumer.poll(0) is None
    eventually(lambda: refused or consumer.poll(0), WAIT_S, "a stream that gets no thread")
    consumer.close()
    with pytest.raises(RayQueueError, match="closed"):
        consumer.poll(0)


def test_a_waiting_poll_wakes_when_a_record_comes(world: World, mapped: bool) -> None:
    topic = world.topic()
    consumer = world.consumer(topic, mapped_reads=mapped)
    assert consumer.poll(0) is None
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(consumer.poll(None)))
    thread.start()
    world.fill(topic, 1)
    thread.join(WAIT_S)
    assert numbers(got) == [0]


def test_closed_forked_and_pickled_consumers_say_what_to_do(world: World) -> None:
    topic = world.topic()
    consumer = world.consumer(topic)
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(consumer)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            consumer.poll(0)
            sender.send("no error")
        except RayQueueError as error:
            sender.send(str(error))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert "does not survive a fork" in receiver.recv()
    consumer.close()
    consumer.close()
    with pytest.raises(RayQueueError, match="closed"):
        consumer.poll(0)
    assert "closed" in repr(consumer)


def test_a_consumer_that_is_closed_or_forgotten_leaves_no_connection_and_no_thread(world: World) -> None:
    topic = world.topic()
    world.fill(topic, 1)

    def connections() -> int:
        """Sockets of this process, in which the servers run too."""
        links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
        return sum(os.path.exists(link) and os.readlink(link).startswith("socket:") for link in links)

    def settled(wanted: int) -> bool:
        """The servers' ends follow ours within a moment."""
        deadline = time.monotonic() + WAIT_S
        while connections() > wanted and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        return connections() <= wanted

    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("rayqueue-fetch")}

    before = connections()
    closed = Consumer(topic, bootstrap_servers=world.servers, auto_offset_reset="earliest")
    take(closed, 1)
    assert connections() >= before + 2
    closed.close()
    assert settled(before)
    forgotten = Consumer(topic, bootstrap_servers=world.servers, auto_offset_reset="earliest")
    take(forgotten, 1)
    watch = weakref.ref(forgotten)
    del forgotten
    gc.collect()
    assert watch() is None
    assert settled(before)
    assert not threads()
