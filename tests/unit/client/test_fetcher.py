"""The fetch machine, with fake events: subscribing, resets, pauses, failures, and never a hole or a step back."""

from __future__ import annotations

import random

import pytest

from rayqueue.client.fetcher import COMMITTED
from rayqueue.errors import (
    AuthenticationError,
    BrokerNotAvailable,
    CorruptRecord,
    OffsetOutOfRange,
    UnknownTopicOrPartition,
)
from rayqueue.protocol.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, FetchPart, OffsetAnswer
from tests.unit.client.fake_chunks import FakeChunk, topic_info
from tests.unit.client.fake_leader import Bench, DropMapping, LookUp, Open, Refresh, Send, kinds


def test_assigned_at_an_offset_it_opens_a_stream_and_subscribes_there() -> None:
    bench = Bench()
    bench.assign(start=7)
    assert kinds(bench.plan()) == ["Open"]
    bench.machine.on_opened(bench.endpoint, local=False)
    assert kinds(bench.plan()) == ["Send"]
    wanted = bench.newest()
    assert (wanted.offset, wanted.leader_epoch, wanted.mapped) == (7, 0, False)
    assert bench.credit == 400, "one partition alone: its own bound"


@pytest.mark.parametrize(("how", "asked"), [("earliest", EARLIEST_TIMESTAMP), ("latest", LATEST_TIMESTAMP)])
def test_without_an_offset_the_leader_is_asked_for_one(how: str, asked: int) -> None:
    bench = Bench(partitions=2)
    bench.assign(0, how)
    bench.assign(1, how)
    assert kinds(bench.run()) == ["LookUp"]
    assert [query.timestamp for query in bench.lookup().queries] == [asked, asked]
    bench.answer(5, 9)
    bench.run()
    assert (bench.newest(0).offset, bench.newest(1).offset) == (5, 9)


def test_reset_none_without_an_offset_is_an_error_with_the_range() -> None:
    bench = Bench(reset="none")
    cursor = bench.assign(start="none")
    bench.run()
    bench.answer(3, 9)
    bench.run()
    error = bench.machine.error()
    assert isinstance(error, OffsetOutOfRange) and "3 to 8" in str(error)
    bench.machine.seek(cursor, 4)
    bench.run()
    assert bench.machine.error() is None and bench.newest().offset == 4


def test_a_seek_overtakes_the_look_up_under_way() -> None:
    bench = Bench()
    cursor = bench.assign(start="earliest")
    bench.run()
    bench.machine.seek(cursor, 50)
    bench.answer(5)
    bench.run()
    assert bench.newest().offset == 50 and cursor.position == 50


def test_failed_look_up_is_tried_again_after_fresh_metadata() -> None:
    bench = Bench()
    bench.assign(start="earliest")
    bench.run()
    bench.machine.on_offsets(bench.lookup().number, [OffsetAnswer(-1, -1, "NotLeaderOrFollower", "moved")])
    assert kinds(bench.run()) == ["Refresh"]
    bench.learn(topic_info(port=2000, epoch=1))
    bench.run()
    assert bench.lookup().endpoint.port == 2000


def test_a_seek_is_a_new_subscription_and_late_data_of_the_old_one_is_dropped() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    old = bench.newest()
    bench.machine.seek(cursor, 60)
    bench.run()
    assert bench.newest().offset == 60 and old.subscription not in bench.subscribed
    late = FetchPart(old.subscription, 100, 0, 0, entries=b"x")
    bench.machine.on_part(bench.endpoint, late, FakeChunk(0, 30), 300, bench.now)
    assert not cursor.has_records
    bench.credit -= 300
    bench.run()
    assert bench.credit == 400, "what the dropped data used up is granted again"


def test_credit_bounds_what_is_sent_ahead() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    sent = 0
    while bench.credit > 0:
        bench.send(0, sent, sent + 5)
        sent += 5
        bench.run()
    assert sent * 10 == 400
    bench.machine.advance(cursor, 20)
    bench.run()
    assert bench.credit == 200


def test_a_full_partition_is_parked_and_comes_back_without_a_hole() -> None:
    bench = Bench(partitions=2, stream_bytes=2000, partition_bytes=400)
    cursor, _ = bench.assign(0), bench.assign(1)
    bench.run()
    first = bench.newest(0)
    bench.send(0, 0, 45)
    bench.run()
    assert first.subscription not in bench.subscribed and cursor.parked
    late = FetchPart(first.subscription, 100, 0, 0, entries=b"x")
    bench.machine.on_part(bench.endpoint, late, FakeChunk(45, 50), 50, bench.now)
    assert cursor.fetch_offset == 50, "what was on its way still counts"
    bench.machine.advance(cursor, 20)
    bench.run()
    assert cursor.parked, "not yet half empty"
    bench.machine.advance(cursor, 40)
    bench.run()
    assert bench.newest(0).offset == 50 and not cursor.parked


def test_paused_partitions_keep_their_buffer_and_leave_the_credit_to_others() -> None:
    bench = Bench(partitions=2, stream_bytes=500)
    paused, other = bench.assign(0), bench.assign(1)
    bench.run()
    bench.send(0, 0, 20)
    bench.machine.pause(paused)
    bench.run()
    assert [s.partition for s in bench.subscribed.values()] == [1]
    assert bench.machine.ring.next() is None
    bench.send(1, 0, 20)
    assert bench.machine.ring.next() is other
    bench.machine.advance(other, 20)
    bench.run()
    assert bench.credit >= 400, "held back bytes of a paused partition take no credit from the others"
    bench.machine.resume(paused)
    bench.run()
    assert bench.machine.ring.next() is paused and paused.position == 0
    assert bench.newest(0).offset == 20


def test_a_broken_stream_goes_on_from_the_end_of_the_buffer() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    bench.send(0, 0, 10)
    bench.machine.advance(cursor, 4)
    bench.close()
    assert kinds(bench.run()) == ["Refresh"], "the first time at once"
    assert bench.machine.ring.next() is cursor, "what is buffered is good"
    bench.learn(topic_info(port=2000, epoch=1))
    bench.run()
    assert bench.endpoint.port == 2000
    assert (bench.newest().offset, bench.newest().leader_epoch, cursor.position) == (10, 1, 4)


def test_backoff_grows_while_nothing_helps() -> None:
    bench = Bench()
    bench.assign()
    waits = []
    for _ in range(5):
        bench.run()
        bench.close()
        bench.plan()
        start = bench.now
        if not any(isinstance(effect, Refresh) for effect in bench.effects[-1:]):
            deadline = bench.machine.next_deadline_ms()
            assert deadline is not None
            bench.now = deadline
            assert kinds(bench.plan()) == ["Refresh"]
        waits.append(bench.now - start)
        bench.learn(topic_info())
    assert waits == [0, 20, 40, 80, 160]


def test_an_older_leader_epoch_is_refused_everywhere() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    bench.send(0, 0, 5, epoch=3)
    bench.send(0, 5, 9, epoch=2)
    assert cursor.fetch_offset == 5, "data of a zombie"
    bench.run()
    bench.learn(topic_info(epoch=2, port=2000))
    bench.run()
    assert not bench.subscribed, "metadata of before"
    bench.now += 1000
    bench.plan()
    bench.learn(topic_info(epoch=3, port=3000))
    bench.run()
    assert bench.endpoint.port == 3000 and bench.newest().offset == 5


@pytest.mark.parametrize("error", ["NotLeaderOrFollower", "FencedLeaderEpoch", "UnknownTopicOrPartition"])
def test_subscription_that_ends_for_want_of_a_leader_is_made_again(error: str) -> None:
    bench = Bench()
    bench.assign()
    bench.run()
    bench.tell(error=error, message="")
    assert kinds(bench.run()) == ["Refresh"]
    assert bench.machine.error() is None
    bench.subscribed.clear()
    bench.learn(topic_info(epoch=1))
    bench.run()
    assert bench.newest().leader_epoch == 1


def test_out_of_range_resets_once_the_buffer_is_handed_out() -> None:
    bench = Bench(reset="earliest")
    cursor = bench.assign()
    bench.run()
    bench.send(0, 0, 5)
    bench.tell(error="OffsetOutOfRange", message="", log_start=50)
    assert kinds(bench.run()) == []
    bench.machine.advance(cursor, 5)
    assert kinds(bench.run()) == ["LookUp", "Warn"]
    bench.answer(50)
    bench.run()
    assert bench.newest().offset == 50


def test_out_of_range_without_a_policy_is_an_error_until_the_user_moves() -> None:
    bench = Bench(reset="none")
    cursor = bench.assign(start=7)
    bench.run()
    bench.tell(error="OffsetOutOfRange", message="", log_start=50)
    bench.run()
    for _ in range(2):
        error = bench.machine.error()
        assert isinstance(error, OffsetOutOfRange) and "offset 7" in str(error) and "50 to 99" in str(error)
    bench.machine.pause(cursor)
    assert bench.machine.error() is None, "a paused partition holds nobody up"


def test_any_other_error_stays_until_the_user_moves() -> None:
    bench = Bench()
    cursor = bench.assign()
    bench.run()
    bench.tell(error="CorruptRecord", message="bits")
    bench.run()
    assert isinstance(bench.machine.error(), CorruptRecord) and isinstance(bench.machine.error(), CorruptRecord)
    bench.machine.seek(cursor, 3)
    bench.run()
    assert bench.machine.error() is None and bench.newest().offset == 3


def test_a_failing_disk_is_told_once_a_try() -> None:
    bench = Bench()
    bench.assign()
    bench.run()
    bench.tell(error="StorageError", message="disk")
    assert bench.machine.error() is not None
    assert bench.machine.error() is None
    assert kinds(bench.run()) == ["Refresh"]


def test_deleted_topic_is_an_error_and_the_name_is_looked_for() -> None:
    bench = Bench()
    bench.assign()
    bench.run()
    bench.learn()
    bench.run()
    assert isinstance(bench.machine.error(), UnknownTopicOrPartition)
    deadline = bench.machine.next_deadline_ms()
    assert deadline is not None and deadline - bench.now == 500
    assert not bench.subscribed


def test_wrong_token_is_fatal_and_other_refusals_are_not() -> None:
    bench = Bench()
    bench.assign()
    bench.plan()
    bench.machine.on_closed(bench.endpoint, BrokerNotAvailable("not yet"), bench.now)
    assert bench.machine.error() is None
    bench.plan()
    bench.machine.on_refresh_failed(AuthenticationError("token"), bench.now)
    assert isinstance(bench.machine.error(), AuthenticationError)
    assert isinstance(bench.machine.error(), AuthenticationError)


def test_mapped_partition_takes_no_credit_and_changes_of_the_directory_drop_the_mapping() -> None:
    bench = Bench(local=True)
    cursor = bench.assign()
    bench.run()
    assert bench.newest().mapped
    bench.tell(high=10, path="p", generation=1)
    assert cursor.mapping == ("p", 1) and bench.machine.ring.next() is cursor
    cursor.accept(FakeChunk(0, 10), charged=False)
    bench.machine.advance(cursor, 4)
    bench.tell(high=10, path="p", generation=2)
    assert [effect for effect in bench.run() if isinstance(effect, DropMapping)]
    assert (cursor.position, cursor.fetch_offset, cursor.mapping) == (4, 4, ("p", 2))


def test_mapping_that_fails_goes_on_over_the_stream_until_a_new_epoch() -> None:
    bench = Bench(local=True)
    cursor = bench.assign()
    bench.run()
    bench.tell(high=10, path="p", generation=1)
    bench.machine.unmap(cursor)
    effects = bench.run()
    assert not bench.newest().mapped and any(isinstance(effect, DropMapping) for effect in effects)
    bench.send(0, 0, 5)
    bench.close()
    bench.run()
    bench.learn(topic_info(epoch=1))
    bench.run()
    assert bench.newest().mapped and bench.newest().offset == 5


def test_mapped_reader_asks_the_leader_about_offsets_beyond_the_watermark_and_before_the_start() -> None:
    bench = Bench(local=True)
    cursor = bench.assign(start=50)
    bench.run()
    bench.tell(high=10, path="p", generation=1)
    bench.run()
    assert not bench.newest().mapped, "only the leader says OffsetOutOfRange"
    bench.machine.seek(cursor, 2)
    bench.run()
    assert bench.newest().mapped
    bench.tell(high=100, log_start=5, path="p", generation=1)
    assert any(isinstance(effect, LookUp) for effect in bench.run())


def test_a_stream_nobody_needs_is_closed() -> None:
    bench = Bench()
    bench.assign()
    bench.run()
    bench.machine.revoke(("t", 0))
    assert kinds(bench.run()) == ["Send", "Close"]
    bench.assign(start=3)
    assert [type(e) for e in bench.run()] == [Open, Send]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_nothing_is_skipped_and_nothing_comes_twice(seed: int) -> None:
    """A log of growing length behind leaders that come and go; the reader pauses, resumes and reads in turns."""
    draw = random.Random(seed)
    bench = Bench(partitions=3, stream_bytes=600, partition_bytes=300, local=False)
    cursors = [bench.assign(partition) for partition in range(3)]
    seen: dict[int, int] = {0: 0, 1: 0, 2: 0}
    epoch = 0
    for _ in range(400):
        bench.run()
        act = draw.random()
        if act < 0.45 and bench.subscribed and bench.credit > 0:
            wanted = draw.choice(list(bench.subscribed.values()))
            at = wanted.offset
            end = at + draw.randrange(1, 12)
            base = max(0, at - draw.randrange(4))
            bench.send(wanted.partition, base, end, high=1 << 40, epoch=epoch)
            wanted.offset = end
        elif act < 0.8 and (cursor := bench.machine.ring.next()) is not None:
            chunk, position = cursor.buffer[0], cursor.position
            assert position == seen[cursor.partition] and chunk.base_offset <= position < chunk.next_offset
            seen[cursor.partition] = draw.randrange(position, chunk.next_offset) + 1
            bench.machine.advance(cursor, seen[cursor.partition])
        elif act < 0.86:
            bench.machine.pause(draw.choice(cursors))
        elif act < 0.94:
            bench.machine.resume(draw.choice(cursors))
        elif act < 0.97 and bench.subscribed:
            bench.close()
        else:
            epoch += draw.random() < 0.5
            bench.now += 1000
            bench.plan()
            bench.learn(topic_info(partitions=3, port=1000 + epoch, epoch=epoch))
            for stream_effect in bench.run():
                assert stream_effect is not None
    assert [cursor.position for cursor in cursors] == [seen[0], seen[1], seen[2]]
    assert sum(seen.values()) > 100


def test_by_a_duration_it_begins_at_the_first_record_no_older_or_at_the_end() -> None:
    bench = Bench(partitions=2, wall_ms=10_000)
    bench.assign(0, "by_duration:4000")
    bench.assign(1, "by_duration:99999")
    bench.run()
    assert [query.timestamp for query in bench.lookup().queries] == [6_000, LATEST_TIMESTAMP, 0, LATEST_TIMESTAMP]
    bench.answer(-1, 9, 3, 9)
    bench.run()
    assert (bench.newest(0).offset, bench.newest(1).offset) == (9, 3)


def test_where_somebody_else_finds_out_where_to_begin_nothing_is_asked() -> None:
    bench = Bench()
    cursor = bench.assign(start=COMMITTED)
    assert bench.run() == [] and cursor.position is None
    bench.machine.seek(cursor, 5)
    bench.run()
    assert bench.newest().offset == 5
