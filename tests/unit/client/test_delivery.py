"""The delivery machine, event by event: windows, requests, links, leaders."""

from __future__ import annotations

from rayqueue.client.delivery import ALONE_BYTES
from rayqueue.client.delivery_effects import Connect, Delivered, RefreshMetadata
from rayqueue.errors import BrokerNotAvailable, NotLeaderOrFollower
from tests.unit.client.delivery_rig import BACKOFF, OK, Rig, rows, sequences


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
    assert sequences(rig.poll()) == [(0, 0)]
    rig.answer(OK)
    assert sequences(rig.poll()) == [(0, 10), (0, 20), (0, 30)]
    assert rig.poll() == []
    rig.answer(OK)
    assert sequences(rig.poll()) == [(0, 40)]


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


def test_a_broken_link_brings_all_back_in_order_with_theirsequences() -> None:
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
    assert rows(again)[:3] == rows(first)[:3]
    assert sequences(again) == [(0, 1), (0, 11), (0, 21), (0, 31)]


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


def test_a_broker_that_has_not_heard_of_the_new_leader_does_not_bring_back_the_old_one() -> None:
    """That one may not know either that it is over: it would take the batch, and never see it committed."""
    rig = Rig()
    lane = rig.lane()
    rig.machine.set_leader(lane, "B", 3)
    rig.machine.set_leader(lane, "A", 2)
    rig.add(lane)
    (send,) = rig.poll()
    assert send.node == "B" and send.request.batches[0].leader_epoch == 3


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
    assert sequences(rig.poll()) == [(0, 1)]
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
