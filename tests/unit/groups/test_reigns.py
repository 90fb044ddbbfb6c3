"""Taking a shard over, answering only what is committed, and losing it."""

from __future__ import annotations

import pytest

from rayqueue.errors import CorruptRecord, NotGroupCoordinator, ProtocolError
from rayqueue.groups import events as ev
from rayqueue.groups.machine import ShardMachine
from rayqueue.groups.records import decode_record
from rayqueue.protocol.group_messages import (
    DescribeGroupRequest,
    GroupHeartbeat,
    GroupHeartbeatResponse,
    ListGroupsRequest,
    OffsetFetchRequest,
)
from tests.unit.groups.harness import Member, Shard, calm, facts, topic_id


def two(shard: Shard) -> tuple[Member, Member]:
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t")
    first.join()
    second.join()
    calm(first, second)
    return first, second


# --- answers --------------------------------------------------------------------------------------------------------


def test_an_answer_waits_for_its_records() -> None:
    shard = Shard(t=2)
    shard.held = True
    join = GroupHeartbeat("g", "a", 0, topics=["t"], owned=[])
    call = shard.ask(join)
    assert call not in shard.answers and len(shard.under_way) == 1
    shard.commit()
    assert shard.answers[call].member_epoch > 0


def test_reads_share_a_barrier_that_began_after_them() -> None:
    shard = Shard(t=2)
    two(shard)
    shard.held = True
    barriers = shard.barriers
    calls = [shard.ask(OffsetFetchRequest("g", None)), shard.ask(ListGroupsRequest()), shard.ask(ListGroupsRequest())]
    assert shard.barriers == barriers + 1, "one is under way; the later two need another after it"
    number = shard.under_way.pop(0)
    shard.step(ev.Appended(number))
    assert [call in shard.answers for call in calls] == [True, False, False]
    assert shard.barriers == barriers + 2
    shard.step(ev.Appended(shard.under_way.pop(0)))
    assert all(call in shard.answers for call in calls) and not shard.under_way


def test_any_append_is_a_barrier() -> None:
    shard = Shard(t=2)
    first, _ = two(shard)
    shard.held = True
    barriers = shard.barriers
    reads = [shard.ask(ListGroupsRequest()), shard.ask(ListGroupsRequest())]
    leave = shard.ask(GroupHeartbeat("g", "a", -1), first.session)
    shard.commit()
    assert all(call in shard.answers for call in (*reads, leave)) and shard.barriers == barriers + 1


def test_errors_wait_too_since_a_zombie_could_say_them() -> None:
    shard = Shard(t=1)
    shard.held = True
    call = shard.ask(DescribeGroupRequest("nobody"))
    assert call not in shard.answers
    shard.commit()
    assert type(shard.answers[call]).__name__ == "GroupNotFound"


def test_what_is_no_message_of_ours_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Shard(t=1).say("hello")


# --- losing it ------------------------------------------------------------------------------------------------------


def test_a_failed_append_ends_the_reign_and_nothing_of_it_is_said() -> None:
    shard = Shard(t=2)
    first, second = two(shard)
    shard.held = True
    pushes = len(shard.pushes)
    leave = shard.ask(GroupHeartbeat("g", "a", -1), first.session)
    read = shard.ask(ListGroupsRequest())
    number = shard.under_way[0]
    shard.step(ev.AppendFailed(number, "timed out"))
    assert shard.taken_over and not shard.machine.is_serving
    assert shard.answers[leave].error == "NotGroupCoordinator" and len(shard.pushes) == pushes
    assert isinstance(shard.answers[read], NotGroupCoordinator)
    assert shard.step(ev.Appended(number)) == [] == shard.step(ev.AppendFailed(number, "again"))
    shard.held = False
    shard.lead()
    second.hear()
    calm(second)
    assert len(second.owned) == 2, "it was in the log after all"


def test_who_does_not_serve_says_so_at_once() -> None:
    machine = ShardMachine(3, 1)
    (answer,) = machine.step(ev.Request(1, GroupHeartbeat("g", "a", 0, topics=["t"])), 0, 0)
    assert isinstance(answer, ev.Reply) and isinstance(answer.response, GroupHeartbeatResponse)
    assert answer.response.error == "NotGroupCoordinator"
    (refusal,) = machine.step(ev.Request(2, ListGroupsRequest()), 0, 0)
    assert isinstance(refusal, ev.Refuse) and isinstance(refusal.error, NotGroupCoordinator)
    machine.step(ev.Lead(5), 0, 0)
    machine.step(ev.Loaded(), 0, 0)
    assert not machine.is_serving, "it does not know what topics there are"
    machine.step(ev.Topics({}), 0, 0)
    assert machine.is_serving and machine.epoch == 5
    machine.step(ev.Resign(), 0, 0)
    assert not machine.is_serving and machine.next_deadline_ms() is None and machine.epoch == -1


# --- taking it over -------------------------------------------------------------------------------------------------


def test_a_new_owner_goes_on_from_the_log_alone() -> None:
    shard = Shard(t=4)
    first, second = two(shard)
    first.commit(number=1, **{f"t_{one.partition}": 5 for one in first.owned})
    epochs = (first.epoch, second.epoch)
    shard.lead()
    assert shard.machine.owner is not None and shard.machine.owner.number == 2
    shard.pass_time(1_000)
    for member in (first, second):
        response = member.heartbeat(topics=["t"], owned=sorted(member.owned))
        assert response.error == "" and response.coordinator_epoch == 2
    assert (first.epoch, second.epoch) == epochs and set(shard.offsets().values()) == {5}


def test_sessions_begin_anew_when_a_shard_was_taken_over() -> None:
    shard = Shard(t=2)
    first, second = two(shard)
    shard.pass_time(40_000)
    shard.lead()
    shard.pass_time(40_000)
    assert first.heartbeat().error == ""
    shard.pass_time(6_000)
    assert second.heartbeat().error == "UnknownMember"


def test_members_that_are_connected_are_told_by_the_new_reign() -> None:
    shard = Shard(t=2)
    two(shard)
    pushes = len(shard.pushes)
    shard.lead()
    assert {response.member_id for _, response in shard.pushes[pushes:]} == {"a", "b"}
    assert all(response.coordinator_epoch == 2 for _, response in shard.pushes[pushes:])


def test_a_hand_over_goes_on_under_another_owner() -> None:
    shard = Shard(t=4)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t")
    first.join()
    second.join()
    shard.lead()
    second.hear()
    assert not second.assignment
    calm(first, second)
    assert len(first.owned) == len(second.owned) == 2


def test_foreign_records_are_reported() -> None:
    for key, value in ((b"\x93", b""), (b"\x91\xa4what", b""), (b"\x92\xa5group\xa1g", b"\x01")):
        with pytest.raises(CorruptRecord):
            decode_record(key, value)


# --- topics ---------------------------------------------------------------------------------------------------------


def test_new_partitions_topics_and_their_end_are_noticed() -> None:
    shard = Shard(t=2)
    first, second = Member(shard, "a", "t", "u"), Member(shard, "b", "t", "u")
    first.join()
    second.join()
    calm(first, second)
    shard.tell_topics(t=4)
    calm(first, second)
    assert [len(member.owned) for member in (first, second)] == [2, 2]
    shard.tell_topics(t=4, u=2)
    calm(first, second)
    assert [len(member.owned) for member in (first, second)] == [3, 3]
    shard.tell_topics(u=2)
    calm(first, second)
    assert {one.topic_id for one in first.owned | second.owned} == {topic_id("u")}


def test_topics_that_concern_nobody_move_nothing() -> None:
    shard = Shard(t=2)
    two(shard)
    appends = len(shard.appends)
    shard.tell_topics(t=2, other=5)
    shard.step(ev.Topics({**shard.topics, "t": facts(3, 3, name="t")}))
    assert len(shard.appends) == appends, "other topics, and replicas elsewhere"


def test_what_changed_while_nobody_served_is_noticed() -> None:
    shard = Shard(t=2)
    first, second = two(shard)
    shard.step(ev.Resign())
    shard.tell_topics(t=6)
    shard.lead()
    calm(first, second)
    assert [len(member.owned) for member in (first, second)] == [3, 3]
