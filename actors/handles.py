"""Ray: names of our actors, how they are started, found, asked and ended. The only place that applies `ray.remote`.

Every actor is detached, takes no CPU, and has hard affinity to its node: its data lies there. Ray restarts its process
for ever; when the node is lost, the coordinator's reconciliation starts it anew where the disk turns up. A handle may
be stale and a call may hang, so every call has a timeout, and nothing that must be right rests on one.
"""

from __future__ import annotations

import functools
import logging
import re
import time
from typing import Any

import msgspec
import ray
import ray._private.state
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayqueue.actors.broker import Broker
from rayqueue.actors.coordinator import Coordinator
from rayqueue.actors.group_coordinator import GroupCoordinator
from rayqueue.actors.names import (
    NAMESPACE,
    broker_name,
    coordinator_name,
    group_coordinator_name,
    is_coordinator,
    replica_name,
)
from rayqueue.actors.nodes import NodeReport
from rayqueue.actors.options import BrokerOptions, CoordinatorOptions
from rayqueue.actors.placer import RayPlacer
from rayqueue.actors.ray_environment import runtime_env
from rayqueue.actors.replica_process import PartitionReplicaProcess
from rayqueue.errors import BrokerNotAvailable, ConfigError, RayQueueError, RequestTimeout

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 10.0
JOIN_TIMEOUT_S = 1.0
# Calls that an actor works on at once: `report` must be answered while `stop` or `format` is under way.
MAX_CONCURRENCY = 8

_NAME = re.compile(r"[a-zA-Z0-9._-]{1,100}")


def check_cluster_name(name: str) -> None:
    """Raises ConfigError unless a cluster can be called so."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
        raise ConfigError(f"a cluster's name is 1 to 100 characters from a-z, A-Z, 0-9, '.', '_', '-', not {name!r}")


def actor_names(cluster: str) -> list[str]:
    """The names of all actors of a cluster that Ray knows."""
    named = ray.util.list_named_actors(all_namespaces=True)
    return sorted(a["name"] for a in named if a["namespace"] == NAMESPACE and a["name"].startswith(cluster + "/"))


def any_cluster() -> bool:
    """Whether any actor of any cluster of ours is left."""
    return any(actor["namespace"] == NAMESPACE for actor in ray.util.list_named_actors(all_namespaces=True))


def find(name: str) -> Any | None:
    """The handle of an actor (it may be restarting, or die at any moment); None when Ray knows none of that name.

    A process that has looked a name up before gets the handle from its memory, and may not have heard that the actor
    was ended for good: so Ray's central state is asked, and such a handle is ended here too, which makes it forgotten.
    """
    for _ in range(2):
        try:
            handle = ray.get_actor(name, NAMESPACE)
        except ValueError:
            return None
        if ray._private.state.actors(handle._ray_actor_id.hex()).get("State") != "DEAD":
            return handle
        end(handle)
    return None


def ask(handle: Any, method: str, *args: Any, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    """Calls a method of an actor and returns its result.

    Raises:
        RayQueueError: what the method raised. RequestTimeout: no answer in time.
        BrokerNotAvailable: the actor is dead or restarting.
    """
    try:
        return ray.get(getattr(handle, method).remote(*args), timeout=timeout_s)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayQueueError):
            raise type(cause)(str(cause)) from error
        raise RayQueueError(f"{method} failed in its actor: {cause!r}") from error
    except ray.exceptions.GetTimeoutError:
        raise RequestTimeout(f"an actor did not answer {method} in {timeout_s:g} s") from None
    except ray.exceptions.RayError as error:
        raise BrokerNotAvailable(f"an actor cannot be reached: {str(error).splitlines()[0]}") from error


def ask_any(some: list[Any], method: str, timeout_s: float) -> Any:
    """Calls a method of several actors at once and returns the first result that is no refusal (a str).

    Raises:
        BrokerNotAvailable: none of them gives one, at least not in time.
    """
    asked = [getattr(handle, method).remote() for handle in some]
    deadline = time.monotonic() + timeout_s
    refusals = [f"none of {len(some)} answered {method} in {timeout_s:g} s"]
    while asked:
        done, asked = ray.wait(asked, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            break
        try:
            answer = ray.get(done[0], timeout=timeout_s)
        except ray.exceptions.RayError as error:
            refusals.append(str(error).splitlines()[0])
            continue
        if not isinstance(answer, str):
            return answer
        refusals.append(answer)
    raise BrokerNotAvailable(refusals[-1])


def _start(kind: type, name: str, node_id: str, python_path: str, *args: Any) -> Any | None:
    """Starts an actor on a node; does not wait for it to be up. None when one of that name is there."""
    if find(name) is not None:
        return None
    remote: Any = ray.remote(kind)
    options = remote.options(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=MAX_CONCURRENCY,
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        runtime_env=runtime_env(python_path),
    )
    try:
        return options.remote(*args)
    except ray.exceptions.ActorAlreadyExistsError:
        return None


def start_coordinator(options: CoordinatorOptions, nodes: list[NodeReport]) -> Any | None:
    """Starts a coordinator on its node; the active one starts the brokers and the other coordinators. None when there
    is one of this name: somebody else started it.

    nodes: what is known of them already.
    """
    placer = functools.partial(RayPlacer, start_broker=start_broker, start_coordinator=start_coordinator, nodes=nodes)
    name = coordinator_name(options.name, options.coordinator_id)
    made = _start(Coordinator, name, options.node_id, options.python_path, options, placer)
    if made is None and options.cluster_id:
        _have_join(name, options)
    return made


def _have_join(name: str, options: CoordinatorOptions) -> None:
    """One that founded a cluster and lost its directory is restarted as a founder: it must not found another one."""
    handle = find(name)
    try:
        if handle is not None and ask(handle, "report", timeout_s=JOIN_TIMEOUT_S).standing == "empty":
            ask(handle, "join", options.cluster_id, dict(options.peers), timeout_s=JOIN_TIMEOUT_S)
    except RayQueueError as error:
        log.debug("%s does not answer: %s", name, error)


def coordinators(cluster: str) -> dict[str, Any]:
    """Name → handle of the coordinators that Ray knows."""
    found = {name: find(name) for name in actor_names(cluster) if is_coordinator(name)}
    return {name: handle for name, handle in found.items() if handle is not None}


def start_broker(options: BrokerOptions) -> None:
    """Starts a broker on its node, and its replica actors beside it.

    From then on it is the broker that sees to them; to start them all at once only saves the time of a process start.
    They wait until their broker has registered. Its group coordinator is started by the broker, once there are groups.
    """
    start = functools.partial(start_replica, options)
    name = broker_name(options.name, options.broker_id)
    start_groups = functools.partial(start_group_coordinator, options)
    _start(Broker, name, options.node_id, options.python_path, options, start, start_groups)
    for slot in range(options.pool_size):
        start(slot)


def start_replica(options: BrokerOptions, slot: int) -> None:
    """Starts a replica actor of a broker, on the broker's node; one that stands by, if there is no such slot."""
    mine = msgspec.structs.replace(options, logging=options.replica_logging(slot))
    name = replica_name(options.name, options.broker_id, slot)
    _start(PartitionReplicaProcess, name, options.node_id, options.python_path, mine, slot)


def start_group_coordinator(options: BrokerOptions) -> None:
    """Starts a broker's group coordinator, on the broker's node."""
    mine = msgspec.structs.replace(options, logging=options.groups_logging)
    name = group_coordinator_name(options.name, options.broker_id)
    _start(GroupCoordinator, name, options.node_id, options.python_path, mine)


def renew(handle: Any) -> None:
    """Ends an actor's process, without waiting; Ray starts another one in its place."""
    ray.kill(handle, no_restart=False)


def end(handle: Any) -> None:
    """Ends an actor for good, without waiting: its name is free at once, its process ends soon."""
    ray.kill(handle, no_restart=True)
