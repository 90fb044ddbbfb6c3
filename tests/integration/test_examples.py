"""The examples do what they say, on a Ray of their own, at small size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        env={**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pool_of_workers_grows_and_shrinks_while_jobs_flow() -> None:
    out = run("worker_pool.py", "--steps", "1", "3", "1", "--rate", "500")
    assert "3 workers share 16 partitions [5, 5, 6]" in out
    sent, handled, twice = (int(word) for word in out.splitlines()[-1].replace(",", "").split() if word.isdigit())
    assert sent == handled > 0 and twice == 0
