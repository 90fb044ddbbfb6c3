"""What a partition knows of each idempotent producer: which batches it has, so that none is appended twice.

Source: KIP-98 (idempotent producer), KIP-360 (epoch bump after an unknown outcome), Kafka's ProducerStateManager.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from rayqueue.errors import OutOfOrderSequence, ProducerFenced
from rayqueue.protocol.messages import NO_PRODUCER, BatchHeader

SEQUENCE_MODULUS = 1 << 31
REMEMBERED_BATCHES = 5  # as many as an idempotent producer may have in flight


def sequence_after(sequence: int, count: int) -> int:
    """The sequence number `count` records on; it wraps at 2**31."""
    return (sequence + count) % SEQUENCE_MODULUS


class Remembered(msgspec.Struct, array_like=True, gc=False):
    """One of a producer's last batches."""

    producer_epoch: int
    base_sequence: int
    record_count: int
    base_offset: int
    last_offset: int
    timestamp: int


class ProducerEntry(msgspec.Struct, array_like=True):
    """One producer.

    Invariants: batches is in order of offset, and holds the last REMEMBERED_BATCHES of those that are written and all
    that are not (a few more may stay until the next one comes); next_sequence follows the last of it.
    """

    producer_epoch: int
    next_sequence: int
    batches: list[Remembered]
    last_ms: int


class Duplicate(NamedTuple):
    """The batch is in the log already."""

    base_offset: int
    last_offset: int
    timestamp: int


class ProducerStates:
    """All producers of a partition, by producer id."""

    def __init__(self) -> None:
        self._entries: dict[int, ProducerEntry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def ids(self) -> frozenset[int]:
        """Those that are known."""
        return frozenset(self._entries)

    def check(self, producer_id: int, producer_epoch: int, base_sequence: int, count: int) -> Duplicate | None:
        """Whether a batch may be appended (None), or stands in the log already.

        Raises:
            ProducerFenced: a newer epoch of this producer has written here.
            OutOfOrderSequence: batches before this one are missing.
        """
        entry = self._entries.get(producer_id)
        if entry is None:
            # Never seen, expired, or taken by retention: any sequence may be the first (as Kafka).
            return None
        for seen in entry.batches[-REMEMBERED_BATCHES:]:
            same = seen.base_sequence == base_sequence and seen.record_count == count
            if same and seen.producer_epoch == producer_epoch:
                return Duplicate(seen.base_offset, seen.last_offset, seen.timestamp)
        if producer_epoch < entry.producer_epoch:
            raise ProducerFenced(
                f"producer {producer_id} has written here with epoch {entry.producer_epoch}, this batch has "
                f"{producer_epoch}: close this producer, another took its place"
            )
        expected = 0 if producer_epoch > entry.producer_epoch else entry.next_sequence
        if base_sequence != expected:
            raise OutOfOrderSequence(
                f"producer {producer_id} epoch {producer_epoch} sent sequence {base_sequence}, expected {expected}"
            )
        return None

    def append(self, header: BatchHeader, wall_ms: int, written_end: int) -> None:
        """Notes a batch that has been given its offsets. Below `written_end` the log is written: what is above may yet
        be cut back, and for it nothing is forgotten."""
        if header.producer_id == NO_PRODUCER:
            return
        entry = self._entries.get(header.producer_id)
        if entry is None:
            entry = self._entries[header.producer_id] = ProducerEntry(header.producer_epoch, 0, [], wall_ms)
        seen = Remembered(
            header.producer_epoch,
            header.base_sequence,
            header.record_count,
            header.base_offset,
            header.last_offset,
            header.max_timestamp,
        )
        batches = entry.batches
        batches.append(seen)
        while len(batches) > REMEMBERED_BATCHES and batches[REMEMBERED_BATCHES].last_offset < written_end:
            del batches[0]
        entry.producer_epoch = header.producer_epoch
        entry.next_sequence = sequence_after(header.base_sequence, header.record_count)
        entry.last_ms = wall_ms

    def cut_back(self, end: int) -> None:
        """Forgets the batches above `end`, which were not written. All that was known before them is known again, also
        of batches that the log does not hold any more: it must not be read from there."""
        for key, entry in list(self._entries.items()):
            kept = [batch for batch in entry.batches if batch.last_offset < end]
            if not kept:
                del self._entries[key]
                continue
            last, entry.batches = kept[-1], kept
            entry.producer_epoch = last.producer_epoch
            entry.next_sequence = sequence_after(last.base_sequence, last.record_count)

    def expire(self, before_ms: int) -> int:
        """Forgets producers whose last batch is older; says how many."""
        idle = [key for key, entry in self._entries.items() if entry.last_ms < before_ms]
        for key in idle:
            del self._entries[key]
        return len(idle)

    def dump(self) -> bytes:
        """All of it, for a snapshot beside the log."""
        return _encoder.encode(self._entries)

    def below(self, end: int) -> ProducerStates:
        """What is known of the batches below `end`; a copy."""
        states = ProducerStates()
        states.load(self.dump())
        states.cut_back(end)
        return states

    def load(self, snapshot: bytes) -> None:
        """Takes a snapshot's place; msgspec.DecodeError when it is none."""
        self._entries = _decoder.decode(snapshot)

    def replay(self, headers: Iterable[BatchHeader], wall_ms: int) -> None:
        """Notes batches read back from the log, in order. When they came is not known (their timestamps may be those
        of old events): they count as new, so that no producer is forgotten because of a restart."""
        for header in headers:
            self.append(header, wall_ms, header.last_offset + 1)

    def validate(self) -> None:
        """Every invariant of ProducerEntry."""
        for entry in self._entries.values():
            before = -1
            for batch in entry.batches:
                assert before < batch.base_offset
                before = batch.last_offset
            if entry.batches:
                last = entry.batches[-1]
                assert entry.next_sequence == sequence_after(last.base_sequence, last.record_count)
                assert last.producer_epoch == entry.producer_epoch


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[int, ProducerEntry])
