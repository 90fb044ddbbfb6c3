"""The delivery machine, event by event: windows, retries, sequences, deadlines."""

from __future__ import annotations

from typing import Any

import pytest

from rayqueue.client.delivery import (
    ALONE_BYTES,
    Connect,
    Delivered,
    Delivery,
    DeliverySettings,
    Disconnect,
    Failed,
    NeedProducerId,
    RefreshMetadata,
    Send,
)
from rayqueue.client.lanes import Batch, Lane
from rayqueue.client.sequences import EPOCH_MAX
from rayqueue.errors import (
    BrokerNotAvailable,
    DeliveryTimeout,
    NotEnoughReplicas,
    NotLeaderOrFollower,
    OutOfOrderSequence,
    ProducerFenced,
    RayQueueError,
    RecordTooLarge,
    RequestTimeout,
    UnknownTopicOrPartition,
)

BACKOFF = 10.0
OK = None


class Rig:
    """A machine with lanes led by nodes, links that open at once, and a record of all effects."""

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "acks": -1, "idempotent": True, "retries": 1000, "max_in_flight": 5, "max_request_size": 1 << 20,
            "request_timeout_ms": 500.0, "delivery_timeout_ms": 2000.0,
        }  # fmt: skip
        self.machine = Delivery(DeliverySettings(**{**defaults, **settings}), lambda attempt: BACKOFF)
        self.now = 0.0
        self.links: dict[str, str] = {}
        self.effects: list[Any] = []
        if self.machine._settings.idempotent:
            self.machine.set_producer_id(7, 0)

    def lane(self, node: str | None = "A", partition: int = 0) -> Lane:
        lane = self.machine.make_lane("t", b"t" * 16, partition)
        self.machine.set_leader(lane, node, 1)
        return lane

    def add(self, lane: Lane, count: int = 10, size: int = 100) -> Batch:
        batch = Batch(
            lane, count, size, self.now + self.machine._settings.delivery_timeout_ms, message=f"b{lane._numbered}"
        )
        self.machine.add([batch])
        return batch

    def poll(self) -> list[Send]:
        """Everything due, links opened; the requests that were sent."""
        sends = []
        while True:
            effects = self.machine.poll(self.now)
            self.effects += effects
            sends += [e for e in effects if isinstance(e, Send)]
            connects = [e for e in effects if isinstance(e, Connect)]
            for connect in connects:
                self.links[str(connect.node)] = f"{connect.node}{len(self.effects)}"
                self.machine.connected(connect.node, self.links[str(connect.node)], 64)
            self.machine.validate()
            if not connects:
                return sends

    def answer(self, *results: RayQueueError | int | None, node: str = "A") -> list[Any]:
        outcomes = [(r, -1, None) if isinstance(r, int) else (0 if r is None else -1, -1, r) for r in results]
        effects = self.machine.answered(node, self.links[node], outcomes, self.now)
        self.machine.validate()
        self.effects += effects
        return effects

    def fail_link(self, node: str = "A") -> list[Any]:
        effects = self.machine.disconnected(node, self.links[node], BrokerNotAvailable("gone"), self.now)
        self.machine.validate()
        self.effects += effects
        return effects

    def establish(self, lane: Lane) -> None:
        """The first ack, after which the whole window is open."""
        self.add(lane, 1)
        assert len(self.poll()) == 1
        self.answer(OK)


def _sequences(sends: list[Send]) -> list[tuple[int, int]]:
    return [(b.producer_epoch, b.base_sequence) for send in sends for b in send.request.batches]


def _rows(sends: list[Send]) -> list[Any]:
    return [row for send in sends for row in send.rows]


def test_a_batch_is_sent_on_a_link_and_delivered() -> None:
    rig = Rig()
    batch = rig.add(rig.lane())
    (send,) = rig.poll()
    header = send.request.batches[0]
    assert (header.producer_id, header.producer_epoch, header.base_sequence, header.leader_epoch) == (7, 0, 0, 1)
    assert send.rows == ["b0"]
    assert rig.answer(42) == [Delivered(batch, 42, -1)]
    assert rig.machine.next_deadline_ms() is None


def test_one_in_flight_until_the_log_has_acked_then_the_window() -> None:
    rig = Rig(max_in_flight=3)
    lane = rig.lane()
    for _ in range(6):
        rig.add(lane)
    assert _sequences(rig.poll()) == [(0, 0)]
    rig.answer(OK)
    assert _sequences(rig.poll()) == [(0, 10), (0, 20), (0, 30)]
    assert rig.poll() == []
    rig.answer(OK)
    assert _sequences(rig.poll()) == [(0, 40)]


def test_lanes_of_a_node_share_a_request_and_a_large_batch_goes_alone() -> None:
    rig = Rig()
    small = [rig.lane(partition=p) for p in range(3)]
    large = rig.lane(partition=3)
    for lane in small:
        rig.add(lane)
    rig.add(large, size=ALONE_BYTES)
    sends = rig.poll()
    assert [len(send.rows) for send in sends] == [3, 1]
    assert len({send.request.correlation for send in sends}) == 2


def test_a_request_stays_below_max_request_size() -> None:
    rig = Rig(max_request_size=250)
    for partition in range(5):
        rig.add(rig.lane(partition=partition), size=100)
    assert [len(send.rows) for send in rig.poll()] == [2, 2, 1]


def test_the_window_of_a_node_counts_requests() -> None:
    rig = Rig(max_in_flight=2)
    lanes = [rig.lane(partition=p) for p in range(4)]
    for lane in lanes:
        rig.add(lane, size=ALONE_BYTES)
    assert len(rig.poll()) == 2
    assert not rig.machine.has_room([])
    rig.answer(OK)
    assert len(rig.poll()) == 1


def test_has_room_says_whether_a_batch_would_go_out_now() -> None:
    rig = Rig(max_in_flight=1)
    first, second = rig.lane(partition=0), rig.lane(partition=1)
    assert rig.machine.has_room([first]), "the first batch makes the connection"
    rig.add(first)
    rig.poll()
    assert not rig.machine.has_room([first, second]), "one request may be unanswered"
    rig.answer(OK)
    assert rig.machine.has_room([first])


def test_a_broken_link_brings_all_back_in_order_with_their_sequences() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    for _ in range(3):
        rig.add(lane)
    first = rig.poll()
    rig.add(lane)
    effects = rig.fail_link()
    assert effects == [RefreshMetadata("t")]
    assert rig.poll() == [], "backoff"
    rig.now += BACKOFF
    again = rig.poll()
    assert _rows(again)[:3] == _rows(first)[:3]
    assert _sequences(again) == [(0, 1), (0, 11), (0, 21), (0, 31)]


def test_answers_of_an_old_link_mean_nothing() -> None:
    rig = Rig()
    rig.add(rig.lane())
    rig.poll()
    old = rig.links["A"]
    rig.fail_link()
    rig.now += BACKOFF
    assert len(rig.poll()) == 1
    assert rig.machine.answered("A", old, [(5, -1, None)], rig.now) == []
    assert rig.machine.disconnected("A", old, BrokerNotAvailable("again"), rig.now) == []


def test_a_link_that_cannot_be_opened_is_tried_again_later() -> None:
    rig = Rig()
    rig.add(rig.lane())
    assert rig.machine.poll(0.0) == [Connect("A")]
    effects = rig.machine.disconnected("A", None, BrokerNotAvailable("refused"), 0.0)
    assert effects == [RefreshMetadata("t")]
    assert rig.machine.poll(BACKOFF - 1) == []
    assert rig.machine.next_deadline_ms() == BACKOFF
    assert rig.machine.poll(BACKOFF) == [Connect("A")]


def test_not_leader_refreshes_metadata_and_follows_the_new_leader() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.add(lane)
    rig.poll()
    assert rig.answer(NotLeaderOrFollower("moved")) == [RefreshMetadata("t")]
    rig.machine.set_leader(lane, "B", 2)
    (send,) = rig.poll()
    assert send.node == "B"
    assert (send.request.batches[0].leader_epoch, send.request.batches[0].base_sequence) == (2, 0)
    assert [type(e) for e in rig.answer(OK, node="B")] == [Delivered]


def test_when_the_leader_moves_unanswered_batches_do_not_wait_for_the_old_one() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    batch = rig.add(lane)
    rig.poll()
    rig.machine.set_leader(lane, "B", 2)
    assert _sequences(rig.poll()) == [(0, 1)]
    assert rig.answer(9, node="A") == [], "the old leader's answer comes too late to count"
    assert rig.answer(5, node="B") == [Delivered(batch, 5, -1)]


def test_metadata_is_asked_for_once_until_it_has_come() -> None:
    rig = Rig()
    lanes = [rig.lane(None, p) for p in range(3)]
    for lane in lanes:
        rig.add(lane)
    rig.poll()
    rig.poll()
    assert rig.effects == [RefreshMetadata("t")]
    rig.machine.refreshed("t")
    rig.poll()
    assert rig.effects == [RefreshMetadata("t")] * 2
    rig.machine.set_leader(lanes[0], "A", 1)
    assert len(rig.poll()) == 1


def test_retriable_errors_are_retried_as_often_as_retries_says() -> None:
    rig = Rig(retries=2)
    batch = rig.add(rig.lane())
    for _ in range(2):
        assert len(rig.poll()) == 1
        assert rig.answer(NotEnoughReplicas("one left")) == []
        rig.now += BACKOFF
    assert len(rig.poll()) == 1
    (failed,) = rig.answer(NotEnoughReplicas("one left"))
    assert isinstance(failed, Failed)
    assert failed.batch is batch
    assert isinstance(failed.error, NotEnoughReplicas)


def test_a_definite_failure_fails_its_batch_only_and_the_rest_gets_through() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    bad, good, better = rig.add(lane), rig.add(lane), rig.add(lane)
    assert _sequences(rig.poll()) == [(0, 1), (0, 11), (0, 21)]
    (failed,) = rig.answer(RecordTooLarge("too large"))
    assert failed.batch is bad
    rig.answer(OutOfOrderSequence("gap"))
    assert rig.poll() == [], "nothing new before the last answer is in: it might be in the log"
    rig.answer(OutOfOrderSequence("gap"))
    assert _sequences(rig.poll()) == [(1, 0)]
    assert rig.answer(50)[0].batch is good
    assert _sequences(rig.poll()) == [(1, 10)]
    assert rig.answer(60)[0].batch is better


def test_out_of_order_behind_a_retry_waits_for_it_under_its_own_sequence() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    rig.add(lane)
    rig.add(lane)
    rig.poll()
    rig.answer(NotEnoughReplicas("wait"))
    rig.answer(OutOfOrderSequence("gap"))
    rig.now += BACKOFF
    assert _sequences(rig.poll()) == [(0, 1), (0, 11)]


def test_out_of_order_without_a_reason_restarts_the_lane() -> None:
    """The log has lost what it had acked (its disk was lost): the batch is certainly not in it."""
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    rig.add(lane)
    rig.poll()
    assert rig.answer(OutOfOrderSequence("lost")) == []
    assert _sequences(rig.poll()) == [(1, 0)]


def test_a_batch_never_sent_times_out_and_leaves_no_gap() -> None:
    rig = Rig()
    lane = rig.lane(None)
    rig.add(lane)
    rig.poll()
    assert rig.machine.next_deadline_ms() == 2000.0
    rig.now = 2000.0
    rig.poll()
    failed = rig.effects[-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DeliveryTimeout)
    assert "never sent" in str(failed.error)
    assert "no leader" in str(failed.error)
    rig.machine.set_leader(lane, "A", 1)
    rig.add(lane)
    assert _sequences(rig.poll()) == [(0, 0)]


def test_a_batch_with_unknown_outcome_times_out_and_the_epoch_moves_on() -> None:
    rig = Rig(request_timeout_ms=10_000.0)
    lane = rig.lane()
    rig.establish(lane)
    lost = rig.add(lane)
    rig.poll()
    rig.now = 1000.0
    second = rig.add(lane)
    assert _sequences(rig.poll()) == [(0, 11)]
    rig.now = 2000.0
    assert rig.poll() == []
    failed = rig.effects[-1]
    assert failed.batch is lost
    assert "outcome is not known" in str(failed.error)
    third = rig.add(lane)
    assert rig.poll() == [], "the second may be in the log: its answer comes first"
    assert rig.answer(10) == [], "the lost batch's ack comes too late"
    assert rig.answer(20)[0].batch is second
    assert _sequences(rig.poll()) == [(1, 0)]
    assert rig.answer(30)[0].batch is third


def test_while_draining_what_was_sent_is_asked_about_under_its_old_sequence() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    rig.add(lane)
    rig.poll()
    rig.now = 100.0
    unknown = rig.add(lane)
    rig.poll()
    rig.fail_link()
    rig.machine.set_leader(lane, None, 1)
    rig.now = 2000.0
    rig.poll()
    fresh = rig.add(lane)
    rig.machine.set_leader(lane, "A", 1)
    assert _sequences(rig.poll()) == [(0, 11)], "not the fresh one, and not under a new epoch"
    assert rig.answer(20)[0].batch is unknown, "a duplicate: it was in the log"
    assert _sequences(rig.poll()) == [(1, 0)]
    assert rig.answer(30)[0].batch is fresh


def test_when_epochs_run_out_a_new_producer_id_is_taken() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    lane.sequences.producer_epoch = EPOCH_MAX
    rig.add(lane)
    good = rig.add(lane)
    rig.poll()
    rig.answer(RecordTooLarge("too large"))
    rig.answer(OutOfOrderSequence("gap"))
    assert rig.poll() == []
    assert rig.effects[-1] == NeedProducerId()
    rig.poll()
    assert rig.effects.count(NeedProducerId()) == 1
    rig.machine.set_producer_id(8, 0)
    (send,) = rig.poll()
    assert send.request.batches[0].producer_id == 8
    assert rig.answer(3)[0].batch is good
    assert rig.lane(partition=1).sequences.producer_id == 8


def test_fenced_fails_the_batch_and_takes_a_new_id() -> None:
    rig = Rig()
    lane = rig.lane()
    rig.add(lane)
    rig.poll()
    (failed,) = rig.answer(ProducerFenced("another"))
    assert isinstance(failed.error, ProducerFenced)
    rig.add(lane)
    rig.poll()
    assert rig.effects[-1] == NeedProducerId()


def test_a_silent_server_is_given_up_after_request_timeout() -> None:
    rig = Rig()
    rig.add(rig.lane())
    rig.poll()
    assert rig.machine.next_deadline_ms() == 500.0
    rig.now = 500.0
    link = rig.links["A"]
    rig.poll()
    assert Disconnect(link) in rig.effects
    assert RefreshMetadata("t") in rig.effects
    rig.now += BACKOFF
    assert _sequences(rig.poll()) == [(0, 0)]


def test_the_last_error_stands_in_the_timeout() -> None:
    rig = Rig(retries=1000)
    rig.add(rig.lane())
    rig.poll()
    rig.answer(NotEnoughReplicas("one in sync"))
    rig.now = 2000.0
    rig.poll()
    failed = next(e for e in rig.effects if isinstance(e, Failed))
    assert "NotEnoughReplicas: one in sync" in str(failed.error)


def test_a_deleted_topic_fails_its_batches() -> None:
    rig = Rig()
    lane = rig.lane()
    batches = [rig.add(lane), rig.add(lane)]
    rig.poll()
    effects = rig.machine.remove_topic([lane], UnknownTopicOrPartition("deleted"))
    assert [e.batch for e in effects] == batches
    assert rig.answer(1) == []
    assert rig.poll() == []
    assert rig.machine.next_deadline_ms() is None


def test_without_acks_a_batch_is_done_when_it_is_sent() -> None:
    rig = Rig(acks=0, idempotent=False)
    lane = rig.lane()
    for _ in range(10):
        rig.add(lane)
    sends = rig.poll()
    assert len(sends) == 10, "no window: there are no answers"
    assert {(b.producer_id, b.base_sequence) for send in sends for b in send.request.batches} == {(-1, -1)}
    assert [e.base_offset for e in rig.effects if isinstance(e, Delivered)] == [-1] * 10


def test_without_idempotence_nothing_is_stamped_and_no_failure_drains() -> None:
    rig = Rig(acks=1, idempotent=False)
    lane = rig.lane()
    rig.add(lane)
    rig.add(lane)
    assert _sequences(rig.poll()) == [(-1, -1)] * 2
    rig.answer(RecordTooLarge("too large"))
    assert isinstance(rig.answer(OK)[0], Delivered)
    rig.add(lane)
    assert len(rig.poll()) == 1


@pytest.mark.parametrize("error", [RequestTimeout("slow"), BrokerNotAvailable("gone")])
def test_abort_gives_everything_up(error: RayQueueError) -> None:
    rig = Rig()
    lane, orphan = rig.lane(), rig.lane(None, 1)
    batches = [rig.add(lane), rig.add(lane), rig.add(orphan)]
    rig.poll()
    effects = rig.machine.abort(error)
    assert {id(e.batch) for e in effects} == {id(b) for b in batches}
    assert all(e.error is error for e in effects)
