"""Service processes: their events arrive, their errors are shown, none is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from rayqueue.demo import processes
from rayqueue.demo.flow import Flow
from rayqueue.demo.processes import ServiceFailed, Services
from rayqueue.demo.services import Job, encode_job

# The real entry point, with services made up here.
SCRIPT = """
import os, sys, threading
from rayqueue.demo import services

def counts(job, report, wait):
    wait()
    for n in range(1, 4):
        report.produced["flights"] = n
        report.tell("progress")
    return [{"label": "x"}]

def fails(job, report, wait):
    wait()
    raise ValueError("no such thing")

def exits(job, report, wait):
    print("last words", file=sys.stderr)
    sys.stderr.flush()
    os._exit(3)

def stuck(job, report, wait):
    wait()
    threading.Event().wait()

def idle(job, report, wait):
    wait()
    pause = threading.Event()
    while not pause.wait(0.01):
        report.tell("progress")

def endless(job, report, wait):
    stop = wait()
    while not stop.wait(0.01):
        report.produced["flights"] = report.produced.get("flights", 0) + 1
        report.tell("progress")
    return [{"label": "stopped"}]

services.SERVICES = dict(endless=endless, counts=counts, fails=fails, exits=exits, stuck=stuck, idle=idle)
services.main()
"""


@pytest.fixture(autouse=True)
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", SCRIPT))


def _job(service: str) -> Job:
    return Job(service, "127.0.0.1:1", None, {})


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _run(*names: str, timeout_s: float = 20.0) -> tuple[Flow, Callable[[], list[int]]]:
    flow = Flow()
    pids: list[int] = []
    with Services() as services:
        for name in names:
            services.start(_job(name))
        pids += services.pids.values()
        services.wait_ready(20.0)
        services.go(*names)
        for name, event in services.events(timeout_s):
            flow.take(name, event)
    return flow, lambda: [pid for pid in pids if not _gone(pid)]


def test_events_and_results_arrive() -> None:
    flow, left = _run("counts")
    assert flow.produced == {"flights": 3}
    assert flow.results == {"counts": [{"label": "x"}]}
    assert flow.seconds["counts"] > 0
    assert left() == []


def test_an_error_in_a_service_is_shown_and_ends_the_others() -> None:
    with pytest.raises(ServiceFailed, match=r"(?s)'fails' failed: ValueError: no such thing.*Traceback"), \
            Services() as services:  # fmt: skip
        services.start(_job("fails"))
        services.start(_job("stuck"))
        pids = list(services.pids.values())
        services.wait_ready(20.0)
        services.go("fails", "stuck")
        list(services.events(20.0))
    assert all(_gone(pid) for pid in pids)


def test_a_service_that_ends_early_is_noticed() -> None:
    with pytest.raises(ServiceFailed, match=r"(?s)'exits' failed: ended with status 3.*last words"):
        _run("exits")


def test_a_service_without_news_is_given_up_on() -> None:
    with pytest.raises(ServiceFailed, match="no news from stuck"):
        _run("stuck", timeout_s=0.3)


def test_a_service_that_only_waits_is_given_up_on() -> None:
    with pytest.raises(ServiceFailed, match=r"no message moved .* idle \(consumed \{\}, produced \{\}\)"):
        _run("idle", timeout_s=0.3)


def test_a_service_can_be_killed_and_another_let_in_later_and_asked_to_end() -> None:
    """In one script each name is a service of its own: here `stuck` is killed, and `endless` begins after that."""
    flow = Flow()
    with Services() as services:
        for name in ("counts", "stuck", "endless"):
            services.start(_job(name))
        services.wait_ready(20.0)
        services.go("counts", "stuck")
        for name, event in services.events(20.0):
            flow.take(name, event)
            if (name, event["event"]) == ("counts", "done"):
                services.kill("stuck")
                services.go("endless")
            if name == "endless" and event["event"] == "progress" and flow.produced["flights"] > 3:
                services.stop("stuck", "endless")
    assert flow.results == {"counts": [{"label": "x"}], "endless": [{"label": "stopped"}]}


def test_a_service_ends_when_the_demo_is_gone() -> None:
    service = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert service.stdin is not None and service.stdout is not None
    service.stdin.write(encode_job(_job("stuck")))
    service.stdin.flush()
    assert '"ready"' in service.stdout.readline()
    service.stdin.write("go\n")
    service.stdin.close()  # as the death of the demo's process would
    service.stdin = None
    _, errors = service.communicate(timeout=20)
    assert service.returncode == 1
    assert "the demo is gone" in errors
