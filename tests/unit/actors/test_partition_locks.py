"""Two processes of a broker never have the same log open."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayqueue.actors.partition_locks import PartitionInUse, PartitionLocks

ONE, TWO = b"t" * 16, b"u" * 16
HOLDER = """
import sys
from pathlib import Path
from rayqueue.actors.partition_locks import PartitionLocks
locks = PartitionLocks(Path(sys.argv[1]))
locks.take((b"t" * 16, 0))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_that_another_process_holds_is_refused_until_that_process_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert holder.stdout is not None and holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        locks = PartitionLocks(tmp_path)
        locks.take((ONE, 1))
        locks.take((TWO, 0))
        with pytest.raises(PartitionInUse, match="still has it open"):
            locks.take((ONE, 0))
    finally:
        holder.kill()
        holder.wait(10)
        holder.stdin.close()
        holder.stdout.close()
    locks.take((ONE, 0))
    locks.close()


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="POSIX locks are the process's")
def test_two_replica_actors_in_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    first, second = PartitionLocks(tmp_path), PartitionLocks(tmp_path)
    first.take((ONE, 0))
    first.take((ONE, 0))
    with pytest.raises(PartitionInUse):
        second.take((ONE, 0))
    first.release((ONE, 1))  # nothing that it has
    first.release((ONE, 0))
    second.take((ONE, 0))
    with pytest.raises(PartitionInUse):
        first.take((ONE, 0))
    second.close()
    first.take((ONE, 0))
    first.close()


def test_a_thousand_partitions_cost_one_descriptor(tmp_path: Path) -> None:
    locks, before = PartitionLocks(tmp_path), len(os.listdir("/dev/fd"))
    for number in range(1_000):
        locks.take((ONE, number))
    assert len(os.listdir("/dev/fd")) == before + 1
    assert (tmp_path / "locks" / "partitions").stat().st_size == 0
    locks.close()
    assert len(os.listdir("/dev/fd")) == before
