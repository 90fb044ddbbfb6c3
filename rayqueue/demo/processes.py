"""The demo's service processes: started, listened to, and ended without leaving one behind."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import rayqueue
from rayqueue.demo.interrupts import undisturbed
from rayqueue.demo.services import Job, encode_job
from rayqueue.errors import RayQueueError

COMMAND = (sys.executable, "-m", "rayqueue.demo.services")
EXIT_WAIT_S = 5.0
ERROR_LINES = 30

Event = dict[str, Any]


class ServiceFailed(RayQueueError):
    """A service of the demo ended with an error, or stopped getting on."""


class ServiceProcess:
    """A service in its own process: `python -m rayqueue.demo.services`, in a session of its own.

    In a session of its own, so that Ctrl-C reaches the demo alone, which then ends the services in order. Should the
    demo be killed, the end of their standard input ends them.
    """

    def __init__(self, job: Job, tell: Callable[[str, Event], None]) -> None:
        """Starts the process; `tell(service, event)` is called from a thread for each of its events."""
        self.name = job.service
        self._tell = tell
        self._errors: deque[str] = deque(maxlen=ERROR_LINES)
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            start_new_session=True,
        )
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read_events, self._read_errors)]
        for thread in self._threads:
            thread.start()
        self._say(encode_job(job))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def go(self) -> None:
        """Lets the service begin."""
        self._say("go\n")

    def stop(self) -> None:
        """Asks a service that works without end to finish."""
        self._say("stop\n")

    def kill(self) -> None:
        """Ends the process with SIGKILL, without waiting."""
        self._process.kill()

    def errors(self) -> str:
        """The last lines the process wrote to standard error."""
        return "".join(self._errors)

    def terminate(self) -> None:
        """Asks the process to end, without waiting."""
        if self._process.poll() is None:
            self._process.terminate()

    def end(self) -> None:
        """Ends the process, by force if it does not listen, and waits until it is gone."""
        self.terminate()
        try:
            self._process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _close(pipe)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has ended; `_read_events` tells so, with its exit status

    def _read_events(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._tell(self.name, json.loads(line))
        self._tell(self.name, {"event": "exit", "status": self._process.wait()})

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)


class Services:
    """All services of a run. A context manager: none is left when it ends."""

    def __init__(self) -> None:
        self._events: queue.Queue[tuple[str, Event]] = queue.Queue()
        self._processes: dict[str, ServiceProcess] = {}
        self._done: set[str] = set()
        self._killed: set[str] = set()

    def __enter__(self) -> Services:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with undisturbed():
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.end()

    def start(self, job: Job) -> None:
        """Starts a service."""
        self._processes[job.service] = ServiceProcess(job, lambda name, event: self._events.put((name, event)))

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by service."""
        return {name: process.pid for name, process in self._processes.items()}

    def wait_ready(self, timeout_s: float) -> None:
        """Returns once every service has said that it is ready.

        Raises:
            ServiceFailed: one ended or failed, or `timeout_s` passed without news.
        """
        waiting = set(self._processes)
        while waiting:
            name, event = self._next(timeout_s)
            if event["event"] == "ready":
                waiting.discard(name)

    def go(self, *names: str) -> None:
        """Lets these services begin."""
        for name in names:
            self._processes[name].go()

    def stop(self, *names: str) -> None:
        """Asks these services to finish, but for those that were killed."""
        for name in names:
            if name not in self._killed:
                self._processes[name].stop()

    def kill(self, name: str) -> int:
        """Kills a service: nobody waits for it any more. Its process id."""
        self._killed.add(name)
        self._done.add(name)
        self._processes[name].kill()
        return self._processes[name].pid

    def events(self, timeout_s: float) -> Iterator[tuple[str, Event]]:
        """Events "progress" and "done" as (service, event), until all services are done.

        Raises:
            ServiceFailed: a service failed or ended early, or no count of any changed for `timeout_s`.
        """
        counts: dict[str, Any] = {}
        moved = time.monotonic()
        while len(self._done) < len(self._processes):
            name, event = self._next(timeout_s)
            now = (event["event"], event["consumed"], event["produced"])
            if counts.get(name) != now:
                counts[name] = now
                moved = time.monotonic()
            elif time.monotonic() - moved > timeout_s:
                raise ServiceFailed(f"no message moved for {timeout_s:.0f} s; unfinished: {self._unfinished(counts)}")
            if event["event"] == "done":
                self._done.add(name)
            yield name, event

    def _unfinished(self, counts: dict[str, Any]) -> str:
        names = sorted(set(self._processes) - self._done)
        return ", ".join(f"{name} (consumed {counts[name][1]}, produced {counts[name][2]})" for name in names)

    def _next(self, timeout_s: float) -> tuple[str, Event]:
        while True:
            try:
                name, event = self._events.get(timeout=timeout_s)
            except queue.Empty:
                left = ", ".join(sorted(set(self._processes) - self._done))
                raise ServiceFailed(f"no news from {left} for {timeout_s:.0f} s") from None
            if event["event"] == "exit" and name in self._done and (event["status"] == 0 or name in self._killed):
                continue
            if event["event"] in ("failed", "exit"):
                raise self._failure(name, event)
            return name, event

    def _failure(self, name: str, event: Event) -> ServiceFailed:
        process = self._processes[name]
        process.end()
        what = event.get("error") or f"ended with status {event['status']}"
        return ServiceFailed(f"service {name!r} failed: {what}\n{process.errors()}".rstrip())


def _environment() -> dict[str, str]:
    """The environment of a service: it finds the very rayqueue that runs here."""
    root = str(Path(rayqueue.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was not read by a process that is gone
