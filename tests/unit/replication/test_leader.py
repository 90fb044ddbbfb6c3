"""A leader alone: offsets, acks, group flush, duplicates, failures. No Ray, no disk, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayqueue.config import TopicConfig
from rayqueue.protocol.messages import GROUP_PRODUCER_BASE, LOG_APPEND_TIME, ProduceBatch
from rayqueue.replication import events as ev
from rayqueue.replication.leader_epochs import LeaderEpochs
from rayqueue.replication.log_facts import LogFacts
from rayqueue.replication.producer_state import REMEMBERED_BATCHES, ProducerStates
from rayqueue.replication.replica import Replica

DEFAULTS = TopicConfig.parse({})
NOW, WALL = 1_000, 1_700_000_000_000


def batch(
    count: int = 1, producer: int = -1, epoch: int = -1, sequence: int = -1, leader_epoch: int = -1
) -> ProduceBatch:
    return ProduceBatch(b"t" * 16, 0, leader_epoch, producer, epoch, sequence, count, 5, 9, 0, 0)


class Shell:
    """Performs effects against a list that stands for the log."""

    def __init__(self, **config: Any) -> None:
        facts = LogFacts(0, 0, 0, 0, 0, LeaderEpochs(), ProducerStates())
        self.leader = Replica(1, facts, TopicConfig.parse(config) if config else DEFAULTS)
        self.unwritten: list[ev.Append] = []
        self.log: list[ev.Append] = []
        self.replies: dict[Any, ev.Reply] = {}
        self.flushes = 0
        self.high_watermarks: list[int] = []
        self.step(ev.Assign(ev.Assignment(1, 3, 0, [1], [1], {1: "one"})))

    def step(self, event: ev.Event, now: int = NOW) -> list[ev.Effect]:
        effects = self.leader.step(event, now, WALL)
        self.leader.validate()
        for effect in effects:
            match effect:
                case ev.Append():
                    self.unwritten.append(effect)
                case ev.Reply():
                    assert effect.ref not in self.replies, "answered twice"
                    self.replies[effect.ref] = effect
                case ev.Flush():
                    self.flushes += 1
                case ev.HighWatermark(offset=offset):
                    self.high_watermarks.append(offset)
        return effects

    def produce(self, ref: Any, one: ProduceBatch, acks: int = -1) -> None:
        self.step(ev.Produce(ref, acks, one))

    def write(self) -> None:
        self.log += self.unwritten
        self.unwritten = []
        self.step(ev.Written())


def test_an_ack_follows_the_write_and_not_the_append() -> None:
    shell = Shell()
    shell.produce("a", batch(3))
    shell.produce("b", batch(2))
    assert shell.replies == {}
    assert shell.high_watermarks == []
    shell.write()
    assert [shell.replies[r].base_offset for r in "ab"] == [0, 3]
    assert shell.high_watermarks == [5]
    assert [(a.header.base_offset, a.header.last_offset, a.header.leader_epoch) for a in shell.log] == [
        (0, 2, 3),
        (3, 4, 3),
    ]


def test_flush_messages_1_acks_only_what_is_flushed_and_groups_what_came_meanwhile() -> None:
    shell = Shell(**{"flush.messages": 1})
    shell.produce("a", batch())
    shell.write()
    assert (shell.flushes, shell.replies) == (1, {})
    shell.produce("b", batch())
    shell.produce("c", batch())
    shell.write()
    assert shell.flushes == 1, "one fsync at a time"
    shell.step(ev.Flushed(1))
    assert set(shell.replies) == {"a"}
    assert shell.flushes == 2
    shell.step(ev.Flushed(3))
    assert set(shell.replies) == {"a", "b", "c"}
    assert shell.leader.high_watermark == 3


def test_acks_1_also_waits_for_the_fsync_that_flush_messages_1_promises() -> None:
    shell = Shell(**{"flush.messages": 1})
    shell.produce("a", batch(), acks=1)
    shell.write()
    assert shell.replies == {}
    shell.step(ev.Flushed(1))
    assert shell.replies["a"].base_offset == 0


def test_flush_messages_counts_records() -> None:
    shell = Shell(**{"flush.messages": 10})
    shell.produce("a", batch(9))
    shell.write()
    assert (shell.flushes, set(shell.replies)) == (0, {"a"})
    shell.produce("b", batch(1))
    shell.write()
    assert (shell.flushes, set(shell.replies)) == (1, {"a"})
    shell.step(ev.Flushed(10))
    assert set(shell.replies) == {"a", "b"}


def test_flush_ms_asks_for_a_flush_at_its_deadline() -> None:
    shell = Shell(**{"flush.ms": 50})
    shell.produce("a", batch())
    shell.write()
    assert shell.leader.next_deadline_ms() == NOW + 50
    shell.step(ev.Tick(), NOW + 49)
    assert shell.flushes == 0
    shell.step(ev.Tick(), NOW + 50)
    assert (shell.flushes, shell.leader.next_deadline_ms()) == (1, None)


def test_a_roll_asks_for_a_flush_that_no_ack_waits_for() -> None:
    shell = Shell()
    shell.produce("a", batch())
    shell.write()
    shell.step(ev.Rolled())
    shell.produce("b", batch())
    shell.write()
    assert (shell.flushes, set(shell.replies)) == (1, {"a", "b"})


def test_a_duplicate_is_not_appended_and_gets_the_first_ones_offset() -> None:
    shell = Shell()
    shell.produce("a", batch(3, 7, 0, 0))
    shell.produce("again", batch(3, 7, 0, 0))
    assert len(shell.unwritten) == 1
    assert shell.replies == {}, "the duplicate's ack waits for the first one's offset too"
    shell.write()
    shell.produce("and again", batch(3, 7, 0, 0))
    assert [shell.replies[r].base_offset for r in ("a", "again", "and again")] == [0, 0, 0]
    assert len(shell.log) == 1


def test_a_gap_in_sequence_is_refused_and_the_right_one_taken() -> None:
    shell = Shell()
    shell.produce("a", batch(1, 7, 0, 0))
    shell.produce("gap", batch(1, 7, 0, 2))
    assert shell.replies["gap"].error == "OutOfOrderSequence"
    shell.produce("b", batch(1, 7, 0, 1))
    shell.write()
    assert shell.replies["b"].base_offset == 1


def test_a_bumped_epoch_starts_at_zero_and_fences_the_old_one_but_knows_its_duplicates() -> None:
    shell = Shell()
    shell.produce("a", batch(2, 7, 0, 0))
    shell.write()
    shell.produce("wrong start", batch(1, 7, 1, 2))
    assert shell.replies["wrong start"].error == "OutOfOrderSequence"
    shell.produce("bumped", batch(1, 7, 1, 0))
    shell.produce("late", batch(1, 7, 0, 2))
    assert shell.replies["late"].error == "ProducerFenced"
    shell.produce("late duplicate", batch(2, 7, 0, 0))
    assert shell.replies["late duplicate"].base_offset == 0


def test_sequences_wrap() -> None:
    shell = Shell()
    shell.produce("a", batch(2, 7, 0, 2**31 - 2))
    shell.produce("b", batch(1, 7, 0, 0))
    shell.write()
    assert shell.replies["b"].base_offset == 2


def test_a_failed_write_fails_its_batches_and_gives_their_offsets_again() -> None:
    shell = Shell()
    shell.produce("kept", batch(2, 7, 0, 0))
    shell.write()
    shell.produce("lost", batch(3, 7, 0, 2))
    shell.unwritten = []
    shell.step(ev.WriteFailed("no space left on device"))
    assert shell.replies["lost"].error == "StorageError"
    assert "no space" in shell.replies["lost"].message
    shell.produce("again", batch(3, 7, 0, 2))
    shell.write()
    assert shell.replies["again"].base_offset == 2
    assert shell.high_watermarks == [2, 5]


def test_a_failed_write_forgets_no_batch_that_was_deleted_since() -> None:
    shell = Shell()
    for sequence in range(REMEMBERED_BATCHES):
        shell.produce(f"first {sequence}", batch(1, 7, 0, sequence))
    shell.write()
    shell.step(ev.StartMoved(REMEMBERED_BATCHES))
    for sequence in range(REMEMBERED_BATCHES, 3 * REMEMBERED_BATCHES):
        shell.produce(f"lost {sequence}", batch(1, 7, 0, sequence))
    shell.produce("lost", batch(1, 8, 0, 0))
    shell.unwritten = []
    shell.step(ev.WriteFailed("no space left on device"))
    for sequence in range(REMEMBERED_BATCHES):
        shell.produce(f"again {sequence}", batch(1, 7, 0, sequence))
        assert shell.replies[f"again {sequence}"].base_offset == sequence
    shell.produce("gap", batch(1, 7, 0, REMEMBERED_BATCHES + 1))
    assert shell.replies["gap"].error == "OutOfOrderSequence"
    shell.produce("anew", batch(1, 7, 0, REMEMBERED_BATCHES))
    shell.produce("other", batch(1, 8, 0, 0))
    shell.write()
    assert [shell.replies[ref].base_offset for ref in ("anew", "other")] == [5, 6]


def test_a_failed_fsync_takes_the_partition_offline_for_good() -> None:
    shell = Shell(**{"flush.messages": 1})
    shell.produce("a", batch())
    shell.write()
    shell.step(ev.LogFailed("I/O error"))
    assert shell.replies["a"].error == "StorageError"
    shell.produce("b", batch())
    assert shell.replies["b"].error == "StorageError"
    assert shell.unwritten == []


def test_log_append_time_replaces_the_producers_time() -> None:
    shell = Shell(**{"message.timestamp.type": "LogAppendTime"})
    shell.produce("a", batch())
    shell.write()
    header = shell.log[0].header
    assert header.attributes & LOG_APPEND_TIME
    assert (header.min_timestamp, header.max_timestamp, shell.replies["a"].timestamp) == (WALL, WALL, WALL)


def test_more_replicas_asked_than_there_are() -> None:
    shell = Shell(**{"min.insync.replicas": 2})
    shell.produce("all", batch())
    assert shell.replies["all"].error == "NotEnoughReplicas"
    shell.produce("one", batch(), acks=1)
    shell.write()
    assert shell.replies["one"].base_offset == 0


def test_a_client_that_has_seen_a_newer_epoch_is_sent_to_look_again() -> None:
    shell = Shell()
    shell.produce("a", batch(leader_epoch=4))
    assert shell.replies["a"].error == "NotLeaderOrFollower"


def test_resigning_answers_everyone() -> None:
    shell = Shell()
    shell.produce("a", batch())
    effects = shell.leader.resign("NotLeaderOrFollower", "moved")
    assert [(e.ref, e.error) for e in effects if isinstance(e, ev.Reply)] == [("a", "NotLeaderOrFollower")]


def test_new_settings_count_from_the_next_batch() -> None:
    shell = Shell()
    shell.leader.configure(replace(DEFAULTS, flush_messages=1))
    shell.produce("a", batch())
    shell.write()
    assert shell.flushes == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("produce"), st.integers(1, 4), st.sampled_from([-1, 1])),
        st.tuples(st.just("resend"), st.integers(0, 6)),
        st.tuples(st.just("write")),
        st.tuples(st.just("fail")),
        st.tuples(st.just("flushed")),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, flush_messages=st.sampled_from([1, 5, 2**40]))
def test_any_history_has_dense_offsets_one_answer_each_and_no_duplicate(steps: Any, flush_messages: int) -> None:
    """An idempotent producer that resends at will, writes that fail, fsyncs that come late."""
    shell = Shell(**{"flush.messages": flush_messages})
    sent: list[ProduceBatch] = []
    sequence = 0
    refs = iter(range(10_000))
    for step in steps:
        match step:
            case ("produce", count, acks):
                sent.append(batch(count, 7, 0, sequence))
                sequence += count
                shell.produce(next(refs), sent[-1], acks)
            case ("resend", back) if back < len(sent):
                shell.produce(next(refs), sent[-1 - back])
            case ("write",) if shell.unwritten:
                shell.write()
            case ("fail",) if shell.unwritten:
                shell.unwritten = []
                shell.step(ev.WriteFailed("disk full"))
                kept = {a.header.base_sequence for a in shell.log}
                sent = [b for b in sent if b.base_sequence in kept]
                sequence = states_next(shell)
            case ("flushed",) if shell.flushes:
                shell.flushes -= 1
                shell.step(ev.Flushed(shell.leader.written_end))
    ends = [(a.header.base_offset, a.header.last_offset) for a in shell.log]
    assert all(previous[1] + 1 == following[0] for previous, following in zip(ends, ends[1:], strict=False))
    sequences = [a.header.base_sequence for a in shell.log]
    assert len(set(sequences)) == len(sequences)
    assert shell.high_watermarks == sorted(shell.high_watermarks)


def states_next(shell: Shell) -> int:
    return sum(a.header.record_count for a in shell.log)


def test_a_group_coordinator_of_an_older_leader_epoch_is_refused() -> None:
    """Others may send what an older leader did not take: their records are the same under any leader."""
    shell = Shell()
    shell.produce("late", batch(producer=GROUP_PRODUCER_BASE, epoch=1, sequence=0, leader_epoch=2))
    assert shell.replies["late"].error == "FencedLeaderEpoch" and not shell.unwritten
    shell.produce("present", batch(producer=GROUP_PRODUCER_BASE, epoch=1, sequence=0, leader_epoch=3))
    shell.produce("a user's", batch(producer=5, epoch=1, sequence=0, leader_epoch=2))
    assert len(shell.unwritten) == 2
