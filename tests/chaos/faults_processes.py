"""Faults of processes: kill -9 and SIGSTOP. Each gives what it hit and the proof that it took effect."""

from __future__ import annotations

from typing import NamedTuple

from rayqueue.cluster_status import ProcessStatus
from rayqueue.errors import RayQueueError
from tests.chaos.member import GROUP, SESSION_MS
from tests.chaos.waiting import NotYet, pause, until
from tests.chaos.world import NotPossible, World, killed, named, state, stopped

MOVED_WAIT_S = 15.0
BACK_WAIT_S = 60.0
SHORT_STOP_S = 1.0
# Past every lease: a session of a process, and the term of a coordinator.
LONG_STOP_S = 5.0
# Followers stand still for so long before their leader is killed.
STILL_S = 0.4


class Outcome(NamedTuple):
    """What was hit, and what was seen of it; proof "": nothing."""

    target: str
    proof: str


def moved(world: World, before: dict[int, tuple[int, int]], brokers: set[int]) -> str:
    """That what these brokers led is led under higher epochs, in words; "" if that does not come."""
    led = {partition: epoch for partition, (leader, epoch) in before.items() if leader in brokers}

    def risen() -> bool:
        now = world.leaders()
        return all(now[partition][1] > epoch and now[partition][0] >= 0 for partition, epoch in led.items())

    try:
        until(risen, MOVED_WAIT_S, "higher leader epochs")
    except NotYet:
        return ""
    now = world.leaders()
    moves = (f"p{p}: broker {before[p][0]} epoch {epoch} -> {now[p][0]} epoch {now[p][1]}" for p, epoch in led.items())
    return "; ".join(moves)


def _and(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def kill_leader(world: World) -> Outcome:
    """kill -9 of the replica actor that leads a partition."""
    _, leader = world.a_leader()
    before = world.leaders()
    targets = world.replicas({leader})
    ended = killed([one.pid for one in targets])
    return Outcome(", ".join(map(named, targets)), _and(ended, moved(world, before, {leader})))


def kill_follower(world: World) -> Outcome:
    """kill -9 of a replica actor that follows in a partition (it may lead others)."""
    target = world.random.choice(world.replicas(world.followers(world.a_leader()[0])))
    return Outcome(named(target), killed([target.pid]))


def kill_broker(world: World) -> Outcome:
    """kill -9 of a broker's own process; its replica actors go on."""
    target = world.random.choice(world.processes("broker"))
    return Outcome(named(target), killed([target.pid]))


def kill_coordinator(world: World) -> Outcome:
    """kill -9 of the active coordinator."""
    target, epoch = world.active_coordinator(), world.coordinator_epoch()
    ended = killed([target.pid])
    return Outcome(named(target), _and(ended, _new_epoch(world, epoch)))


def _new_epoch(world: World, epoch: int) -> str:
    seen = [epoch]  # brokers learn of it one by one: the next one asked may not know yet

    def risen() -> bool:
        seen.append(world.coordinator_epoch())
        return seen[-1] > epoch

    try:
        until(risen, MOVED_WAIT_S, "a higher coordinator epoch")
    except NotYet:
        return ""
    return f"coordinator epoch {epoch} -> {seen[-1]}"


def kill_everything(world: World) -> Outcome:
    """kill -9 of all processes of the cluster at once."""
    targets = world.processes()
    ended = killed([one.pid for one in targets])
    return Outcome(f"{len(targets)} processes", ended)


def kill_leader_of_stopped(world: World) -> Outcome:
    """The followers stand still for a moment, then their leader is killed, and what it fed them is left to be read."""
    partition, leader = world.a_leader()
    before = world.leaders()
    targets = world.replicas({leader})
    with stopped([one.pid for one in world.replicas(world.followers(partition))]) as seen:
        pause(STILL_S)
        ended = killed([one.pid for one in targets])
    proof = _and(f"followers {seen}", ended, moved(world, before, {leader}))
    return Outcome(", ".join(map(named, targets)), proof)


def _stop(world: World, targets: list[ProcessStatus], seconds: float) -> str:
    before, brokers = world.leaders(), {one.broker_id for one in targets if one.role == "replica"}
    with stopped([one.pid for one in targets]) as seen:
        pause(seconds)
    now = world.leaders()
    moves = [
        f"p{p}: broker {leader} epoch {epoch} -> {now[p][0]} epoch {now[p][1]}"
        for p, (leader, epoch) in before.items()
        if leader in brokers and now[p][1] > epoch
    ]
    return _and(f"{seen} for {seconds:g} s", *(moves or ["no leader moved"] * bool(brokers)))


def stop_leader_shortly(world: World) -> Outcome:
    """SIGSTOP of a leading replica actor for a second."""
    targets = world.replicas({world.a_leader()[1]})
    return Outcome(", ".join(map(named, targets)), _stop(world, targets, SHORT_STOP_S))


def stop_leader(world: World) -> Outcome:
    """SIGSTOP of a leading replica actor, under a healthy broker, for longer than any lease; then it goes on."""
    targets = world.replicas({world.a_leader()[1]})
    return Outcome(", ".join(map(named, targets)), _stop(world, targets, LONG_STOP_S))


def stop_broker_and_replicas(world: World) -> Outcome:
    """SIGSTOP of a leader and its broker together, as when their machine stands still; then they go on."""
    _, leader = world.a_leader()
    targets = [one for one in world.processes() if one.broker_id == leader]
    return Outcome(", ".join(map(named, targets)), _stop(world, targets, LONG_STOP_S))


def stop_node(world: World) -> Outcome:
    """SIGSTOP of all that runs on the active coordinator's node, as when it is lost without a word; then it goes on."""
    coordinator, epoch = world.active_coordinator(), world.coordinator_epoch()
    targets = [one for one in world.processes() if one.node_id == coordinator.node_id]
    seen = _stop(world, targets, LONG_STOP_S)
    return Outcome(", ".join(map(named, targets)), _and(seen, _new_epoch(world, epoch)))


def stop_broker(world: World) -> Outcome:
    """SIGSTOP of a broker's own process for good: those beside it end it, and another one takes its place."""
    target = world.random.choice(world.processes("broker"))

    def replaced() -> bool:
        brokers = (one for one in world.processes("broker") if one.broker_id == target.broker_id)
        return any(one.pid != target.pid and one.state == "running" for one in brokers)

    with stopped([target.pid]) as seen:
        until(lambda: state(target.pid) != "T", BACK_WAIT_S, f"the end of {target.pid}")
        until(replaced, BACK_WAIT_S, f"another process of broker {target.broker_id}")
    return Outcome(named(target), f"{seen}; it was ended, and another one serves")


def stop_follower(world: World) -> Outcome:
    """SIGSTOP of a follower for longer than any lease."""
    target = world.random.choice(world.replicas(world.followers(world.a_leader()[0])))
    return Outcome(named(target), _stop(world, [target], LONG_STOP_S))


def stop_coordinator(world: World) -> Outcome:
    """SIGSTOP of the active coordinator past its term; when it goes on it must find out that it is none any more."""
    target, epoch = world.active_coordinator(), world.coordinator_epoch()
    seen = _stop(world, [target], LONG_STOP_S)
    now = world.coordinator_epoch()
    return Outcome(named(target), _and(seen, f"coordinator epoch {epoch} -> {now}"))


def _group_coordinator(world: World) -> ProcessStatus:
    """The process that serves the workload's group.

    Raises:
        NotPossible: none answers at present.
    """
    try:
        broker_id = world.admin.describe_group(GROUP).coordinator
    except RayQueueError as error:
        raise NotPossible(f"nobody serves the group: {error}") from error
    found = [one for one in world.cluster.processes("groups") if one.broker_id == broker_id]
    if not found:
        raise NotPossible(f"the group coordinator of broker {broker_id} does not answer")
    return found[0]


def _served_by_another(world: World, before: ProcessStatus) -> str:
    """That another process serves the group; "" if that does not come."""
    seen: list[ProcessStatus] = []

    def other() -> bool:
        try:
            seen.append(_group_coordinator(world))
        except NotPossible:
            return False
        return seen[-1].pid != before.pid

    try:
        until(other, BACK_WAIT_S, "another group coordinator")
    except NotYet:
        return ""
    return f"{named(seen[-1])} serves the group"


def kill_group_coordinator(world: World) -> Outcome:
    """kill -9 of the process that serves the group."""
    target = _group_coordinator(world)
    ended = killed([target.pid])
    return Outcome(named(target), _and(ended, _served_by_another(world, target)))


def stop_group_coordinator(world: World) -> Outcome:
    """SIGSTOP of the process that serves the group, for longer than any lease; then it goes on, unless it was ended."""
    target = _group_coordinator(world)
    return Outcome(named(target), _stop(world, [target], LONG_STOP_S))


def stop_member(world: World) -> Outcome:
    """SIGSTOP of a member of the group for longer than its session; then it goes on, and must find out."""
    client = world.workload.clients[world.random.choice(world.workload.MEMBERS)]
    with stopped([client.process.pid]) as seen:
        pause(SESSION_MS / 1000 + SHORT_STOP_S)
    return Outcome(client.name, f"{seen} for {SESSION_MS / 1000 + SHORT_STOP_S:g} s")


def kill_client(world: World) -> Outcome:
    """kill -9 of a producer, consumer or member; another takes its place, under another name."""
    role = world.random.choice(world.workload.ROLES)
    before, after = world.workload.restart(role)
    return Outcome(before.name, f"status {before.process.returncode}; {after.name} took its place")


def rolling_restart(world: World) -> Outcome:
    """Every process is ended, one after the other; each is back, and all replicas in sync, before the next."""
    moves = []
    for target in world.processes():
        killed([target.pid])

        def back(target: ProcessStatus = target) -> ProcessStatus | None:
            place = (target.role, target.broker_id, target.slot)
            same = (one for one in world.processes(target.role) if (one.role, one.broker_id, one.slot) == place)
            return next((one for one in same if one.pid != target.pid and one.state == "running"), None)

        found = until(back, BACK_WAIT_S, f"a new {target.role}")
        until(world.all_in_sync, BACK_WAIT_S, "all replicas in sync")
        moves.append(f"{named(target)} -> {found.pid}")
    return Outcome(f"{len(moves)} processes", ", ".join(moves))
