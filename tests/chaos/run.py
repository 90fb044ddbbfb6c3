"""One run: a cluster, clients, faults; then heal, converge, a catch-up from the beginning, and the verdict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import rayqueue
from rayqueue.errors import RayQueueError
from tests.chaos import nemesis
from tests.chaos.checker import check
from tests.chaos.clients import Workload, closing
from tests.chaos.history import load
from tests.chaos.links import Links
from tests.chaos.ray_cluster import running_cluster
from tests.chaos.report import Report
from tests.chaos.waiting import NotYet, pause, until
from tests.chaos.world import World
from tests.simulation.__main__ import commit

TOPIC = "chaos"
TOPIC_CONFIG = {"segment.bytes": 64 * 1024, "max.message.bytes": 4096}
WARM_UP_S = 3.0
CALM_S = 3.0
ADMIN_TIMEOUT_MS = 2_000
CONVERGE_S = 90.0
CATCH_UP_S = 60.0


@dataclass(frozen=True)
class Settings:
    """What a run is asked to do.

    Attributes:
        seconds, rounds: how long faults are drawn, or how many draws there are.
        rate: values a second, of each of two producers.
        links: connections go through a proxy that can cut them.
        disk_bytes: of a small file system of its own for one node, to be filled; 0: none has one.
        standbys: processes of each broker that stand by.
        planted: "" or a bug that the run must find; see PLANTED.
    """

    seed: int
    seconds: float = 60.0
    rounds: int | None = None
    partitions: int = 4
    rate: float = 80.0
    faults: tuple[str, ...] = tuple(nemesis.FAULTS)
    links: bool = True
    disk_bytes: int = 0
    planted: str = ""
    standbys: int = 0


# Bugs of the workload's own making that a checker has to find on the real system: (acks, topic settings).
PLANTED: dict[str, tuple[str, dict[str, int]]] = {
    "": ("all", {"min.insync.replicas": 2}),
    # What the leader alone has is counted as if all had it.
    "acks-1": ("1", {"min.insync.replicas": 1}),
}


def run(settings: Settings, directory: Path, say: Callable[[str], None], started: Callable[[], None]) -> Report:
    """Everything is below `directory`. started: called after each start of Ray, which takes signals for itself."""
    report = Report(settings.seed, commit(), asdict(settings))
    begun = time.monotonic()
    acks, topic_config = PLANTED[settings.planted]
    say("starting Ray with three nodes, and rayqueue on it")
    with contextlib.ExitStack() as stack:
        links = stack.enter_context(contextlib.closing(Links())) if settings.links else None
        config = {**({} if links is None else links.settings), "num.standby.replica.actors": settings.standbys}
        cluster = stack.enter_context(running_cluster(directory / "nodes", config, settings.disk_bytes, started))
        with rayqueue.AdminClient(bootstrap_servers=cluster.servers, request_timeout_ms=ADMIN_TIMEOUT_MS) as admin:
            admin.create_topic(
                TOPIC, settings.partitions, replication_factor=3, config={**TOPIC_CONFIG, **topic_config}
            )
            histories = directory / "histories"
            workload = Workload(
                histories, cluster.servers, TOPIC, settings.partitions, settings.seed, settings.rate, acks
            )
            with closing(workload):
                workload.start()
                world = World(cluster, workload, admin, Random(settings.seed), links)
                _disturb(world, settings, report, say)
    events = list(load(workload.histories()))
    report.judge(events, check(events))
    report.seconds = time.monotonic() - begun
    return report


def _disturb(world: World, settings: Settings, report: Report, say: Callable[[str], None]) -> None:
    """Faults, then heal, and everything must converge in a bounded time."""
    pause(WARM_UP_S)
    deck = nemesis.Deck(Random(settings.seed), settings.faults)
    report.draws = nemesis.run(world, deck, settings.seconds, settings.rounds, say)
    report.problems += [f"{draw.fault}: {draw.problem}" for draw in report.draws if draw.problem]
    say("no more faults: everything must converge")
    healed = time.monotonic()
    try:
        until(lambda: _well(world), CONVERGE_S, "convergence (all processes run, all replicas in sync)")
        report.converged_s = round(time.monotonic() - healed, 1)
    except NotYet as error:
        report.problems.append(str(error))
    brokers = {one.broker_id for one in world.processes("broker")} - world.lost
    if len(brokers) != len(world.cluster.nodes):
        report.problems.append(f"{len(world.cluster.nodes)} nodes have brokers {sorted(brokers)}")
    pause(CALM_S)
    report.problems += world.workload.end("producer")
    report.problems += world.workload.end("consumer")
    report.problems += world.workload.end("member")
    say("reading everything from the beginning")
    report.problems += world.workload.catch_up(CATCH_UP_S)
    try:
        report.status = str(world.cluster.status())
    except RayQueueError as error:
        report.status = f"{type(error).__name__}: {error}"


def _well(world: World) -> bool:
    seen = world.cluster.status()
    wanted = [one for one in seen.processes if one.broker_id not in world.lost]
    return all(one.state == "running" for one in wanted) and world.all_in_sync()
