"""Sequence numbers of an idempotent producer."""

import pytest

from rayqueue.client.sequences import EPOCH_MAX, SEQUENCE_MODULUS, Sequences


def test_batches_are_numbered_by_their_records() -> None:
    sequences = Sequences(7, 3)
    assert sequences.stamp(10) == (7, 3, 0)
    assert sequences.stamp(1) == (7, 3, 10)
    assert sequences.stamp(1) == (7, 3, 11)


def test_sequences_wrap_at_two_to_the_31() -> None:
    sequences = Sequences(7)
    sequences.next_sequence = SEQUENCE_MODULUS - 3
    assert sequences.stamp(5).base_sequence == SEQUENCE_MODULUS - 3
    assert sequences.stamp(1).base_sequence == 2


def test_a_restart_takes_the_next_epoch() -> None:
    sequences = Sequences(7, 0)
    sequences.stamp(4)
    assert sequences.restart()
    assert sequences.stamp(1) == (7, 1, 0)


def test_when_epochs_run_out_a_new_id_is_needed() -> None:
    sequences = Sequences(7, EPOCH_MAX)
    assert not sequences.restart()
    with pytest.raises(AssertionError):
        sequences.stamp(1)
    sequences.adopt(8, 0)
    assert sequences.stamp(1) == (8, 0, 0)
