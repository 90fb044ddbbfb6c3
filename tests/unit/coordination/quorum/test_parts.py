"""The quorum's parts: log, durability, membership rules, progress, reads, settings and messages."""

from __future__ import annotations

import pytest

from rayqueue.coordination.quorum import messages as m
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.durability import Durability
from rayqueue.coordination.quorum.events import Action, Dropped, ReadReady
from rayqueue.coordination.quorum.log import QuorumLog
from rayqueue.coordination.quorum.membership import changed
from rayqueue.coordination.quorum.progress import Mode, Progress
from rayqueue.coordination.quorum.reads import Reads
from rayqueue.errors import ConfigError, ProtocolError
from tests.unit.coordination.quorum.harness import A, B, C, D

TRIO = m.Membership((A, B, C))


def log_of(*epochs: int, payload: bytes = b"") -> QuorumLog:
    """A log whose entries have these epochs."""
    return QuorumLog(m.Stored(entries=[m.Entry(i, e, m.RECORDS, payload) for i, e in enumerate(epochs, 1)]))


@pytest.mark.parametrize(
    "wrong", [{"beat_ms": 600}, {"election_timeout_ms_min": 1_000}, {"inflight_max": 0}, {"kept_entries": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        QuorumConfig(**wrong)


@pytest.mark.parametrize(
    "message",
    [
        m.VoteRequest(A, B, 3, 7, 2, pre=True),
        m.VoteReply(A, B, 3, True),
        m.AppendRequest(A, B, 3, 7, 2, (m.Entry(8, 3, m.RECORDS, b"x"), m.Entry(9, 3, m.FENCE)), 7, 1),
        m.AppendReply(A, B, 3, 0, 1, True, 7, 5, 2),
        m.SnapshotRequest(A, B, 3, 7, 2, TRIO, 0, 3, b"abc", 0),
        m.SnapshotReply(A, B, 3, 7, 3, 0),
        m.TransferRequest(A, B, 3),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_survive_the_wire(message: m.AnyMessage) -> None:
    assert m.decode_message(m.encode(message)) == message


@pytest.mark.parametrize(
    "bad",
    [
        b"\x93\x01\x02\x03",
        b"GET / HTTP/1.1",
        m.encode(m.AppendRequest(A, B, 3, 7, 2, (m.Entry(9, 3),), 7, 1)),
        m.encode(m.AppendRequest(A, B, 3, 7, 2, (m.Entry(8, 3), m.Entry(9, 2)), 7, 1)),
        m.encode(m.AppendRequest(A, B, 3, 7, 2, (m.Entry(8, 4),), 7, 1)),
        m.encode(m.AppendRequest(A, B, 3, 7, 2, (m.Entry(8, 3, m.MEMBERSHIP, b"x"),), 7, 1)),
    ],
    ids=["foreign", "http", "gap", "older epoch", "epoch of the future", "no membership"],
)
def test_what_makes_no_sense_is_refused_at_the_wire(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        m.decode_message(bad)


def test_memberships_survive_the_log() -> None:
    assert m.decode_membership(m.encode(TRIO)) == TRIO
    assert str(A) == "1/x"


# --- log --------------------------------------------------------------------------------------------------------------


def test_log_knows_epochs_between_base_and_end() -> None:
    log = log_of(1, 1, 2, 4)
    assert [log.epoch_at(i) for i in range(6)] == [0, 1, 1, 2, 4, None]
    log.save(m.Snapshot(2, 1))
    log.compact(2)
    assert [log.epoch_at(i) for i in range(6)] == [None, None, 1, 2, 4, None]
    log.validate()


def test_log_slices_are_bounded_but_never_empty() -> None:
    log = log_of(1, 1, 1, 1, payload=b"0123456789")
    assert [e.index for e in log.slice(2, 4, 100, 100)] == [2, 3, 4]
    assert [e.index for e in log.slice(2, 4, 2, 100)] == [2, 3]
    assert [e.index for e in log.slice(2, 4, 100, 25)] == [2, 3]
    assert [e.index for e in log.slice(2, 4, 100, 5)] == [2]
    assert log.slice(5, 4, 100, 100) == ()


@pytest.mark.parametrize(
    ("index", "epoch", "found"), [(6, 9, (6, 5)), (9, 9, (6, 5)), (6, 4, (4, 2)), (3, 2, (3, 2)), (6, 0, (0, 0))]
)
def test_log_goes_back_by_whole_epochs(index: int, epoch: int, found: tuple[int, int]) -> None:
    assert log_of(1, 2, 2, 2, 5, 5).last_at_most(index, epoch) == found


def test_a_log_is_covered_by_one_that_is_as_good() -> None:
    log = log_of(1, 2, 2)
    assert log.is_covered_by(3, 2) and log.is_covered_by(1, 3)
    assert not log.is_covered_by(2, 2) and not log.is_covered_by(9, 1)


def test_truncation_takes_memberships_back() -> None:
    log = QuorumLog(m.Stored(entries=m.first_entries(m.Membership((A,)))))
    log.append([m.Entry(2, 1, m.MEMBERSHIP, m.encode(TRIO)), m.Entry(3, 1, m.RECORDS, b"xyz")])
    assert (log.membership, log.membership_index, log.memberships_above(1)) == (TRIO, 2, 1)
    assert log.membership_at(1) == m.Membership((A,))
    assert log.may_lead(B, 1) and not log.may_lead(D, 1)
    log.truncate(1)
    assert (log.membership, log.end, log.last_epoch) == (m.Membership((A,)), 1, 1)
    assert not log.may_lead(B, 1)
    log.validate()


def test_a_log_that_does_not_go_on_from_its_snapshot_is_dropped() -> None:
    snapshot = m.Snapshot(3, 2, TRIO, b"state")
    stale = QuorumLog(m.Stored(snapshot=snapshot, entries=[m.Entry(i, 1) for i in range(1, 6)]))
    assert stale.is_stale and (stale.base_index, stale.base_epoch, stale.end) == (3, 2, 3)
    sound = QuorumLog(m.Stored(snapshot=snapshot, base_index=3, base_epoch=2, entries=[m.Entry(4, 2)]))
    assert not sound.is_stale and sound.end == 4 and sound.membership == TRIO
    stale.validate()
    sound.validate()


# --- durability -------------------------------------------------------------------------------------------------------


def test_durable_end_survives_cut_and_rewrite() -> None:
    """Written, cut, and written again at the same index: the first write does not vouch for the second."""
    durability = Durability(5, promises_max=8)
    first = durability.write()
    durability.grows(first, 7)
    durability.cut(6)
    durability.write()
    second = durability.write()
    durability.grows(second, 7)
    durability.persisted(first)
    assert durability.end == 6
    durability.persisted(second)
    assert durability.end == 7
    durability.validate(7)


def test_promises_wait_and_are_bounded() -> None:
    durability = Durability(0, promises_max=2)
    durability.write()
    for epoch in (1, 2, 3):
        durability.promise(m.TransferRequest(A, B, epoch))
    durability.write()
    durability.promise(m.TransferRequest(A, B, 4))
    assert [message.epoch for message in durability.persisted(1)] == [3]
    assert [message.epoch for message in durability.persisted(2)] == [4]


# --- membership -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "action", "voter", "after"),
    [
        (m.Membership((A,)), Action.ADD_LEARNER, B, m.Membership((A,), (B,))),
        (m.Membership((A,), (B,)), Action.PROMOTE, B, m.Membership((A, B))),
        (m.Membership((A, B)), Action.REMOVE, A, m.Membership((B,))),
        (m.Membership((A,), (B,)), Action.REMOVE, B, m.Membership((A,))),
        (m.Membership((A,), (B,)), Action.ADD_LEARNER, B, "there already"),
        (m.Membership((A, B), (C, D)), Action.ADD_LEARNER, m.Voter(9, "x"), "2 learners"),
        (m.Membership((A, B, C), (D,)), Action.PROMOTE, D, "3 voters"),
        (m.Membership((A,)), Action.PROMOTE, B, "no learner"),
        (m.Membership((A, B), (m.Voter(2, "new"),)), Action.PROMOTE, m.Voter(2, "new"), "another directory"),
        (m.Membership((A,)), Action.REMOVE, B, "not there"),
        (m.Membership((A,)), Action.REMOVE, A, "only voter"),
    ],
)
def test_changes(now: m.Membership, action: Action, voter: m.Voter, after: m.Membership | str) -> None:
    result = changed(now, action, voter, QuorumConfig(voters_max=3, learners_max=2))
    assert (after in result) if isinstance(after, str) and isinstance(result, str) else result == after


# --- progress, reads --------------------------------------------------------------------------------------------------


def reject(prev: int) -> m.AppendReply:
    """A rejection of what followed `prev`."""
    return m.AppendReply(B, A, 3, 0, 0, True, prev, 2, 1)


def test_old_rejections_say_nothing_new() -> None:
    peer = Progress(10, 0)
    assert not peer.rejected(reject(7), 3)  # in probe mode only the last probe counts
    assert peer.rejected(reject(9), 3) and peer.next == 3
    peer.accepted(2, base_index=0)
    peer.next = 8
    peer.inflight.append(7)
    assert peer.mode is Mode.PIPELINE and not peer.rejected(reject(2), 1)
    assert peer.rejected(reject(7), 5) and (peer.mode, peer.next, len(peer.inflight)) == (Mode.PROBE, 5, 0)
    peer.begin_snapshot(m.Snapshot(6, 3))
    assert not peer.rejected(reject(7), 5)
    peer.accepted(4, base_index=6)
    assert peer.mode is Mode.SNAPSHOT
    peer.accepted(6, base_index=6)
    assert (peer.mode, peer.next) == (Mode.PIPELINE, 7)
    peer.validate(6, 1)


def test_reads_share_rounds_and_are_bounded() -> None:
    reads = Reads(reads_max=2)
    assert not reads.begin(5)
    assert reads.add(1) is None and reads.begin(5) and reads.round == 1
    assert reads.add(2) is None and not reads.begin(6)
    assert reads.add(3) == Dropped(3, "too many reads wait")
    assert reads.confirmed() == [ReadReady(1, 5)] and reads.begin(7)
    assert reads.drop("over") == [Dropped(2, "over")] and not reads.is_asking
