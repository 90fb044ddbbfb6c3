"""The workload's processes, seen from the run: started, killed, told to end; none outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
END_WAIT_S = 120.0


@dataclass
class Client:
    """One process. name: its role and number, and behind a dot which life of it this is."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def tell_to_end(self) -> None:
        """Returns at once."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self.process.stdin.close()

    def wait(self, timeout_s: float) -> str:
        """ "" when it ended well; else what is wrong."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self.name} did not end in {timeout_s:g} s"
        return f"{self.name} ended with status {status}" if status else ""

    def kill(self) -> None:
        """kill -9, and waits for it."""
        self.process.kill()
        self.process.wait()


@dataclass
class Workload:
    """Producers and consumers of one topic, and a group of members.

    Attributes:
        directory: their histories and what they wrote to standard error go there.
    """

    directory: Path
    servers: str
    topic: str
    partitions: int
    seed: int
    rate: float
    acks: str = "all"
    clients: dict[str, Client] = field(default_factory=dict)
    _lives: dict[str, int] = field(default_factory=dict)

    MEMBERS = ("member-a", "member-b", "member-c")
    ROLES = ("producer-rows", "producer-tables", "consumer-streamed", "consumer-mapped", *MEMBERS)

    def start(self) -> None:
        """One of each role."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for role in self.ROLES:
            self.start_client(role)

    def start_client(self, role: str, *more: str) -> Client:
        """A client of a role, under a name that no other had."""
        life = self._lives[role] = self._lives.get(role, -1) + 1
        name = f"{role}.{life}"
        kind = "producer" if role.startswith("producer") else "consumer"
        module = ["tests.chaos.member"] if role in self.MEMBERS else ["tests.chaos.workload", kind]
        command = [sys.executable, "-m", *module, f"--name={name}"]
        command += [f"--history={self.directory / name}.jsonl", f"--servers={self.servers}", f"--topic={self.topic}"]
        command += [f"--partitions={self.partitions}", f"--seed={self.seed}{life}", *more]
        if kind == "producer":
            command += [f"--rate={self.rate}", f"--acks={self.acks}"]
        command += [f"--{how}" for how in ("tables", "mapped") if role.endswith(how)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with (self.directory / f"{name}.err").open("wb") as errors:
            # A session of its own: Ctrl-C on the terminal is for the run, which tells them to end.
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=errors, cwd=ROOT, env=environment, start_new_session=True
            )
        client = self.clients[role] = Client(name, process)
        return client

    def restart(self, role: str) -> tuple[Client, Client]:
        """Kills a client with SIGKILL and starts another in its place: (the one that was, the new one)."""
        before = self.clients[role]
        before.kill()
        return before, self.start_client(role)

    def end(self, kind: str) -> list[str]:
        """Tells all of a kind to end and waits for them; what is wrong."""
        ending = [client for role, client in self.clients.items() if role.startswith(kind)]
        for client in ending:
            client.tell_to_end()
        return [problem for client in ending if (problem := client.wait(END_WAIT_S))]

    def catch_up(self, timeout_s: float) -> list[str]:
        """Fresh consumers read everything from the beginning, over streams and mapped; what is wrong."""
        clients = [
            self.start_client(role, "--final", f"--end-timeout={timeout_s}")
            for role in ("final-streamed", "final-mapped")
        ]
        return [problem for client in clients if (problem := client.wait(timeout_s + END_WAIT_S))]

    def histories(self) -> list[Path]:
        """The files of all clients there ever were."""
        return sorted(self.directory.glob("*.jsonl"))

    def close(self) -> None:
        """Ends what still runs."""
        for client in self.clients.values():
            if client.running:
                os.kill(client.process.pid, signal.SIGCONT)  # it may be stopped
                client.kill()


@contextlib.contextmanager
def closing(workload: Workload) -> Iterator[Workload]:
    """The workload, ended at the end of the block whatever happens."""
    try:
        yield workload
    finally:
        workload.close()
