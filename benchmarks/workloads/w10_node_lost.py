"""A node lost: Ray of three nodes on this machine, and kill -9 of everything on the one that leads, its raylet with it.

Each round has a Ray cluster of its own, in a process of its own, since a process can be connected to one Ray only and a
node that is lost does not come back. The node that is lost is not Ray's head: with that the Ray cluster would end. As
in `w10_kill`, records come and go at a steady pace; what is measured is the longest time without an ack. Connections
break when processes are killed; a machine that loses its power is silent, which this does not measure.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rayqueue
from benchmarks.goals import GOALS
from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.interruption import send
from benchmarks.workloads.three_brokers import CONFIG, NODES
from benchmarks.workloads.w10_clusters import REPLICA, elsewhere, has_processes, rounds, wait
from benchmarks.workloads.w10_kill import (
    KILLS_MAX,
    QUIET_S,
    Kill,
    check_alive_before,
    longest_gap_ms,
    steady_loads,
    stop,
)

NAME = "w10-nodes"
# A directory of its own for each node: they have other homes.
DATA = "~/data"
STORE_BYTES = 80 << 20
ROUNDS_S = 45.0
# Watched after the loss: twice the goal.
WATCH_S = 6.0
MS_S = 1000


class ThreeNodes:
    """Ray of three nodes with a broker each; to be made in a process of its own.

    Args:
        directory: for the nodes' homes.
    """

    def __init__(self, directory: str) -> None:
        # The run's own Ray has put its mode of authentication here; nodes with another home do not find its token.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        import ray
        from ray.cluster_utils import Cluster

        self._ray = Cluster()
        self._nodes = {}
        for number in range(NODES):
            home = Path(directory, f"node-{number}")
            home.mkdir(parents=True)
            first = {} if number else {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
            node = self._ray.add_node(
                num_cpus=1, object_store_memory=STORE_BYTES, env_vars={"HOME": str(home)}, **first
            )
            self._nodes[node.node_id] = node
        ray.init(address=self._ray.address, log_to_driver=False, logging_level="ERROR")
        self._cluster = rayqueue.start(NAME, data_dir=DATA, config=CONFIG)

    def client(self) -> dict[str, Any]:
        """What clients connect with."""
        return {"bootstrap_servers": self._cluster.bootstrap_servers, "token": self._cluster.token}

    def topic(self) -> str:
        """A topic of three replicas whose leader is not on Ray's head; its name."""
        with rayqueue.AdminClient(**self.client()) as admin:
            for number in range(NODES):
                name = f"steady-{number}"
                admin.create_topic(name, 1, replication_factor=NODES)
                if self._leader(name) != self._ray.head_node.node_id:
                    return name
        raise AssertionError("Ray's head leads every topic: leaders are not spread over the nodes")

    def _leader(self, topic: str) -> str:
        """The node of the topic's leader."""
        found = rayqueue.status(NAME)
        broker_id = next(one for one in found.topics if one.name == topic).partitions[0].leader
        return next(one.node_id for one in found.processes if (one.role, one.broker_id) == (REPLICA, broker_id))

    def lose_leader(self, topic: str) -> int:
        """Kills everything on the leader's node at once; when that was (CLOCK_MONOTONIC, ns)."""
        node = self._nodes[self._leader(topic)]
        (raylet,) = node.all_processes["raylet"]
        pids = accounting.descendants(raylet.process.pid)
        at = time.monotonic_ns()
        send(pids, signal.SIGKILL)
        return at

    def close(self) -> None:
        """Ends all processes of this Ray, all of them this one's: in order it would wait for the node that is lost."""
        send(accounting.descendants(os.getpid())[1:], signal.SIGKILL)


def measure(bench: Bench, outcome: Outcome) -> None:
    """Loses a node of three, in some rounds."""
    if elsewhere(bench, outcome, "a node lost"):
        return
    if not has_processes(bench):
        outcome.notes.append("no node is lost: this cluster runs inside the benchmark's process")
        return
    gaps = [_lose(bench, number) for number in rounds(min(KILLS_MAX, bench.scale.repeats), ROUNDS_S)]
    outcome.add("node lost, RF 3, longest without acks", "s", [gap / MS_S for gap in gaps], GOALS["node_lost"])
    outcome.notes.append(
        "node lost: not the one with Ray's head, all of its processes killed at once with the raylet; the kernel lives "
        "on and breaks their connections, where a machine without power would be silent"
    )


def _lose(bench: Bench, number: int) -> float:
    """One round; the longest time without an ack, in ms."""
    bench.say("w10: losing a node")
    directory = bench.directory / f"w10-nodes-{number}"
    with ExitStack() as stack:
        nodes = stack.enter_context(bench.process(ThreeNodes, "three-nodes", directory=str(directory)))
        topic = nodes.call("topic")
        producer, consumer = steady_loads(bench, stack, nodes.call("client"), topic)
        quiet = time.monotonic_ns()
        wait(QUIET_S)
        at = nodes.call("lose_leader", topic=topic)
        wait(WATCH_S)
        lost = Kill("node", quiet, at, time.monotonic_ns(), 0.0)
        acks, _ = stop(producer, consumer)
    check_alive_before(acks, lost)
    return longest_gap_ms(acks, lost.at, lost.over)
