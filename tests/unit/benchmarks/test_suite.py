"""A run around its workloads: exit status, peers that are missing or die, a full disk, interruption."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.harness import interruption, suite
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.interruption import running
from benchmarks.harness.loads import LoadFailed, ProcessLoad
from benchmarks.harness.report import Report
from benchmarks.harness.suite import Plan
from tests.unit.benchmarks.fakes import WAITS, FakePeer, failed, finds, plan

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")

KAFKA = "kafka"


def run(given: Plan) -> tuple[Report, str]:
    """The report and what was printed; afterwards nothing is left of the run's directory, and its files are there."""
    console = Console(record=True, width=200, file=io.StringIO(), markup=False)
    report = suite.run(given, console)
    assert given.data is not None and list(given.data.iterdir()) == []
    saved = json.loads((given.out / "results.json").read_text())
    assert saved["status"] == report.status and saved["interrupted"] == report.interrupted
    return report, console.export_text()


def line_of(text: str, word: str) -> str:
    (line,) = [line for line in text.splitlines() if word in line]
    return line


@pytest.mark.parametrize(
    ("must", "aim", "status", "verdict"), [(1.5, 3, 0, "must"), (1.5, 2, 0, "aim"), (2.5, 3, 1, "MISSED")]
)
def test_the_status_is_that_of_the_musts(tmp_path: Path, must: float, aim: float, status: int, verdict: str) -> None:
    report, text = run(plan(tmp_path, {"w1": finds(must, aim)}, FakePeer(KAFKA)))
    assert report.status == status
    assert "INCOMPLETE" not in text
    assert line_of(text.partition("All goals")[2], "w1   rows in").split()[-1] == verdict
    assert f"exit status {status}" in text
    assert ("MISSED w1: rows in, rayqueue / kafka" in text) == bool(status)


def test_without_kafka_the_table_is_incomplete(tmp_path: Path) -> None:
    missing = FakePeer(KAFKA, missing="there is no Java; on Debian: sudo apt install\n openjdk-17-jre-headless")
    report, text = run(plan(tmp_path, {"w1": finds(1.0)}, missing, FakePeer("redis")))
    assert report.status == 1
    told = line_of(text.partition("rayqueue starts")[0].partition("INCOMPLETE")[0], "kafka is not measured")
    assert told.endswith("there is no Java; on Debian: sudo apt install openjdk-17-jre-headless")
    assert text.count("INCOMPLETE: Kafka is not in this table (there is no Java") == 2  # at the beginning and the end
    assert "No figure is carried over from another machine" in text
    assert [outcome.workload for outcome in report.outcomes] == ["w1"]
    assert list(report.systems) == ["rayqueue", "redis"]
    assert "INCOMPLETE" in (tmp_path / "out" / "table.md").read_text()


def test_a_smoke_run_judges_nothing(tmp_path: Path) -> None:
    report, text = run(plan(tmp_path, {"w1": finds(9.0)}, FakePeer(KAFKA), smoke=True))
    assert report.status == 0
    assert "MISSED" not in text
    assert "no figure here means anything" in text


@pytest.mark.parametrize("error", [failed("the port 9092 is taken; end what listens there"), TypeError("a bug")])
def test_a_peer_that_does_not_come_up_is_left_out(tmp_path: Path, error: Exception) -> None:
    report, text = run(plan(tmp_path, {"w1": finds(1.0)}, FakePeer(KAFKA), FakePeer("redis", fails=error)))
    assert report.status == 0
    assert str(error) in report.absent["redis"]
    assert "redis is not measured: " in text and str(error) in text
    assert ("Traceback" in (tmp_path / "out" / "log.txt").read_text()) == isinstance(error, TypeError)


def test_a_workload_that_raises_does_not_end_the_run(tmp_path: Path) -> None:
    def raises(bench: Bench) -> Outcome:
        raise ValueError("readers saw different data")

    report, text = run(plan(tmp_path, {"w2": raises, "w1": finds(1.0)}, FakePeer(KAFKA)))
    assert report.status == 1
    assert "w2 failed: ValueError: readers saw different data" in text
    assert [outcome.workload for outcome in report.outcomes] == ["w1"]
    assert "in raises" in json.loads((tmp_path / "out" / "results.json").read_text())["failures"]["w2"]
    assert "in raises" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize("notices", [True, False])
def test_a_peer_that_dies_in_the_middle_is_left_out_from_there(tmp_path: Path, notices: bool) -> None:
    kafka = FakePeer(KAFKA)
    seen: list[list[str]] = []

    def kills(bench: Bench) -> Outcome:
        seen.append([system.name for system in bench.systems])
        if kafka.started:
            server = kafka.started.server
            assert server is not None
            server.kill()
            server.wait()
            if notices:
                raise LoadFailed("no broker")
        return finds(1.0, name="w2")(bench)

    report, text = run(plan(tmp_path, {"w1": finds(1.0), "w2": kills, "w3": finds(1.0, name="w3")}, kafka))
    assert seen == [["rayqueue", "kafka"], ["rayqueue"]]
    assert report.status == 1 and not report.failures
    assert "kafka is not measured: it died during w2; its ratios are missing from there on" in text
    assert [outcome.workload for outcome in report.outcomes] == ["w1", "w2", "w3"]
    assert [len(outcome.figures) for outcome in report.outcomes] == [3, 1, 1]  # what was measured before stays


class Waiting:
    """A load that waits for a server that will not answer."""

    def wait(self) -> None:
        threading.Event().wait(100)

    def close(self) -> None:
        """Nothing to close."""


def test_loads_do_not_wait_for_a_peer_that_has_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Waiting, "__module__", "tests.unit.benchmarks.test_suite")
    kafka = FakePeer(KAFKA)

    def waits(bench: Bench) -> Outcome:
        if kafka.started:
            with bench.process(Waiting, "rayqueue-waiting") as ours, bench.process(Waiting, "kafka-waiting") as theirs:
                waiting = theirs.begin("wait")
                assert kafka.started.server is not None
                kafka.started.server.kill()
                assert isinstance(waiting.exception(30), LoadFailed)
                assert ours.pid is not None and running(ours.pid)
            raise LoadFailed("it ended")
        return finds(name="w1")(bench)

    report, text = run(plan(tmp_path, {"w1": waits}, kafka, start_load=ProcessLoad))
    assert "kafka has died" in text
    assert [outcome.workload for outcome in report.outcomes] == ["w1"]


def test_a_disk_that_is_too_full_for_results_is_told_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = plan(tmp_path, {"w1": finds(1.0)}, FakePeer(KAFKA))
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1 if path == tmp_path else 1 << 40))
    told = suite.too_full(given)
    assert told.startswith("results take some MB") and "choose another with --out" in told


def test_a_disk_that_is_too_full_skips_the_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fills(bench: Bench) -> Outcome:
        usage = namedtuple("usage", ("total", "used", "free"))
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
        return finds(1.0)(bench)

    report, text = run(plan(tmp_path, {"w1": fills, "w2": finds(1.0)}, FakePeer(KAFKA)))
    assert report.status == 1
    told = line_of(text.partition("All goals")[0], "w2 is skipped")
    assert "GB of disk" in told and "choose another place with --dir" in told
    assert [outcome.workload for outcome in report.outcomes] == ["w1"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_and_keeps_what_was_found(tmp_path: Path, number: int) -> None:
    kafka = FakePeer(KAFKA)
    started: list[int] = []

    def is_interrupted(bench: Bench) -> Outcome:
        # One whose parent has ended, as a server has that puts itself into the background.
        parent = subprocess.run(
            [sys.executable, "-c", f"import subprocess; print(subprocess.Popen({WAITS!r}, stdout=2).pid, flush=True)"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        started.append(int(parent.stdout))
        assert kafka.started is not None and kafka.started.server is not None
        started.append(kafka.started.server.pid)
        os.kill(os.getpid(), number)
        raise AssertionError("the signal comes before this")

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    report, text = run(plan(tmp_path, {"w1": finds(1.0), "w2": is_interrupted, "w3": finds(1.0)}, kafka))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert report.status == 130
    assert [outcome.workload for outcome in report.outcomes] == ["w1"] and not report.failures
    assert len(started) == 2 and not any(map(running, started))
    assert "INTERRUPTED" in text and "INTERRUPTED" in (tmp_path / "out" / "table.md").read_text()


def test_a_block_that_waits_in_vain_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "UNWIND_WAIT_S", 0.05)

    def hangs(bench: Bench) -> Outcome:
        with subprocess.Popen(WAITS):  # its end waits for the process, which ends by itself much later
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal comes before this")

    report, _ = run(plan(tmp_path, {"w1": hangs}))
    assert report.status == 130


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_ends_the_run_too(tmp_path: Path) -> None:
    def loses_it(bench: Bench) -> Outcome:
        class Destroyed:
            def __del__(self) -> None:
                os.kill(os.getpid(), signal.SIGINT)

        Destroyed()
        return finds(1.0)(bench)

    report, _ = run(plan(tmp_path, {"w1": loses_it, "w2": finds(1.0)}, FakePeer(KAFKA)))
    assert report.status == 130 and report.outcomes == []


def test_plots_that_fail_leave_the_results(tmp_path: Path) -> None:
    def draw(results: dict[str, Any], out: Path) -> list[str]:
        raise ZeroDivisionError("no axis")

    report, text = run(plan(tmp_path, {"w1": finds(1.0)}, FakePeer(KAFKA), draw=draw))
    assert report.status == 1
    assert "drawing failed: ZeroDivisionError: no axis" in text and "rows in, rayqueue / kafka" in text


def test_a_second_signal_does_not_disturb_the_end(tmp_path: Path) -> None:
    def is_interrupted(bench: Bench) -> Outcome:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal comes before this")

    report, text = run(plan(tmp_path, {"w1": is_interrupted}, FakePeer(KAFKA)))
    assert report.status == 130
    assert "Stopping already" in text


def test_a_disk_that_is_full_where_results_go_is_told_and_everything_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = plan(tmp_path, {"w1": finds(1.0)}, FakePeer(KAFKA))

    def full(report: Report) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "save", full)
    monkeypatch.setattr(suite, "LOG_FILE", "missing/log.txt")
    monkeypatch.setattr(suite.Suite, "__post_init__", without_log(suite.Suite.__post_init__))
    console = Console(record=True, width=200, file=io.StringIO(), markup=False)
    report = suite.run(given, console)
    text = console.export_text()
    assert report.status == 1 and "writing the results failed: OSError: [Errno 28] No space left on device" in text
    assert "missing/log.txt: No such file or directory" in text and "Traceback" not in text
    assert "1 failed; exit status 1" in text


def without_log(init: Any) -> Any:
    """The log's directory vanishes once the run has begun, which is what a full disk does to it, too."""

    def begin(self: suite.Suite) -> None:
        (self.plan.out / "missing").mkdir(parents=True)
        init(self)
        shutil.rmtree(self.plan.out / "missing")

    return begin


def test_rayqueue_that_does_not_start_is_told(tmp_path: Path) -> None:
    def broken(directory: Path) -> Any:
        raise RuntimeError("no Ray")

    given = plan(tmp_path, {"w1": finds()}, FakePeer(KAFKA))
    report, text = run(Plan(**{**vars(given), "start_rayqueue": broken}))
    assert report.status == 1
    assert "the run failed: RuntimeError: no Ray" in text
