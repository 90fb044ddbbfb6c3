"""Ctrl-C while a run kills and cuts: it ends in order, and nothing that it started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.interruption import STATUS
from tests.integration.test_benchmarks_interrupted import MARK, marked

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="chaos runs are for Linux"),
]

ROOT = Path(__file__).parents[2]
EXIT_WAIT_S = 90


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """What all processes of the run have in their environment; what a failed test leaves behind is ended."""
    value = f"chaos-{os.getpid()}-{tmp_path.name}"
    yield value
    for pid in marked(value):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("number", "whole_group"),
    [(signal.SIGINT, True), (signal.SIGTERM, False)],  # the first as a terminal sends it
)
def test_a_signal_leaves_no_process_behind(
    tmp_path: Path, mark: str, number: signal.Signals, whole_group: bool
) -> None:
    command = [sys.executable, "-m", "tests.chaos", "1", "--faults=stop-leader", f"--out={tmp_path / 'run'}"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), MARK: mark}, start_new_session=True,
        text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "fault" in line or "stop-leader" in line:
                break
        assert len(marked(mark)) > 10  # Ray, the actors, the clients
        (os.killpg if whole_group else os.kill)(process.pid, number)
        said = process.communicate(timeout=EXIT_WAIT_S)[1]
    assert process.returncode == STATUS, said
    assert marked(mark) == {}
    assert "Traceback" not in said and "nothing was judged" in said
