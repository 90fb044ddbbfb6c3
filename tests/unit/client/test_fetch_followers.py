"""Reading from a follower on this host: when, and when no more; nobody waits for it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from rayqueue.client.fetch_followers import AGAIN_MS, ASK_MS, SILENT_MS
from rayqueue.client.fetching.nearness import may_be_here
from rayqueue.client.streams import Close, Endpoint, Open, Send
from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol.messages import PING, FetchPart, FetchPartition
from tests.unit.client.fake_chunks import FakeChunk, topic_info
from tests.unit.client.fake_leader import Bench

LEADER = Endpoint("h", 1000, 0, "incarnation-1000")
HERE = Endpoint("here", 2000, 1, "incarnation-2000")
AWAY = Endpoint("away", 3000, 2, "incarnation-3000")
FOLLOWERS = ((AWAY.broker_id, AWAY.host, AWAY.port), (HERE.broker_id, HERE.host, HERE.port))


class Near(Bench):
    """The leader and one follower are away, the other follower is on this host.

    Attributes:
        local: endpoints whose files can be read. shut: those that do not answer.
    """

    def __init__(self, *local: Endpoint, near: tuple[str, ...] = ("here",), mapped: bool = True) -> None:
        super().__init__()
        self.files = set(local or (HERE,))
        self.shut: set[Endpoint] = set()
        self.sent: dict[Endpoint, dict[int, FetchPartition]] = {}
        self.machine.limits = self.machine.limits._replace(near=lambda host: host in near, mapped=mapped)
        self.learn()

    def learn(self, *topics: Any, asked: list[str] | None = None, **fields: Any) -> None:
        super().learn(*(topics or (topic_info(followers=FOLLOWERS, **fields),)), asked=asked)

    def go(self) -> list[Any]:
        """Plans until nothing happens."""
        done: list[Any] = []
        while effects := self.machine.plan(self.now):
            done += effects
            for effect in effects:
                if isinstance(effect, Open) and effect.endpoint not in self.shut:
                    self.machine.on_opened(effect.endpoint, effect.endpoint in self.files)
                elif isinstance(effect, Send):
                    there = self.sent.setdefault(effect.endpoint, {})
                    for gone in effect.request.remove:
                        there.pop(gone, None)
                    there.update((wanted.subscription, wanted) for wanted in effect.request.add)
                elif isinstance(effect, Close):
                    self.sent.pop(effect.endpoint, None)
            self.machine.validate()
        return done

    def tell_at(self, endpoint: Endpoint, high: int = 100, epoch: int = 0, **fields: Any) -> None:
        """News of the subscription there."""
        ((number, wanted),) = self.sent[endpoint].items()
        if wanted.mapped:
            fields = {"path": "d", "generation": 0, **fields}
        part = FetchPart(number, high, fields.pop("log_start", 0), epoch, **fields)
        self.machine.on_part(endpoint, part, None, 0, self.now)
        self.machine.validate()

    def pass_ms(self, ms: int) -> list[Any]:
        self.now += ms
        return self.go()

    @property
    def reads_from(self) -> list[Endpoint]:
        return [endpoint for endpoint, there in self.sent.items() if there]


def test_a_follower_on_this_host_is_mapped_and_the_leader_serves_until_its_stream_is_open() -> None:
    bench = Near()
    bench.shut.add(HERE)
    cursor = bench.assign(start=0)
    bench.go()
    assert bench.reads_from == [LEADER] and not cursor.following
    chunk = FakeChunk(0, 5)
    (number,) = bench.sent[LEADER]
    bench.machine.on_part(LEADER, FetchPart(number, 100, 0, 0, entries=b"x"), chunk, chunk.size, bench.now)
    bench.machine.on_opened(HERE, True)
    bench.go()
    assert bench.reads_from == [HERE] and cursor.following
    (wanted,) = bench.sent[HERE].values()
    assert wanted.mapped and wanted.offset == 5, "it goes on where the leader's data ends"
    bench.tell_at(HERE, high=40)
    assert cursor.mapping == ("d", 0) and cursor.high_watermark == 40 and list(cursor.buffer) == [chunk]


@pytest.mark.parametrize(
    ("local", "near", "mapped"),
    [
        ((LEADER, HERE), ("here", "h"), True),
        ((HERE,), (), True),
        ((AWAY,), ("here",), True),
        ((HERE,), ("here",), False),
    ],
    ids=["the leader is on this host", "no follower is near", "its files are not here", "mapped_reads is off"],
)
def test_else_the_leader_is_read_from(local: tuple[Endpoint, ...], near: tuple[str, ...], mapped: bool) -> None:
    bench = Near(*local, near=near, mapped=mapped)
    bench.assign()
    bench.go()
    assert bench.reads_from == [LEADER]
    done = bench.pass_ms(1_000)
    assert not any(isinstance(effect, Open) for effect in done), "and nobody is asked again and again"


def test_a_leader_that_only_looks_near_does_not_keep_from_a_follower_that_is() -> None:
    bench = Near(HERE, near=("h", "here"))
    bench.assign()
    bench.go()
    assert bench.reads_from == [HERE]


def following() -> tuple[Near, Any]:
    bench = Near()
    cursor = bench.assign(start=10)
    bench.go()
    bench.tell_at(HERE, high=50)
    bench.go()
    assert cursor.following
    return bench, cursor


def test_an_offset_above_the_followers_high_watermark_is_waited_for() -> None:
    bench, cursor = following()
    bench.machine.advance(cursor, 60)
    bench.tell_at(HERE, high=55)
    bench.go()
    assert bench.reads_from == [HERE] and not cursor.has_records
    bench.tell_at(HERE, high=61)
    assert cursor.has_records


def test_an_offset_below_the_followers_log_start_is_asked_of_the_leader() -> None:
    """Each replica deletes old segments in its own time."""
    bench, cursor = following()
    bench.tell_at(HERE, high=50, log_start=20)
    bench.go()
    assert bench.reads_from == [LEADER] and not cursor.reset_after_drain and bench.machine.error() is None


@pytest.mark.parametrize("leave", ["out_of_range", "unmap"])
def test_mapped_segments_that_cannot_be_read_send_to_the_leader_not_to_the_reset_policy(leave: str) -> None:
    bench, cursor = following()
    getattr(bench.machine, leave)(cursor)
    bench.go()
    assert bench.reads_from == [LEADER] and not cursor.reset_after_drain and cursor.mapping is None
    (wanted,) = bench.sent[LEADER].values()
    assert not wanted.mapped and wanted.offset == 10


@pytest.mark.parametrize("error", ["NotLeaderOrFollower", "OffsetOutOfRange", "StorageError", "FencedLeaderEpoch"])
def test_a_follower_that_refuses_is_left_and_tried_again_later_and_ever_later(error: str) -> None:
    bench, cursor = following()
    wait = AGAIN_MS
    for _ in range(3):
        bench.tell_at(HERE, error=error, message="")
        bench.sent.pop(HERE)
        bench.go()
        bench.learn()
        bench.go()
        assert bench.reads_from == [LEADER] and bench.machine.error() is None
        bench.pass_ms(wait - 1)
        assert bench.reads_from == [LEADER]
        bench.pass_ms(1)
        assert bench.reads_from == [HERE] and cursor.following
        wait *= 2


def test_a_follower_that_is_gone_is_left() -> None:
    bench, cursor = following()
    bench.sent.pop(HERE)
    bench.machine.on_closed(HERE, BrokerNotAvailable("gone"), bench.now)
    bench.go()
    bench.learn()
    bench.go()
    assert bench.reads_from == [LEADER] and cursor.position == 10


def test_a_follower_whose_stream_cannot_be_opened_costs_the_reader_nothing() -> None:
    bench = Near()
    bench.shut.add(HERE)
    bench.assign()
    bench.go()
    bench.machine.on_closed(HERE, BrokerNotAvailable("nobody is there"), bench.now)
    done = bench.go()
    assert bench.reads_from == [LEADER]
    assert not any(isinstance(effect, Open) for effect in done)
    bench.shut.clear()
    bench.pass_ms(AGAIN_MS)
    assert bench.reads_from == [HERE]


def test_a_follower_that_is_silent_for_a_second_is_left() -> None:
    bench, cursor = following()
    bench.machine.on_part(HERE, FetchPart(PING, -1, -1, -1), None, 0, bench.now)
    asked = [effect for effect in bench.pass_ms(ASK_MS) if isinstance(effect, Send)]
    assert [effect.endpoint for effect in asked] == [HERE]
    request = asked[0].request
    assert not (request.add or request.remove or request.credit)
    bench.machine.on_part(HERE, FetchPart(PING, -1, -1, -1), None, 0, bench.now)
    for _ in range(10):
        assert bench.pass_ms(ASK_MS), "it answers, and is asked again"
        bench.machine.on_part(HERE, FetchPart(PING, -1, -1, -1), None, 0, bench.now)
    bench.pass_ms(ASK_MS)
    bench.pass_ms(SILENT_MS - 1)
    assert bench.reads_from == [HERE]
    assert bench.machine.next_deadline_ms() == bench.now + 1
    done = bench.pass_ms(1)
    assert Close(HERE) in done
    bench.learn()
    bench.go()
    assert bench.reads_from == [LEADER] and cursor.position == 10


def test_a_reader_that_was_away_for_long_first_reads_the_answer() -> None:
    """It polls once a minute: what the follower said meanwhile lies in the socket."""
    bench, _ = following()
    bench.pass_ms(ASK_MS)
    bench.now += 60_000
    bench.machine.on_part(HERE, FetchPart(PING, -1, -1, -1), None, 0, bench.now)
    bench.go()
    assert bench.reads_from == [HERE]


def test_a_follower_of_an_older_leader_epoch_than_was_seen_is_left() -> None:
    bench, cursor = following()
    bench.tell_at(HERE, epoch=3)
    bench.tell_at(HERE, epoch=2)
    bench.go()
    assert not cursor.following and cursor.leader_epoch == 3
    bench.learn(epoch=3)
    bench.go()
    assert bench.reads_from == [LEADER]


def test_a_follower_whose_log_was_cut_below_what_was_read_is_left() -> None:
    bench, cursor = following()
    bench.machine.advance(cursor, 45)
    bench.tell_at(HERE, high=40, generation=1)
    bench.go()
    assert bench.reads_from == [LEADER] and cursor.position == 45


def test_a_cut_above_what_was_read_is_mapped_anew() -> None:
    bench, cursor = following()
    bench.tell_at(HERE, high=50, generation=1)
    bench.go()
    assert bench.reads_from == [HERE] and cursor.mapping == ("d", 1)


def test_metadata_that_names_a_follower_brings_the_reader_to_it() -> None:
    bench = Near()
    Bench.learn(bench, topic_info())
    cursor = bench.assign()
    bench.go()
    assert bench.reads_from == [LEADER]
    bench.learn()
    bench.go()
    assert bench.reads_from == [HERE] and cursor.following


def test_a_partition_that_is_read_no_more_is_forgotten() -> None:
    bench, cursor = following()
    bench.tell_at(HERE, error="NotLeaderOrFollower", message="")
    bench.machine.revoke(cursor.key)
    bench.pass_ms(10 * AGAIN_MS)
    assert bench.reads_from == []
    assert not bench.machine._left and not bench.machine._following


def test_addresses_of_this_machine_are_near_and_others_are_not() -> None:
    assert may_be_here("127.0.0.1") and may_be_here("localhost") and may_be_here(socket.gethostname())
    assert not may_be_here("192.0.2.7"), "of a net for documentation"
    assert not may_be_here("2001:db8::7") and not may_be_here("broker.example")


def test_a_follower_that_the_metadata_does_not_name_any_more_is_left() -> None:
    bench, _ = following()
    Bench.learn(bench, topic_info())
    bench.go()
    assert bench.reads_from == [LEADER]


def test_another_leader_is_no_reason_to_leave_a_follower_in_sync() -> None:
    bench, cursor = following()
    bench.learn(epoch=1, port=4000, leader=7)
    bench.go()
    assert bench.reads_from == [HERE] and cursor.following
