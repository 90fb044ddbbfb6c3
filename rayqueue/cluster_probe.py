"""What `rayqueue doctor` has to ask Ray: whether it runs, and what each of its nodes can import. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# A new worker process on a node that has none yet takes some seconds.
PROBE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class NodeProbe:
    """A node of Ray that lives.

    Attributes:
        where: host name and address.
        version: rayqueue's there; None when it cannot be imported, or nobody answered.
        python: Python's version there, or "".
        problem: why there is no version: the import's error, or how the worker did not answer.
        answered: whether a worker there answered at all.
    """

    where: str
    version: str | None
    python: str
    problem: str
    answered: bool


@dataclass(frozen=True)
class RayProbe:
    """Ray as it is.

    Attributes:
        version: Ray's here, or None when it is not installed.
        problem: why it cannot be reached, or "".
        lost: how many nodes it has lost.
        nodes: those that live.
    """

    version: str | None
    problem: str = ""
    lost: int = 0
    nodes: list[NodeProbe] = field(default_factory=list)


def probe_ray() -> RayProbe:
    """Looks at the Ray that this process is, or can be, connected to; starts none."""
    try:
        import ray

        from rayqueue.actors import ray_session
    except ModuleNotFoundError as error:
        return RayProbe(None, f"{error.name} is not installed")
    try:
        ray_session.attach()
        nodes = ray.nodes()
    except Exception as error:  # whatever Ray raises is the finding
        reason = next(iter(str(error).splitlines()), "")
        return RayProbe(ray.__version__, f"{type(error).__name__}: {reason}")
    alive = [node for node in nodes if node["Alive"]]
    probes = [(node, _start_probe(ray, node)) for node in alive]
    return RayProbe(ray.__version__, "", len(nodes) - len(alive), [_outcome(ray, *probe) for probe in probes])


def _start_probe(ray: Any, node: dict[str, Any]) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(_probe_function())
    return task.options(scheduling_strategy=strategy).remote()


def _outcome(ray: Any, node: dict[str, Any], started: Any) -> NodeProbe:
    where = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        version, python, problem = ray.get(started, timeout=PROBE_TIMEOUT_S)
    except Exception as error:  # whatever Ray raises is the finding
        return NodeProbe(where, None, "", type(error).__name__, False)
    return NodeProbe(where, version, python, problem, True)


def _probe_function() -> Callable[[], tuple[str | None, str, str]]:
    # A function inside a function travels by value: it runs also where rayqueue is missing.
    def probe() -> tuple[str | None, str, str]:
        import platform

        try:
            import rayqueue
        except Exception as error:  # the finding
            return None, platform.python_version(), f"{type(error).__name__}: {error}"
        return rayqueue.__version__, platform.python_version(), ""

    return probe
