"""Faults of whole nodes: a node lost with or without its disk, all of Ray lost, a disk that is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import ray

from rayqueue.errors import ConfigError
from tests.chaos.faults_processes import BACK_WAIT_S, Outcome
from tests.chaos.ray_cluster import Node
from tests.chaos.waiting import NotYet, pause, until
from tests.chaos.world import NotPossible, World

AWAY_S = 3.0
# Ray counts a node as alive for a while after all of its processes have ended.
NOTICED_WAIT_S = 60.0
FULL_S = 8.0
MEGABYTE = b"\0" * (1 << 20)


def lose_node(world: World) -> Outcome:
    """All processes of a node are killed at once; some seconds later it is back, with its disk."""
    until(world.all_vote, BACK_WAIT_S, "three coordinators that vote before one is lost with its node")
    node = _victim(world)
    brokers = _brokers_on(world, node)
    pids, gone = _lose(world, node, with_disk=False)
    world.cluster.start_node(node)
    until(lambda: brokers <= _running(world), BACK_WAIT_S, f"brokers {sorted(brokers)} on their node again")
    return Outcome(f"node {node.number} with brokers {sorted(brokers)}", f"{len(pids)} processes ended; {gone}")


def lose_node_and_disk(world: World) -> Outcome:
    """A node is lost with its disk, for good; an empty one takes its place, and its replicas are moved there."""
    if stuck := world.lost & {broker for replicas in world.assignment().values() for broker in replicas}:
        raise NotPossible(f"brokers {sorted(stuck)}, whose disks are lost already, still have replicas to make up for")
    # Nothing that was acked may stand on this disk and one other that is away, only.
    until(world.all_in_sync, BACK_WAIT_S, "all replicas in sync before a disk is lost")
    until(world.all_vote, BACK_WAIT_S, "three coordinators that vote before a disk is lost")
    node = _victim(world)
    brokers = _brokers_on(world, node)
    there = _running(world)
    pids, gone = _lose(world, node, with_disk=True)
    proof = f"{len(pids)} processes ended; {gone}; {node.home} is {'there' if any(node.home.glob('*')) else 'empty'}"
    world.lost |= brokers
    world.cluster.start_node(node)
    new = until(lambda: _running(world) - there, BACK_WAIT_S, "a broker on the new node")
    proof += f"; broker {sorted(new)} is new; {_move(world, brokers, min(new))}"
    return Outcome(f"node {node.number} with brokers {sorted(brokers)}", proof)


def _move(world: World, lost: set[int], to: int) -> str:
    """The replicas of lost brokers are given to another."""
    wanted = {
        (world.workload.topic, partition): [to if broker in lost else broker for broker in replicas]
        for partition, replicas in world.assignment().items()
        if lost & set(replicas)
    }
    try:
        world.admin.reassign_partitions(wanted)
    except ConfigError as error:
        return f"its replicas stay where they were: {error}"

    def moved() -> bool:
        there = world.assignment()
        return all(set(there[partition]) == set(replicas) for (_, partition), replicas in wanted.items())

    until(moved, BACK_WAIT_S, f"the replicas of {sorted(lost)} on broker {to}")
    return f"{len(wanted)} replicas were moved to broker {to}"


def lose_ray(world: World) -> Outcome:
    """All of Ray is killed, its head and the GCS too, and started again on the same directories: all data is there."""
    before = world.cluster.servers
    pids = world.cluster.lose_ray()
    pause(AWAY_S)
    world.cluster.start()
    now = world.cluster.servers
    if missing := set(before.split(",")) - set(now.split(",")):
        raise NotYet(f"clients know {', '.join(missing)}, the cluster is at {now}")
    return Outcome("Ray, with all its nodes", f"{len(pids)} processes ended; started again on the same addresses")


def fill_disk(world: World) -> Outcome:
    """The disk of a node is full for some seconds, then there is room again."""
    node = next((one for one in world.cluster.nodes if os.path.ismount(one.home)), None)
    if node is None:
        raise NotPossible("no node has a small file system of its own (--disk, as root)")
    ballast = node.home / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            written = _fill(file.fileno())
        pause(FULL_S)
        free = os.statvfs(node.home).f_bavail
        seen = f"{written} bytes filled it up, {free} blocks were free {FULL_S:g} s later, {_complaints(node.data)}"
    finally:
        ballast.unlink(missing_ok=True)
    return Outcome(f"the disk of node {node.number}", seen)


def _fill(descriptor: int) -> int:
    written = 0
    for piece in (MEGABYTE, MEGABYTE[:4096]):
        try:
            while True:
                written += os.write(descriptor, piece)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return written


def _complaints(data: Path) -> str:
    """What the processes of the node say of it in their logs."""
    lines = sum(log.read_text().count("No space left") for log in (data / "logs").glob("*.log"))
    return f"{lines} lines of its logs say so"


def _victim(world: World) -> Node:
    """A node that can be lost alone: not the head, with which all of Ray goes."""
    return world.random.choice([node for node in world.cluster.nodes if node.number])


def _brokers_on(world: World, node: Node) -> set[int]:
    return {one.broker_id for one in world.processes("broker") if one.node_id == node.node_id}


def _running(world: World) -> set[int]:
    """Brokers that run, with all their replica actors."""
    there = world.cluster.processes()
    running = {
        role: {p.broker_id for p in there if (p.role, p.state) == (role, "running")} for role in ("broker", "replica")
    }
    return running["broker"] & running["replica"]


def _lose(world: World, node: Node, with_disk: bool) -> tuple[list[int], str]:
    node_id = node.node_id
    pids = world.cluster.lose_node(node, with_disk)
    pause(AWAY_S)

    def dead() -> bool:
        return any(one["NodeID"] == node_id and not one["Alive"] for one in ray.nodes())

    until(dead, NOTICED_WAIT_S, "Ray's notice of the loss")
    return pids, f"Ray counts node {node_id[:8]} as dead"
