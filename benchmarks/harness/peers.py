"""The peers of a run: prepared, started, watched, and stopped. One that cannot go on is left out, with a line."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.interruption import load_processes, running, send
from benchmarks.harness.report import LOG_FILE
from benchmarks.harness.system import Peer, PeerFailed, Say, System


@dataclass
class _Running:
    system: System
    block: contextlib.ExitStack


class Peers:
    """The peers of one run.

    Attributes:
        absent: peer → why it is not measured, or no longer, in one line.
    """

    def __init__(self, peers: Iterable[Peer], directory: Path, cache: Path, say: Say, log: Say) -> None:
        """For these peers; `log` takes what is too long to say."""
        self.absent: dict[str, str] = {}
        self._peers = list(peers)
        self._directory = directory
        self._cache = cache
        self._say = say
        self._log = log
        self._running: dict[str, _Running] = {}
        self._watched: list[int] = []
        self._stopping, self._stop = os.pipe()
        self._watch = threading.Thread(target=self._end_loads_of_the_dead, name="peers", daemon=True)

    def prepare(self) -> None:
        """Gets what the peers need; one that is missing is left out."""
        for peer in list(self._peers):
            try:
                missing = peer.missing(self._cache)
                if missing is None:
                    peer.prepare(self._cache, self._say)
            except Exception as error:
                missing = self._told(error)
            if missing is not None:
                self._peers.remove(peer)
                self._leave_out(peer.name, missing)

    def start(self) -> list[System]:
        """Starts them, each with a directory of its own; one that does not come up is left out."""
        for peer in self._peers:
            block = contextlib.ExitStack()
            directory = self._directory / peer.name
            directory.mkdir()
            try:
                system = block.enter_context(peer.start(directory, self._cache, self._say))
            except Exception as error:
                self._leave_out(peer.name, self._told(error))
                continue
            self._running[peer.name] = _Running(system, block)
            self._say(f"{peer.name} is up")
        servers = [pid for one in self.systems() for pids in one.processes().values() for pid in pids]
        self._watched = [os.pidfd_open(pid) for pid in servers if running(pid)]
        self._watch.start()
        return self.systems()

    def systems(self) -> list[System]:
        """Those that run."""
        return [one.system for one in self._running.values()]

    def dead(self) -> list[str]:
        """Those of whose servers at least one has ended by itself."""
        return [
            name
            for name, one in list(self._running.items())  # the watch looks too, while one is given up
            if not all(running(pid) for pids in one.system.processes().values() for pid in pids)
        ]

    def give_up(self, name: str, during: str) -> None:
        """Leaves out one that has died, and what is left of it stops."""
        died = self._running.pop(name)
        self._leave_out(name, f"it died during {during}; its ratios are missing from there on")
        self._close(name, died)

    def stop(self) -> None:
        """Stops all of them, the last first."""
        if self._watch.is_alive():
            os.write(self._stop, b".")
            self._watch.join()
        while self._running:
            self._close(*self._running.popitem())

    def _end_loads_of_the_dead(self) -> None:
        """Ends the load processes of a peer that has died: clients wait for minutes for servers that are gone.

        Sleeps in the kernel until a server ends or the peers are stopped (pidfd_open(2)).
        """
        poll = select.poll()
        for descriptor in (self._stopping, *self._watched):
            poll.register(descriptor, select.POLLIN)
        while self._stopping not in (ready := [descriptor for descriptor, _ in poll.poll()]):
            for descriptor in ready:
                poll.unregister(descriptor)
            for name in self.dead():
                self._say(f"{name} has died")
                send(load_processes(name), signal.SIGKILL)

    def _close(self, name: str, one: _Running) -> None:
        try:
            one.block.close()
        except Exception as error:
            # The rest of the run does not depend on it, and whatever it leaves is ended at the run's end.
            self._say(f"{name} did not stop in order: {error}")

    def _told(self, error: Exception) -> str:
        """What to say of a peer that could not be prepared or started; a bug in its file ends no run either."""
        if isinstance(error, PeerFailed):
            return str(error)
        self._log("".join(traceback.format_exception(error)))
        return f"{type(error).__name__}: {error} (see {LOG_FILE})"

    def _leave_out(self, name: str, why: str) -> None:
        self.absent[name] = " ".join(why.split())
        self._say(f"{name} is not measured: {self.absent[name]}")

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
