"""The fetch machine, when a leader says nothing: it may have nothing to say, hang, or be lost."""

from __future__ import annotations

from rayqueue.protocol.messages import FetchPart
from tests.unit.client.fake_chunks import FakeChunk, topic_info
from tests.unit.client.fake_leader import Bench, kinds


def test_while_a_leader_is_silent_the_metadata_is_asked_ever_less_often() -> None:
    bench = Bench()
    bench.assign()
    bench.run()
    start, asked = bench.now, []
    while bench.now < start + 140_000:
        deadline = bench.machine.next_deadline_ms()
        assert deadline is not None and deadline > bench.now
        bench.now = deadline
        if "Refresh" in kinds(bench.plan()):
            asked.append((bench.now - start) // 1000)
            bench.learn(topic_info())
    assert asked == [1, 2, 3, 4, 6, 10, 15, 22, 34, 51, 76, 108, 140]
    bench.tell()
    assert kinds(bench.plan()) == []
    bench.now += 999
    assert kinds(bench.plan()) == []
    bench.now += 1
    assert kinds(bench.plan()) == ["Refresh"], "news has begun it anew"


def test_a_leader_that_hangs_is_left_for_the_next_one_without_a_word_of_it() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    bench.send(0, 0, 10)
    hanging, old = bench.endpoint, bench.newest().subscription
    bench.now += 1000
    assert kinds(bench.plan()) == ["Refresh"]
    bench.learn(topic_info(port=2000, epoch=1))
    assert "Open" in kinds(bench.run())
    assert (bench.endpoint.port, bench.newest().offset, bench.newest().leader_epoch) == (2000, 10, 1)
    late = FetchPart(old, 100, 0, 0, entries=b"x")
    bench.machine.on_part(hanging, late, FakeChunk(10, 20), 10, bench.now)
    assert cursor.fetch_offset == 10, "what it says after all is dropped"
