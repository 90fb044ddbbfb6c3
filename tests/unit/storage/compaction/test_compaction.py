"""Compaction of a log: which records stay, at which offsets, and what else stays as it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.log import Log
from tests.unit.storage.compaction.harness import Model, Record, compact, compact_all, keyed, records, settings
from tests.unit.storage.harness import FastFiles, scratch


def opened(directory: Path, **given: object) -> Log:
    return Log.open(FastFiles(), str(directory), DEFAULT_SCHEMA, settings(**given))


class History:
    """A log and a model of it, to which the same is done at random."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.directory = directory
        self.given = {"segment.bytes": self.rng.choice([1024, 4096, 20_000]), "delete.retention.ms": 50}
        self.log = opened(directory, **self.given)
        self.model = Model()
        self.now_ms = 1_000
        self.epoch = 0
        self.sequences: dict[int, int] = {}
        self.compactions = 0

    def step(self) -> None:
        choice = self.rng.random()
        self.now_ms += self.rng.choice([0, 1, 40])
        if choice < 0.6:
            self.append()
        elif choice < 0.8:
            self.compact()
        elif choice < 0.85:
            self.epoch += 1
        elif choice < 0.88:
            start = self.rng.randint(self.log.log_start_offset, self.log.log_end_offset)
            self.log.delete_before(start)
        elif choice < 0.92:
            end = self.log.truncate(self.rng.randint(self.log.log_start_offset, self.log.log_end_offset))
            self.model.truncate(end)
            self.epoch += 1
            self.sequences.clear()
        else:
            if choice < 0.97:
                self.log.close()
            self.log = opened(self.directory, **self.given)
            assert self.log.repairs == []

    def append(self) -> None:
        offset, group = self.log.log_end_offset, []
        for _ in range(self.rng.randint(1, 4)):
            added: list[Record] = [self.record() for _ in range(self.rng.randint(1, 12))]
            producer = self.rng.choice([-1, 1, 2])
            sequence = self.sequences.get(producer, 0)
            self.sequences[producer] = sequence + len(added)
            stamp = (producer, 0, sequence) if producer >= 0 else (-1, -1, -1)
            group.append(keyed(offset, added, self.epoch, stamp, self.rng.choice([None, None, "lz4", "zstd"])))
            self.model.append(offset, added)
            offset += len(added)
        self.log.append(group, self.now_ms)

    def record(self) -> Record:
        key = self.rng.choice([b"", b"a", b"bb", b"a longer key than eight", *(b"k%d" % i for i in range(8)), None])
        return key, None if self.rng.random() < 0.3 else self.rng.randbytes(self.rng.randint(0, 60))

    def compact(self) -> None:
        epochs = self.log.leader_epochs
        memory = self.rng.choice([64 * 40, 1 << 20])
        done = compact(self.log, self.now_ms, memory=memory)
        if done is not None:
            assert done.finished
            self.model.compact(done.end, self.now_ms, 50)
            self.compactions += 1
            if self.rng.random() < 0.2:
                self.check()
        assert self.log.leader_epochs == epochs

    def check(self) -> None:
        start = self.log.log_start_offset
        assert records(self.log) == {offset: one for offset, one in self.model.held.items() if offset >= start}


@pytest.mark.parametrize("block", range(4))
def test_it_holds_what_a_naive_model_holds(block: int, soak: int) -> None:
    compactions = 0
    with scratch() as directory:
        for seed in range(block * 1000, block * 1000 + 25 * soak):
            history = History(directory / f"{seed}", seed)
            for _ in range(history.rng.randint(5, 60)):
                history.step()
            try:
                history.check()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error
            compactions += history.compactions
    assert compactions > 50


def test_what_is_compacted_stands_in_fewer_and_smaller_files(tmp_path: Path) -> None:
    log = opened(tmp_path / "p", **{"segment.bytes": 50_000})
    for i in range(300):
        log.append([keyed(i * 5, [(b"k%d" % (j % 3), b"v" * 50) for j in range(i, i + 5)])], 0)
    before, segments = log.size_bytes, log.segment_count
    done = compact_all(log)
    assert log.size_bytes < before / 5 and log.segment_count == segments > 4
    assert done.read > done.written > 0
    for i in range(300, 500):
        log.append([keyed(i * 5, [(b"k%d" % (j % 3), b"v" * 50) for j in range(i, i + 5)])], 0)
    compact_all(log)
    assert log._state.segments[1].base_offset > 1000, "what became small is merged with its neighbours"
    closed_end = log._state.segments[-1].base_offset
    assert len([offset for offset in records(log) if offset < closed_end]) == 3
