"""Faults of links: connections between chosen processes fall silent for a while, and come back."""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.cluster_status import ProcessStatus
from tests.chaos.faults_processes import Outcome, moved
from tests.chaos.links import Cut, Links
from tests.chaos.waiting import pause
from tests.chaos.world import NotPossible, World, killed

# Past replica.lag.time.max.ms as the runs set it, sessions, and the term of a coordinator.
CUT_S = 6.0
# Below it: the followers are in sync still when their leader is killed.
AHEAD_S = 1.0


def cut_leader_from_followers(world: World) -> Outcome:
    """A leader and its followers do not hear each other; both hear everybody else."""
    partition, leader = world.a_leader()
    leading, following = world.replicas({leader}), world.replicas(world.followers(partition))
    return Outcome(f"replica {leader} and its followers", _cut(world, _between(leading, following), partition))


def cut_broker_from_coordinator(world: World) -> Outcome:
    """A leader and its broker on one side, the coordinators on the other (but for one on the same node)."""
    partition, leader = world.a_leader()
    there = world.processes()
    mine = [one for one in there if one.broker_id == leader]
    nodes = {one.node_id for one in mine}
    coordinators = [one for one in there if one.role == "coordinator" and one.node_id not in nodes]
    coordinators = coordinators or [one for one in there if one.role == "coordinator"]
    return Outcome(f"broker {leader} and the coordinator", _cut(world, _between(mine, coordinators), partition))


def cut_clients_from_leader(world: World) -> Outcome:
    """All clients on one side, a leader on the other; the brokers tell them that it leads."""
    partition, leader = world.a_leader()
    ports = _ports(world.replicas({leader}))
    clients = set(_client_pids(world))
    return Outcome(
        f"clients and replica {leader}", _cut(world, lambda pid, port: pid in clients and port in ports, partition)
    )


def cut_node_off(world: World) -> Outcome:
    """A broker and its replica actors hear nobody else, and nobody hears them."""
    partition, leader = world.a_leader()
    there = world.processes()
    mine = [one for one in there if one.broker_id == leader]
    pids, ports = {one.pid for one in mine}, _ports(mine)
    return Outcome(
        f"broker {leader} and all else", _cut(world, lambda pid, port: (pid in pids) != (port in ports), partition)
    )


def cut_and_kill_leader(world: World) -> Outcome:
    """Followers do not hear their leader for a moment, then it is killed: what it alone has must not be acked."""
    partition, leader = world.a_leader()
    before = world.leaders()
    leading, following = world.replicas({leader}), world.replicas(world.followers(partition))
    pids = [one.pid for one in [*leading, *following]]
    with _links(world).cut(_between(leading, following), pids) as count:
        pause(AHEAD_S)
        silent = count()
        ended = killed([one.pid for one in leading])
        proof = f"{silent} connections were silent for {AHEAD_S:g} s; {ended}; {moved(world, before, {leader})}"
    return Outcome(f"replica {leader}", proof if silent else "")


def _cut(world: World, cut: Cut, partition: int) -> str:
    """Cuts for a while; what was seen of it."""
    before = _in_sync(world, partition)
    pids = [one.pid for one in world.processes()] + _client_pids(world)
    with _links(world).cut(cut, pids) as count:
        at_once = count()
        pause(CUT_S)
        now = _in_sync(world, partition)
        most = max(at_once, count())
    if not most:
        return ""
    return f"{most} connections were silent for {CUT_S:g} s; p{partition} was {before}, then {now}"


def _links(world: World) -> Links:
    if world.links is None:
        raise NotPossible("connections are direct")
    return world.links


def _in_sync(world: World, partition: int) -> str:
    """Leader and ISR of a partition, as a broker that answers tells them."""
    found = world.describe().partitions[partition]
    return f"led by {found.leader} (epoch {found.leader_epoch}) with {found.isr} in sync"


def _between(some: Iterable[ProcessStatus], others: Iterable[ProcessStatus]) -> Cut:
    """Links from some to others, and from others to some."""
    a, b = list(some), list(others)
    a_pids, b_pids, a_ports, b_ports = {p.pid for p in a}, {p.pid for p in b}, _ports(a), _ports(b)
    return lambda pid, port: (pid in a_pids and port in b_ports) or (pid in b_pids and port in a_ports)


def _ports(processes: Iterable[ProcessStatus]) -> set[int]:
    return {int(one.endpoint.rpartition(":")[2]) for one in processes if one.endpoint}


def _client_pids(world: World) -> list[int]:
    return [client.process.pid for client in world.workload.clients.values() if client.running]
