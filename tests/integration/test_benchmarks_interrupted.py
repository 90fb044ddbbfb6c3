"""Ctrl-C and SIGTERM while the real command runs: nothing that it started is left, and what it found is written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness import accounting
from benchmarks.harness.interruption import running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc"),
]
ROOT = Path(__file__).parents[2]
MARK = "RAYQUEUE_BENCHMARKS_TEST"
EXIT_WAIT_S = 60


def marked(mark: str) -> dict[int, str]:
    """The running processes that have inherited this value of MARK, however far down, with their command lines."""
    found = {}
    for pid in accounting.stats():
        try:
            environment = (accounting.PROC / str(pid) / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is somebody else's
        if f"{MARK}={mark}".encode() in environment and running(pid):
            found[pid] = accounting.title(pid)
    return found


@pytest.fixture
def mark() -> Iterator[str]:
    """A value for MARK; what a failed test leaves behind is ended."""
    value = uuid.uuid4().hex
    yield value
    for pid in marked(value):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("line", "number", "whole_group"),
    [
        ("w1: ", signal.SIGINT, True),  # as a terminal sends it: to the loads as well
        ("w1: ", signal.SIGTERM, False),
        ("starting rayqueue", signal.SIGINT, True),
        ("starting rayqueue", signal.SIGTERM, False),
    ],
)
def test_a_signal_leaves_nothing_behind(
    tmp_path: Path, mark: str, line: str, number: signal.Signals, whole_group: bool
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--only", "ceilings,w1", "--seconds", "5"]
    with subprocess.Popen(
        [*command, "--dir", data, "--out", tmp_path / "out"],
        cwd=ROOT, env={**os.environ, MARK: mark}, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = []
        for text in process.stdout:
            said.append(text)
            if text.startswith(line):
                break
        if line == "w1: ":
            assert len(marked(mark)) > 3  # a Ray, at least
        (os.killpg if whole_group else os.kill)(process.pid, number)
        said.append(process.communicate(timeout=EXIT_WAIT_S)[0])

    told = "".join(said)
    assert process.returncode == 130, told
    assert marked(mark) == {}
    assert list(data.iterdir()) == []
    assert "INTERRUPTED" in told and "Traceback" not in told, told
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["interrupted"]
    assert [one["workload"] for one in results["outcomes"]] == (["ceilings"] if line == "w1: " else [])
