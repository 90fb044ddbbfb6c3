"""Processes that make load: an object of a class, in a process of its own, called over its pipes.

A load is a class with keyword arguments that JSON can carry; so are its methods. It knows the cluster by address.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol

EXIT_WAIT_S = 10.0


class LoadFailed(RuntimeError):
    """A load process raised or ended; the message carries its traceback."""


class Load(Protocol):
    """A load, wherever it runs."""

    @property
    def pid(self) -> int | None: ...

    def begin(self, method: str, **arguments: Any) -> Future[Any]:
        """Starts a method; the result comes with the future. One at a time."""
        ...

    def call(self, method: str, **arguments: Any) -> Any:
        """Runs a method."""
        ...

    def close(self) -> None:
        """Closes the object and ends its process."""
        ...


class ProcessLoad:
    """A load in a process of its own."""

    def __init__(self, kind: type, label: str, **arguments: Any) -> None:
        """Starts the process and makes the object there; `label` is what accounting calls it."""
        self._label = label
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.harness.load_process", path_of(kind), label],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,  # Ctrl-C is the suite's, which ends its loads
        )
        try:
            self._ask("__init__", arguments)
        except LoadFailed:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def begin(self, method: str, **arguments: Any) -> Future[Any]:
        """Starts a method; the result comes with the future. One at a time."""
        future: Future[Any] = Future()
        self._say(method, arguments)
        Thread(target=self._wait, args=(future,), daemon=True).start()
        return future

    def call(self, method: str, **arguments: Any) -> Any:
        """Runs a method in the process.

        Raises:
            LoadFailed: it raised there, or the process ended.
        """
        return self._ask(method, arguments)

    def close(self) -> None:
        """Ends the process; its object's `close` runs there first."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.poll() is None:
            self._process.stdin.close()
        try:
            self._process.wait(EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, method: str, arguments: dict[str, Any]) -> Any:
        self._say(method, arguments)
        return self._answer()

    def _say(self, method: str, arguments: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(f"load {self._label} ended with status {self._process.wait()}")
        ok, value = json.loads(line)
        if not ok:
            raise LoadFailed(f"load {self._label} failed:\n{value}")
        return value

    def _wait(self, future: Future[Any]) -> None:
        try:
            future.set_result(self._answer())
        except Exception as error:
            future.set_exception(error)

    def __enter__(self) -> ProcessLoad:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def resolve(path: str) -> type:
    """The class at `module:name`."""
    module, _, name = path.partition(":")
    kind = getattr(importlib.import_module(module), name)
    assert isinstance(kind, type)
    return kind


class Anew:
    """A load that holds another, which it makes anew as often as it is asked to.

    Readers are bound to their topics, and processes are slow to start: a workload that needs a fresh topic in every
    round keeps the process and changes what is in it.

    Args:
        of: the class of the other, "module:name".
        arguments: what it is always made with.
    """

    def __init__(self, of: str, **arguments: Any) -> None:
        self._kind = resolve(of)
        self._arguments = arguments
        self._load: Any = None

    def make(self, **arguments: Any) -> None:
        """Makes the other, in place of the one before."""
        self.close()
        self._load = self._kind(**self._arguments, **arguments)

    def run(self, **arguments: Any) -> Any:
        """Calls its `run`."""
        return self._load.run(**arguments)

    def check(self) -> None:
        """Calls its `check`."""
        self._load.check()

    def close(self) -> None:
        """Closes the other, if there is one."""
        if self._load is not None:
            load, self._load = self._load, None
            load.close()


def path_of(kind: type) -> str:
    """ "module:name", as `resolve` takes it."""
    return f"{kind.__module__}:{kind.__qualname__}"
