"""Members that fall silent, are slow, come back, or stand in for another."""

from __future__ import annotations

from rayqueue.groups.config import GroupConfig
from rayqueue.protocol.group_messages import DescribeGroupRequest
from tests.unit.groups.harness import Member, Shard, calm

SHORT = {"session_timeout_ms": 6_000}


def two(config: GroupConfig | None = None, **settings: object) -> tuple[Shard, Member, Member]:
    shard = Shard(config or GroupConfig(assignment_interval_ms=0), t=4)
    first, second = Member(shard, "a", "t"), Member(shard, "b", "t", **settings)
    first.join()
    second.join()
    calm(first, second)
    return shard, first, second


def beat_for(shard: Shard, ms: int, *members: Member) -> None:
    """Time passes; these members are heard of, and do what they are told."""
    for _ in range(ms // 500):
        shard.pass_time(500)
        for member in members:
            member.heartbeat()
        calm(*members)


def test_a_silent_member_is_out_after_its_session() -> None:
    shard, first, second = two(**SHORT)
    beat_for(shard, 5_500, first)
    assert len(first.owned) == 2
    beat_for(shard, 500, first)
    assert len(first.owned) == 4
    second.hear()
    assert second.error == "UnknownMember", "it is told, should it hear"
    assert second.heartbeat().error == "UnknownMember"
    second.join()
    calm(first, second)
    assert len(second.owned) == 2


def test_the_heartbeat_interval_suits_the_session() -> None:
    shard = Shard(t=1)
    member = Member(shard, "a", "t", session_timeout_ms=900)
    assert member.join().heartbeat_interval_ms == 300
    member.heartbeat(topics=["t"], session_timeout_ms=60_000)
    assert member.heartbeat().heartbeat_interval_ms == 5_000


def test_a_killed_member_is_missed_after_the_grace() -> None:
    shard, first, second = two()
    second.close()
    beat_for(shard, 2_500, first)
    assert len(first.owned) == 2
    beat_for(shard, 500, first)
    assert len(first.owned) == 4


def test_a_connection_that_broke_costs_nothing_when_another_comes() -> None:
    shard, first, second = two()
    second.close()
    shard.pass_time(2_000)
    second.open()
    assert second.heartbeat(topics=["t"], owned=sorted(second.owned)).assignment, "all is said anew"
    beat_for(shard, 4_000, first)
    assert second.heartbeat().error == "" and len(first.owned) == 2


def test_without_a_grace_the_session_counts() -> None:
    shard, first, second = two(GroupConfig(assignment_interval_ms=0, disconnect_grace_ms=-1), **SHORT)
    second.close()
    beat_for(shard, 5_500, first)
    assert len(first.owned) == 2
    beat_for(shard, 500, first)
    assert len(first.owned) == 4


def test_a_coordinator_that_stood_still_throws_nobody_out() -> None:
    shard, first, second = two(**SHORT)
    shard.now_ms += 60_000
    assert first.heartbeat().error == ""
    assert second.heartbeat().error == "", "what it said meanwhile had to wait"
    beat_for(shard, 6_000, first)
    assert len(first.owned) == 4


def test_who_does_not_give_up_in_time_is_out_where_it_says_so() -> None:
    shard = Shard(t=2)
    slow, new = Member(shard, "a", "t", rebalance_timeout_ms=4_000), Member(shard, "b", "t")
    slow.join()
    new.join()
    for _ in range(7):
        shard.pass_time(500)
        assert slow.heartbeat().error == new.heartbeat().error == ""
    calm(new)
    assert not new.owned
    shard.pass_time(500)
    calm(new)
    assert len(new.owned) == 2 and slow.heartbeat().error == "UnknownMember"


def test_who_may_take_as_long_as_it_likes_is_warned_of_once() -> None:
    shard = Shard(t=2)
    slow, new = Member(shard, "a", "t"), Member(shard, "b", "t")
    slow.join()
    new.join()
    for _ in range(130):
        shard.pass_time(1_000)
        assert slow.heartbeat().error == new.heartbeat().error == ""
    assert len(shard.warnings) == 1 and "'a'" in shard.warnings[0] and "1 partitions" in shard.warnings[0]
    assert shard.say(DescribeGroupRequest("g")).members[0].behind_ms == 130_000
    calm(slow, new)
    assert len(new.owned) == 1 and shard.say(DescribeGroupRequest("g")).members[0].behind_ms == 0


def test_ten_minutes_in_processing_cost_nothing() -> None:
    """Heartbeats go on by themselves; what the member holds stays its own."""
    shard, first, second = two(**SHORT)
    owned, epoch = set(second.owned), second.epoch
    for _ in range(120):
        shard.pass_time(5_000)
        first.heartbeat()
        second.heartbeat()
    assert second.epoch == epoch and second.owned == owned
    assert second.commit(**{f"t_{one.partition}": 9 for one in owned}) == ["", ""]


# --- static members -------------------------------------------------------------------------------------------------


def test_a_static_member_that_returns_has_its_partitions_at_once_and_nobody_else_notices() -> None:
    shard, first, second = two(instance_id="i", **SHORT)
    owned, told, epoch = set(second.owned), len(shard.pushes), second.epoch
    assert second.heartbeat(-2).member_epoch == -2
    second.close()
    beat_for(shard, 5_000, first)
    assert len(first.owned) == 2
    again = Member(shard, "b2", "t", instance_id="i", **SHORT)
    again.join()
    assert again.assignment == owned and again.epoch > epoch and len(shard.pushes) == told
    assert again.commit(**{f"t_{one.partition}": 3 for one in owned}) == ["", ""]


def test_a_static_member_that_does_not_return_is_out_after_its_session() -> None:
    shard, first, second = two(instance_id="i", **SHORT)
    second.heartbeat(-2)
    beat_for(shard, 6_000, first)
    assert len(first.owned) == 4


def test_the_grace_is_not_for_static_members() -> None:
    shard, first, second = two(instance_id="i", **SHORT)
    second.close()
    beat_for(shard, 5_000, first)
    assert len(first.owned) == 2, "it may be started again (KIP-345)"


def test_of_two_with_one_instance_id_the_newer_wins_and_the_older_is_told() -> None:
    shard, first, second = two(instance_id="i")
    newer = Member(shard, "b2", "t", instance_id="i")
    newer.join()
    second.hear()
    assert second.error == "FencedInstance"
    assert second.heartbeat(instance_id="i").error == "FencedInstance"
    assert newer.assignment == second.owned
    assert newer.heartbeat().error == "" and first.heartbeat().error == ""


def test_what_moves_away_from_a_static_member_that_is_away_is_free_at_once() -> None:
    shard, first, second = two(instance_id="i")
    second.heartbeat(-2)
    new = Member(shard, "c", "t")
    new.join()
    calm(first, new)
    assert len(new.owned) + len(first.owned) >= 2
    assert not any(one.revoking for one in shard.say(DescribeGroupRequest("g")).members)


def test_a_dynamic_member_cannot_be_away() -> None:
    _, first, second = two()
    second.heartbeat(-2)
    calm(first)
    assert len(first.owned) == 4


def test_two_deadlines_of_one_member_at_the_same_moment() -> None:
    """Its session ends just when it should have given up what it was asked for: it is put out once."""
    shard = Shard(GroupConfig(assignment_interval_ms=0), t=4)
    first, second = Member(shard, "a", "t", rebalance_timeout_ms=6_000, **SHORT), Member(shard, "b", "t")
    first.join()
    calm(first)
    first.heartbeat()
    second.join()
    shard.pass_time(6_000)
    calm(second)
    assert len(second.owned) == 4
