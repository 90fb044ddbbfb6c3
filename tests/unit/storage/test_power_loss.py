"""What was flushed survives a power cut; what was not may go, from its end, and nothing else stands in its place."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rayqueue.errors import RayQueueError
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.log import Log
from tests.unit.storage.harness import PowerLoss, batch, config, expected, values

SETTINGS = config(segment_bytes=4096)


class History:
    """A log that is written to at random, and what its calls promised."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.files = PowerLoss()
        self.directory = directory
        self.log = Log.open(self.files, str(directory), DEFAULT_SCHEMA, SETTINGS)
        self.flushed = 0
        self.start = 0

    def step(self) -> None:
        log = self.log
        choice = self.rng.random()
        if choice < 0.6:
            offset = log.log_end_offset
            group = []
            for count in [self.rng.randint(1, 6) for _ in range(self.rng.randint(1, 4))]:
                group.append(batch(offset, count))
                offset += count
            log.append(group, 0)
        elif choice < 0.8:
            self.flushed = log.flush()
        elif choice < 0.87:
            self.start = log.delete_before(self.rng.randint(log.log_start_offset, log.log_end_offset))
        elif choice < 0.95:
            log.write_snapshot(log.log_end_offset, b"state at %d" % log.log_end_offset)
        else:
            if choice < 0.98:
                log.close()
                self.flushed = log.log_end_offset
            # else the process dies: its files stand as it wrote them, and nobody knows what of them is durable
            self.log = Log.open(self.files, str(self.directory), DEFAULT_SCHEMA, SETTINGS)
            assert self.log.repairs == []


@pytest.mark.parametrize("block", range(6))
def test_what_was_flushed_survives(tmp_path: Path, block: int, soak: int) -> None:
    lost = 0
    for seed in range(block * 1000, block * 1000 + 25 * soak):
        history = History(tmp_path / f"{seed}", seed)
        for _ in range(history.rng.randint(1, 25)):
            history.step()
        if not history.directory.exists():
            continue
        left = tmp_path / f"{seed} left"
        history.files.lose_power(str(history.directory), left, history.rng)
        log = Log.open(PowerLoss(), str(left), DEFAULT_SCHEMA, SETTINGS)
        end = history.log.log_end_offset
        assert max(history.flushed, history.start) <= log.log_end_offset <= max(end, history.start), seed
        assert log.log_start_offset == history.start, seed
        assert values(log) == expected(history.start, log.log_end_offset), seed
        snapshot = log.latest_snapshot()
        assert snapshot is None or (snapshot[0] <= log.log_end_offset and snapshot[1] == b"state at %d" % snapshot[0])
        log.append([batch(log.log_end_offset)], 0)
        assert values(log) == expected(history.start, log.log_end_offset), seed
        lost += log.log_end_offset <= end
        history.files.close()
    assert lost > 5, "the seam takes something away"


def test_a_log_that_skips_its_fsyncs_is_found_out(tmp_path: Path) -> None:
    """The check above can fail: without fsyncs, flushed records are lost."""

    class Forgetful(PowerLoss):
        def sync(self, file: object) -> None:
            pass

    found = 0
    for seed in range(10):
        files, rng = Forgetful(), random.Random(seed)
        log = Log.open(files, str(tmp_path / f"{seed}"), DEFAULT_SCHEMA, SETTINGS)
        log.append([batch(0, 3), batch(3, 3)], 0)
        flushed = log.flush()
        files.lose_power(str(tmp_path / f"{seed}"), tmp_path / f"{seed} left", rng)
        try:
            left = Log.open(PowerLoss(), str(tmp_path / f"{seed} left"), DEFAULT_SCHEMA, SETTINGS)
            found += left.log_end_offset < flushed
        except RayQueueError:
            found += 1
        files.close()
    assert found > 0
