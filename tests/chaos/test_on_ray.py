"""The short chaos run of CI, with a fixed seed; and one with a planted bug, which has to be found.

Each runs in a process of its own, as `make chaos` does: it kills what belongs to its Ray.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(sys.platform != "linux", reason="faults are injected and proven by /proc"),
]

ROOT = Path(__file__).parents[2]
RUN_WAIT_S = 360
# Those that take long (a lost node, all of Ray, a rolling restart) are left to `make chaos`.
FAULTS = (
    "kill-leader",
    "kill-broker",
    "kill-coordinator",
    "kill-everything",
    "kill-client",
    "stop-leader",
    "stop-coordinator",
    "cut-and-kill-leader",
)
SEED = 2
ROUNDS = 10


def chaos(out: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """A run, and its report."""
    command = [sys.executable, "-m", "tests.chaos", *arguments, f"--out={out}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        timeout=RUN_WAIT_S,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (out / "report.json").exists(), done.stdout
    return done, json.loads((out / "report.json").read_text())


def test_faults_on_a_real_cluster_cause_no_anomaly(tmp_path: Path) -> None:
    done, report = chaos(tmp_path / "run", str(SEED), f"--rounds={ROUNDS}", f"--faults={','.join(FAULTS)}")
    assert done.returncode == 0, done.stdout
    assert set(report["anomalies"].values()) == {0} and report["problems"] == []
    assert {fault["fault"] for fault in report["faults"]} == set(FAULTS)
    assert all(fault["proof"] for fault in report["faults"])
    assert report["operations"]["ack"] > 1000
    assert report["operations"]["committed"] and report["operations"]["handled"]
    assert report["operations"]["records read"] > 3 * report["operations"]["ack"]


def test_acks_of_the_leader_alone_are_found_to_be_none(tmp_path: Path) -> None:
    """A planted bug: acks=1 counted as if it were acks=all, while leaders are killed."""
    done, report = chaos(tmp_path / "run", "5", "--rounds=3", "--faults=cut-and-kill-leader", "--planted=acks-1")
    assert done.returncode == 0, done.stdout
    assert report["anomalies"]["lost-write"] and report["anomalies"]["inconsistent-offsets"]
    assert not report["good"]
