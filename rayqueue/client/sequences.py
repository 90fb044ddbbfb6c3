"""Who a producer is to one partition: producer id, epoch, and the next sequence number (KIP-98, KIP-360)."""

from __future__ import annotations

from typing import NamedTuple

SEQUENCE_MODULUS = 1 << 31  # sequences are 0 to 2**31 - 1 and wrap
EPOCH_MAX = (1 << 15) - 1


class Stamp(NamedTuple):
    """What makes a batch recognisable to the log: it stays the same however often the batch is sent."""

    producer_id: int
    producer_epoch: int
    base_sequence: int


UNSTAMPED = Stamp(-1, -1, -1)


class Sequences:
    """Numbers the batches of one partition.

    Args:
        producer_id: from the brokers; -1: not known yet.
        producer_epoch: the first epoch to use.

    Attributes:
        next_sequence: of the next batch. Invariant: 0 <= next_sequence < SEQUENCE_MODULUS.
    """

    __slots__ = ("next_sequence", "producer_epoch", "producer_id")

    def __init__(self, producer_id: int = -1, producer_epoch: int = 0) -> None:
        self.producer_id = producer_id
        self.producer_epoch = producer_epoch
        self.next_sequence = 0

    def stamp(self, count: int) -> Stamp:
        """The stamp of the next batch, which has `count` records."""
        assert self.producer_id >= 0, "a batch is stamped only once the producer id is known"
        stamp = Stamp(self.producer_id, self.producer_epoch, self.next_sequence)
        self.next_sequence = (self.next_sequence + count) % SEQUENCE_MODULUS
        return stamp

    def restart(self) -> bool:
        """Begins the next epoch at sequence 0, after batches whose outcome is unknown or that failed.

        Returns:
            False when there is no epoch left: a new producer id is needed (`adopt`).
        """
        self.next_sequence = 0
        if self.producer_epoch >= EPOCH_MAX:
            self.producer_id = -1
            return False
        self.producer_epoch += 1
        return True

    def adopt(self, producer_id: int, producer_epoch: int) -> None:
        """Goes on under a new producer id."""
        self.producer_id, self.producer_epoch, self.next_sequence = producer_id, producer_epoch, 0
