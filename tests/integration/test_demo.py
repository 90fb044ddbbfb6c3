"""`rayqueue demo` on real Ray: twice in a row, stopped half-way, and with a service that is killed; nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "RAYQUEUE_TEST_RUN"
GONE_S = 20.0

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc"),
]


class Demo:
    """A run of the demo in its own process; whatever it starts carries a mark in its environment."""

    def __init__(self, data: Path, *options: str) -> None:
        self._mark = f"{MARK}={uuid.uuid4()}"
        name, _, value = self._mark.partition("=")
        self._data = data
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rayqueue", "demo", "--data-dir", str(data), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "local", name: value, "PYTHONUNBUFFERED": "1"},
        )

    def wait_for(self, text: str) -> None:
        """Reads standard output until a line with this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        pytest.fail(f"the demo ended without {text!r}: {self.process.communicate()[1]}")

    def marked(self) -> dict[int, str]:
        """Every process of this run that lives now, with its command line."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if self._mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                        if command:  # a zombie has none
                            found[int(entry.name)] = command
                except (FileNotFoundError, ProcessLookupError, PermissionError):
                    continue  # it ended since, or is not ours
        return found

    def assert_nothing_left(self) -> None:
        """No process of the run is alive shortly after, and no data is left."""
        deadline = time.monotonic() + GONE_S
        while (left := self.marked()) and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        assert left == {}
        assert list(self._data.iterdir()) == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts demos; one that still runs at the end of the test is killed."""
    runs: list[Demo] = []

    def begin(*options: str) -> Demo:
        runs.append(Demo(tmp_path / "data", *options))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            run.process.kill()
        run.process.communicate()


def test_run_twice_it_works_twice(start) -> None:
    for _ in range(2):
        demo = start("--flights", "5000", "--json")
        out, errors = demo.process.communicate(timeout=120)
        assert demo.process.returncode == 0, errors
        result = json.loads(out)
        assert result["ok"] is True
        assert result["checks"][0]["text"] == "5,000 flights in, 5,000 read back"
        assert len(result["brokers"]) == 3
        assert {topic["replication_factor"] for topic in result["topics"]} == {3}
        lost = result["failover"]
        assert 0 < lost["flights_in"] < 5000 and ["flights", 0] in lost["led"]
        assert 0 < lost["longest_without_ack_s"] < 10 and lost["in_sync_again_s"]
        group = result["group"]
        assert group["distinct"] == 5000 and group["again_foreign"] == 0 and group["taken"] and group["joined"]
        assert {topic["name"] for topic in result["topics"]} == {"flights", "weather", "delays"}
        demo.assert_nothing_left()


@pytest.mark.parametrize("moment", ["Starting 9 services", "kill -9"])
def test_ctrl_c_ends_everything(start, moment: str) -> None:
    demo = start()
    demo.wait_for(moment)
    demo.process.send_signal(signal.SIGINT)
    _, errors = demo.process.communicate(timeout=60)
    assert demo.process.returncode == 130, errors
    assert "Traceback" not in errors
    demo.assert_nothing_left()


def test_a_killed_service_fails_the_demo_and_is_named(start) -> None:
    demo = start()
    demo.wait_for("Starting 9 services")
    services = [pid for pid, command in demo.marked().items() if "rayqueue.demo.services" in command]
    assert len(services) == 9
    os.kill(services[0], signal.SIGKILL)
    _, errors = demo.process.communicate(timeout=60)
    assert demo.process.returncode == 1
    assert "failed: ended with status -9" in errors
    demo.assert_nothing_left()


@pytest.mark.slow
def test_all_flights(start) -> None:
    demo = start()
    out, errors = demo.process.communicate(timeout=150)
    assert demo.process.returncode == 0, errors
    assert "\n336,776 flights in, 336,776 read back\n" in out
    demo.assert_nothing_left()
