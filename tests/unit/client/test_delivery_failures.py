"""The delivery machine, event by event: retries, sequences, draining, deadlines."""

from __future__ import annotations

import pytest

from rayqueue.client.delivery_effects import Delivered, Disconnect, Failed, NeedProducerId, RefreshMetadata
from rayqueue.client.sequences import EPOCH_MAX
from rayqueue.errors import (
    BrokerNotAvailable,
    DeliveryTimeout,
    NotEnoughReplicas,
    OutOfOrderSequence,
    ProducerFenced,
    RayQueueError,
    RecordTooLarge,
    RequestTimeout,
    UnknownTopicOrPartition,
)
from tests.unit.client.delivery_rig import BACKOFF, OK, Rig, sequences


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
    assert sequences(rig.poll()) == [(0, 1), (0, 11), (0, 21)]
    (failed,) = rig.answer(RecordTooLarge("too large"))
    assert failed.batch is bad
    rig.answer(OutOfOrderSequence("gap"))
    assert rig.poll() == [], "nothing new before the last answer is in: it might be in the log"
    rig.answer(OutOfOrderSequence("gap"))
    assert sequences(rig.poll()) == [(1, 0)]
    assert rig.answer(50)[0].batch is good
    assert sequences(rig.poll()) == [(1, 10)]
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
    assert sequences(rig.poll()) == [(0, 1), (0, 11)]


def test_out_of_order_without_a_reason_restarts_the_lane() -> None:
    """The log has lost what it had acked (its disk was lost): the batch is certainly not in it."""
    rig = Rig()
    lane = rig.lane()
    rig.establish(lane)
    rig.add(lane)
    rig.poll()
    assert rig.answer(OutOfOrderSequence("lost")) == []
    assert sequences(rig.poll()) == [(1, 0)]


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
    assert sequences(rig.poll()) == [(0, 0)]


def test_a_batch_with_unknown_outcome_times_out_and_the_epoch_moves_on() -> None:
    rig = Rig(request_timeout_ms=10_000.0)
    lane = rig.lane()
    rig.establish(lane)
    lost = rig.add(lane)
    rig.poll()
    rig.now = 1000.0
    second = rig.add(lane)
    assert sequences(rig.poll()) == [(0, 11)]
    rig.now = 2000.0
    assert rig.poll() == []
    failed = rig.effects[-1]
    assert failed.batch is lost
    assert "outcome is not known" in str(failed.error)
    third = rig.add(lane)
    assert rig.poll() == [], "the second may be in the log: its answer comes first"
    assert rig.answer(10) == [], "the lost batch's ack comes too late"
    assert rig.answer(20)[0].batch is second
    assert sequences(rig.poll()) == [(1, 0)]
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
    assert sequences(rig.poll()) == [(0, 11)], "not the fresh one, and not under a new epoch"
    assert rig.answer(20)[0].batch is unknown, "a duplicate: it was in the log"
    assert sequences(rig.poll()) == [(1, 0)]
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
    assert sequences(rig.poll()) == [(0, 0)]


def test_while_a_server_is_silent_the_metadata_is_asked_and_a_new_leader_gets_what_is_unanswered() -> None:
    """A process that hangs, or a node that is lost without a word, breaks no link."""
    rig = Rig(request_timeout_ms=5000.0, delivery_timeout_ms=9000.0)
    lane = rig.lane()
    rig.add(lane)
    rig.poll()
    for asked_ms in (500.0, 1000.0):
        assert rig.machine.next_deadline_ms() == asked_ms
        rig.now = asked_ms - 1
        rig.poll()
        assert RefreshMetadata("t") not in rig.effects
        rig.now = asked_ms
        rig.poll()
        rig.poll()
        assert rig.effects.count(RefreshMetadata("t")) == 1
        rig.effects.clear()
        rig.machine.set_leader(lane, "A", 1)  # still the same
    rig.machine.set_leader(lane, "B", 2)
    assert sequences(rig.poll()) == [(0, 0)], "the same batch, at the new leader"
    assert rig.answer(OK, node="B")
    assert not rig.answer(OK, node="A"), "what the old one says after all is no news"


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
    assert sequences(rig.poll()) == [(-1, -1)] * 2
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
