"""A copy of the metadata log on disk: what was kept is there again, and what is damaged is noticed."""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rayqueue.actors.quorum_store import QuorumStore
from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.messages import Entry, Membership, Snapshot, Stored, Voter, first_entries
from rayqueue.errors import CorruptRecord, StorageError
from rayqueue.storage.files import AppendFile, OsFiles, Piece
from tests.simulation.quorum_store import QuorumStore as Model

ME = Voter(1, "a")


def held(stored: Stored) -> tuple[Any, ...]:
    return (stored.epoch, stored.vote, stored.snapshot, stored.base_index, stored.base_epoch, stored.entries)


def random_effects(model: Model, rng: random.Random, count: int) -> list[ev.DiskEffect]:
    """Some effects that the machine could ask for, already applied to the model."""
    made: list[ev.DiskEffect] = []
    for write in range(1, count + 1):
        match rng.randrange(12):
            case 0 | 1:
                effect: ev.DiskEffect = ev.PersistVote(write, model.epoch + 1, rng.choice([None, ME]))
            case 2 if model.end > max(model.base_index, model.snapshot.index):
                effect = ev.Truncate(write, rng.randint(max(model.base_index, model.snapshot.index), model.end - 1))
            case 3 if model.end > model.snapshot.index:
                epoch = model.epoch_at(model.end) or 1
                effect = ev.SaveSnapshot(write, Snapshot(model.end, epoch, Membership((ME,)), rng.randbytes(100)))
            case 4:
                index = model.end + rng.randint(1, 5)
                effect = ev.InstallSnapshot(write, Snapshot(index, model.epoch, Membership((ME,)), rng.randbytes(50)))
            case 5 if model.snapshot.index > model.base_index and model.end >= model.snapshot.index:
                effect = ev.Compact(write, model.snapshot.index, model.snapshot.epoch)
            case _:
                entries = [
                    Entry(model.end + i, model.epoch, 0, rng.randbytes(rng.randrange(50)))
                    for i in range(1, rng.randint(2, 5))
                ]
                effect = ev.Append(write, tuple(entries))
        model.apply(effect)
        made.append(effect)
    return made


@pytest.mark.parametrize("seed", range(60))
def test_what_was_kept_is_there_again(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    model = Model(first_entries(Membership((ME,))))
    store = QuorumStore(OsFiles(), tmp_path / "metadata", model.entries)
    for _ in range(12):
        effects = random_effects(model, rng, rng.randint(1, 6))
        assert store.write(effects) == effects[-1].write
        assert held(store.stored) == held(model.recovered())
        if rng.random() < 0.4:
            store.close()
            store = QuorumStore(OsFiles(), tmp_path / "metadata", first_entries(Membership((Voter(9, "z"),))))
            assert held(store.stored) == held(model.recovered())


def kept(directory: Path) -> tuple[QuorumStore, list[int]]:
    """A store with five frames, and where each ends."""
    store = QuorumStore(OsFiles(), directory, first_entries(Membership((ME,))))
    sizes = [(directory / "journal").stat().st_size]
    for index in range(2, 6):
        store.write([ev.Append(index, (Entry(index, 1, 0, b"payload" * index),))])
        sizes.append((directory / "journal").stat().st_size)
    return store, sizes


def test_a_torn_last_frame_is_dropped_wherever_it_is_torn(tmp_path: Path) -> None:
    sizes = kept(tmp_path)[1]
    data = (tmp_path / "journal").read_bytes()
    for size in range(sizes[-2], sizes[-1]):
        (tmp_path / "journal").write_bytes(data[:size])
        again = QuorumStore(OsFiles(), tmp_path)
        assert [e.index for e in again.stored.entries] == [1, 2, 3, 4]
        again.write([ev.Append(9, (Entry(5, 2, 0, b"another"),))])
        assert QuorumStore(OsFiles(), tmp_path).stored.entries[-1].payload == b"another"


def test_a_flipped_bit_in_what_was_promised_is_noticed(tmp_path: Path) -> None:
    sizes = kept(tmp_path)[1]
    data = (tmp_path / "journal").read_bytes()
    for at in range(sizes[-2]):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        (tmp_path / "journal").write_bytes(damaged)
        with pytest.raises(CorruptRecord, match="remove this directory"):
            QuorumStore(OsFiles(), tmp_path)


def test_a_damaged_or_missing_part_of_a_snapshotted_log_is_noticed(tmp_path: Path) -> None:
    store, _ = kept(tmp_path)
    store.write([ev.SaveSnapshot(9, Snapshot(4, 1, Membership((ME,)), b"state")), ev.Compact(10, 3, 1)])
    snapshot, journal = (tmp_path / "snapshot").read_bytes(), (tmp_path / "journal").read_bytes()
    (tmp_path / "snapshot").write_bytes(snapshot[:-1])
    with pytest.raises(CorruptRecord):
        QuorumStore(OsFiles(), tmp_path)
    (tmp_path / "snapshot").write_bytes(snapshot)
    (tmp_path / "journal").unlink()
    with pytest.raises(CorruptRecord, match="missing beside its snapshot"):
        QuorumStore(OsFiles(), tmp_path)
    (tmp_path / "journal").write_bytes(journal)
    assert [e.index for e in QuorumStore(OsFiles(), tmp_path).stored.entries] == [4, 5]


class Failing(OsFiles):
    """Fails at the n-th append or sync from now, having written half."""

    left = -1

    def append(self, file: AppendFile, pieces: Sequence[Piece], total: int) -> None:
        if self._now():
            half = bytes(pieces[0])[: total // 2]
            super().append(file, [half], len(half))
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(file, pieces, total)

    def sync(self, file: AppendFile) -> None:
        if self._now():
            raise OSError(errno.EIO, "Input/output error")
        super().sync(file)

    def _now(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("seed", range(40))
def test_a_disk_that_fails_leaves_the_state_before_or_after(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    model = Model(first_entries(Membership((ME,))))
    files = Failing()
    store = QuorumStore(files, tmp_path, model.entries)
    store.write(random_effects(model, rng, 10))
    states = [held(model.recovered())]
    effects = []
    for _ in range(5):
        effects += random_effects(model, rng, 1)
        states.append(held(model.recovered()))
    files.left = rng.randint(1, 8)
    try:
        store.write(effects)
    except StorageError as error:
        assert str(error).startswith("cannot write the metadata log")
    files.left = -1
    found = held(QuorumStore(files, tmp_path).stored)
    whole = [(*state[:2], *state[3:]) for state in states]
    assert (*found[:2], *found[3:]) in whole and found[2] in [state[2] for state in states]
    assert found[2].index >= states[whole.index((*found[:2], *found[3:]))][2].index, "a log without its snapshot"
