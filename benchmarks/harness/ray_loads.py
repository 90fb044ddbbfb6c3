"""Loads on the nodes of a Ray cluster: an actor, and so a process, for each; and on which node each of them belongs."""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from types import TracebackType
from typing import Any

from benchmarks.harness.loads import EXIT_WAIT_S, LoadFailed, resolve
from benchmarks.harness.ray_nodes import ASK_TIMEOUT_S, START_TIMEOUT_S, ClusterFailed, Node, ask

# Of one call of a load. Workloads wait for no longer than some minutes.
CALL_TIMEOUT_S = 900.0
# A moment of this machine's CLOCK_MONOTONIC; a load gets it as that of its node.
MOMENT = "begin_ns"
# Loads that must share a clock: one puts the moment into a record, the other one looks at its clock when it arrives.
SHARE_A_CLOCK = ("sender", "receiver")


class LoadActor:
    """Runs as an actor: a load and the calls of it. Arguments and results are JSON, as those of `ProcessLoad` are."""

    def __init__(self) -> None:
        self._load: Any = None

    def pid(self) -> int:
        """This process's id."""
        return os.getpid()

    def ask(self, kind: str, method: str, arguments: str) -> str:
        """Calls a method of the load, the first one `__init__` of the class `kind`; [true, result] or [false, why]."""
        try:
            given = json.loads(arguments)
            if method == "__init__":
                self._load = resolve(kind)(**given)
                return json.dumps([True, None])
            return json.dumps([True, getattr(self._load, method)(**given)])
        except Exception:
            return json.dumps([False, traceback.format_exc()])

    def close(self) -> None:
        """Closes the load."""
        if self._load is not None:
            self._load.close()


class RayLoad:
    """A load in an actor, and so a process, of its own; see `loads.Load`.

    Attributes:
        node: where it runs.
        label: what messages call it.
    """

    def __init__(self, node: Node, kind: type, label: str, **arguments: Any) -> None:
        """Starts the actor on the node and makes the object there.

        Raises:
            LoadFailed: it raised, or the node starts no process.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.node = node
        self.label = label
        self._kind = f"{kind.__module__}:{kind.__qualname__}"
        self._closed = False
        actor: Any = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(LoadActor)
        strategy = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        self._actor = actor.options(scheduling_strategy=strategy).remote()
        try:
            self._pid = int(self._wait(self._actor.pid.remote(), START_TIMEOUT_S))
            self._answer(self._ask("__init__", arguments))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process's id, as `Nodes` and, on this machine, everybody knows it."""
        return self.node.global_pid(self._pid)

    def begin(self, method: str, **arguments: Any) -> Future[Any]:
        """Starts a method; the result comes with the future. One at a time."""
        future: Future[Any] = Future()
        reference = self._ask(method, arguments)

        def wait() -> None:
            try:
                future.set_result(self._answer(reference))
            except Exception as error:
                future.set_exception(error)

        Thread(target=wait, name=self.label, daemon=True).start()
        return future

    def call(self, method: str, **arguments: Any) -> Any:
        """Runs a method there.

        Raises:
            LoadFailed: it raised there, the process ended, or it did not end in time.
        """
        return self._answer(self._ask(method, arguments))

    def close(self) -> None:
        """Closes the object and ends its process; one that hangs is killed. A second time it does nothing."""
        import ray

        if self._closed:
            return
        self._closed = True
        try:
            ray.get(self._actor.close.remote(), timeout=EXIT_WAIT_S)
        except ray.exceptions.RayError as error:
            # As with a process, whose complaint goes to standard error: what it measured is known by now.
            print(f"load {self.label} did not close: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        finally:
            ray.kill(self._actor, no_restart=True)
        self._wait_gone()

    def _wait_gone(self) -> None:
        pid = getattr(self, "_pid", None)
        if pid is None:
            return  # it did not come up
        waiting = self.node.agent.wait_gone.remote([pid], EXIT_WAIT_S)
        if self._wait(waiting, EXIT_WAIT_S + ASK_TIMEOUT_S):
            raise LoadFailed(f"load {self.label}, process {pid} on {self.node.name}, does not end")

    def _ask(self, method: str, arguments: dict[str, Any]) -> Any:
        if MOMENT in arguments:
            arguments = {**arguments, MOMENT: arguments[MOMENT] + self.node.clock_ns}
        return self._actor.ask.remote(self._kind, method, json.dumps(arguments))

    def _answer(self, reference: Any) -> Any:
        ok, value = json.loads(self._wait(reference, CALL_TIMEOUT_S))
        if not ok:
            raise LoadFailed(f"load {self.label} on {self.node.name} failed:\n{value}")
        return value

    def _wait(self, reference: Any, timeout_s: float) -> Any:
        try:
            return ask(reference, f"load {self.label} on {self.node.name}", timeout_s)
        except ClusterFailed as error:
            raise LoadFailed(str(error)) from error

    def __enter__(self) -> RayLoad:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Placement:
    """On which node a load runs: all nodes in turn, but for those whose place makes a difference to what is measured.

    * `arrow_out` reads the leader's files, so it runs on the leader's node; `arrow_out_streamed` on another one;
    * a topic's senders and receivers share a clock, so they run on one machine, not the leader's if there is another;
    * what plays no role of rayqueue's, such as a baseline, is about a machine, and runs on this one.
    """

    def __init__(self, nodes: list[Node], roles: dict[type, str], leader: Callable[[str], str]) -> None:
        """
        Args:
            roles: class of a load → the role it plays.
            leader: topic → id of the node with the leader of its partition 0.
        """
        self._nodes = nodes
        self._roles = roles
        self._leader = leader
        self._turn = itertools.cycle(nodes)
        self._clocks: dict[str, Node] = {}

    def choose(self, kind: type, topic: str | None) -> Node:
        """The node of the next load of this class, which uses this topic."""
        role = self._roles.get(kind)
        if role is None:
            return next(node for node in self._turn if node.here)
        if topic is None:
            return next(self._turn)
        if role == "arrow_out":
            return self._at_leader(topic)
        if role == "arrow_out_streamed":
            return self._elsewhere(topic)
        if role in SHARE_A_CLOCK:
            if topic not in self._clocks:
                self._clocks[topic] = self._elsewhere(topic)
            # Nodes of one machine have one clock.
            return next(node for node in self._turn if node.host == self._clocks[topic].host)
        return next(self._turn)

    def _at_leader(self, topic: str) -> Node:
        wanted = self._leader(topic)
        return next((node for node in self._nodes if node.node_id == wanted), self._nodes[0])

    def _elsewhere(self, topic: str) -> Node:
        """A node of another machine than the leader's, else another node, else the only one."""
        leader = self._at_leader(topic)
        turn = [next(self._turn) for _ in self._nodes]
        far = [node for node in turn if node.host != leader.host]
        other = [node for node in turn if node is not leader]
        return (far or other or turn)[0]
