"""A writing process killed with SIGKILL, again and again, in one directory: what it said was appended is there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.log import Log
from tests.unit.storage.harness import FastFiles, config, expected, values

WRITER = """
import sys
from rayqueue.config.topic import TopicConfig
from rayqueue.protocol.schemas import DEFAULT_SCHEMA
from rayqueue.storage.files import OsFiles
from rayqueue.storage.log import Log
from tests.unit.storage.harness import batch
log = Log.open(OsFiles(), sys.argv[1], DEFAULT_SCHEMA, TopicConfig.parse({"segment.bytes": 50_000}))
print(log.log_end_offset, flush=True)
while True:
    offset = log.log_end_offset
    log.append([batch(offset, 1 + offset % 7), batch(offset + 1 + offset % 7, 2, size=1 + offset % 3000)], 0)
    if offset % 5 == 0:
        log.flush()
    print(log.log_end_offset, flush=True)
"""


def killed_after(directory: Path, lines: int) -> int:
    """Runs a writer, kills it once it has said so many times how far it is; the last offset it said."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(lines):
            writer.stdout.readline()
        writer.kill()
        said = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    return said[-1] if said else 0


def test_nothing_that_was_appended_is_lost_by_a_kill(tmp_path: Path) -> None:
    rng = random.Random(7)
    for _ in range(4):
        acked = killed_after(tmp_path / "p", rng.randint(2, 60))
        log = Log.open(FastFiles(), str(tmp_path / "p"), DEFAULT_SCHEMA, config())
        assert log.log_end_offset >= acked
        found = values(log)
        assert len(found) == log.log_end_offset
        assert [v.rstrip(b".") for v in found] == [v.rstrip(b".") for v in expected(0, log.log_end_offset)]
    assert log.segment_count > 1
