"""`rayqueue start`, `status`, `doctor`, `shutdown` on a real Ray, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rayqueue

pytestmark = pytest.mark.integration

# A Ray of its own, so that no other on this machine is touched; then commands as a user types them, one after another.
SCRIPT = """
import sys
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
from rayqueue.cli.main import cli
for line in sys.argv[1:]:
    try:
        cli.main(args=line.split(), prog_name="rayqueue")
    except SystemExit as end:
        print(f"{line.split()[0]} -> {end.code or 0}", file=sys.stderr, flush=True)
ray.shutdown()
"""


def run(*lines, data_dir):
    root = str(Path(rayqueue.__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": root, "RAYQUEUE_BOOTSTRAP": "auto", "RAYQUEUE_DATA_DIR": str(data_dir)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *lines], env=env, capture_output=True, text=True, timeout=150, cwd=data_dir
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def documents(text):
    """All JSON values that stand one after another in a text, which has nothing else."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        value, at = decoder.raw_decode(text, at)
        found.append(value)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


@pytest.mark.timeout(180)
def test_a_clusters_life_on_the_command_line(tmp_path):
    done = run(
        f"start --brokers 1 -c num.replica.actors=1 --data-dir {tmp_path / 'elsewhere'} --json",
        "topic create clicks -p 2 --json",
        "status --json",
        "doctor --json",
        "shutdown --name typo --json",
        "shutdown --json",
        "status",
        data_dir=tmp_path,
    )
    started, created, status, doctor, typo, stopped = documents(done.stdout)
    assert started["name"] == "default" and started["bootstrap_servers"].startswith("grpc://")
    assert created["name"] == "clicks" and len(created["partitions"]) == 2
    assert status["healthy"] and status["partitions"] == 2
    assert doctor["healthy"], doctor
    assert any(check["name"].startswith("node ") and check["result"] == "ok" for check in doctor["checks"])
    found = {check["name"]: check["found"] for check in doctor["checks"]}
    assert "elsewhere" in found["data directory"] and "held by the running cluster" in found["locks"]
    assert typo == {"name": "typo", "stopped": False}
    assert stopped == {"name": "default", "stopped": True}
    codes = [line for line in done.stderr.splitlines() if " -> " in line]
    assert codes[:6] == ["start -> 0", "topic -> 0", "status -> 0", "doctor -> 0", "shutdown -> 0", "shutdown -> 0"]
    assert codes[-1] == "status -> 1" and "rayqueue start" in done.stderr
