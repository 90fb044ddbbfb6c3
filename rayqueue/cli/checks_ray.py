"""What `rayqueue doctor` makes of Ray: that it runs, and that every node can run rayqueue."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING

import rayqueue
from rayqueue.cli.checks import FAIL, OK, WARN, Check

if TYPE_CHECKING:
    from rayqueue.cluster_probe import NodeProbe, RayProbe

_LOGS = "Ray's logs (session_latest/logs in its temporary directory)"


def check_ray() -> Iterator[Check]:
    """Ray is installed, runs, and its nodes have the same rayqueue."""
    from rayqueue.cluster_probe import probe_ray

    yield from judge_ray(probe_ray())


def judge_ray(probe: RayProbe) -> Iterator[Check]:
    """What a look at Ray means."""
    if probe.version is None:
        yield Check("Ray", FAIL, "Ray is not installed here", "pip install 'ray[default]', or give --bootstrap-servers")
        return
    if probe.problem:
        found = f"no Ray that runs can be reached ({probe.problem})"
        yield Check("Ray", FAIL, found, "rayqueue start (it starts one), ray start --head, or set RAY_ADDRESS")
        return
    count = len(probe.nodes)
    lost = f" ({probe.lost} lost)" if probe.lost else ""
    yield Check("Ray", OK, f"Ray {probe.version} runs on {count} node{'' if count == 1 else 's'}{lost}")
    yield from map(judge_node, probe.nodes)


def judge_node(node: NodeProbe) -> Check:
    """What a node's answer means."""
    name, here = f"node {node.where}", rayqueue.__version__
    install = f"pip install rayqueue=={here}"
    if not node.answered:
        return Check(
            name, FAIL, f"no worker there answers ({node.problem})", f"look at `ray status` and at {_LOGS} there"
        )
    if node.version is None:
        return Check(name, FAIL, f"rayqueue cannot be imported there ({node.problem})", f"{install}, on that node")
    if node.version != here:
        return Check(name, FAIL, f"rayqueue {node.version} there, {here} here", f"{install}, on all nodes")
    if node.python.split(".")[:2] != platform.python_version().split(".")[:2]:
        found = f"Python {node.python} there, {platform.python_version()} here"
        return Check(name, WARN, found, "use the same Python on all nodes")
    return Check(name, OK, f"rayqueue {node.version}, Python {node.python}")
