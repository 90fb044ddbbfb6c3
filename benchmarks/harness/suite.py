"""A run from its beginning to its end: rayqueue and the peers started, workloads run, everything stopped and told.

What goes wrong with one part is said in one line, and the rest runs: a peer that is missing or dies, a workload that
raises, a disk that is too full for one of them. Tracebacks go to the results and the log.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.goals import Goal
from benchmarks.harness import machine
from benchmarks.harness.bench import Bench, Scale, StartLoad
from benchmarks.harness.figures import Outcome
from benchmarks.harness.interruption import Interruption
from benchmarks.harness.loads import ProcessLoad
from benchmarks.harness.peers import Peers
from benchmarks.harness.report import LOG_FILE, Report, last_line
from benchmarks.harness.sweep import Sweeps
from benchmarks.harness.system import Peer, System
from benchmarks.harness.table import show

MB, GB = 1e6, 1e9
OUT_BYTES = 32 << 20
DISK_SPARE_BYTES = 1 << 30
# Of `Scale.bytes_max`, what a system has on the disk at most: four producers at once write so much each.
DISK_ROUNDS = 4

Workload = Callable[[Bench], Outcome]
StartRayqueue = Callable[[Path], AbstractContextManager[System]]


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        workloads: by name, in order.
        titles: what they are, by name.
        peers: those that are asked for.
        start_rayqueue: starts it with its data in this directory, for the length of a block.
        settings: options of the run, for the results.
        data: where the run's temporary directory is made; None: the system's directory for such things.
        cache: what peers download is kept here.
        out: where results go.
        expected: the goals that the run is to measure.
        partial: what is left out of it, or made shorter, in a few words; "" for a full one.
        draw: makes plots of `Report.to_dict()` in a directory; returns lines to say.
    """

    workloads: Mapping[str, Workload]
    titles: Mapping[str, str]
    peers: Sequence[Peer]
    start_rayqueue: StartRayqueue
    scale: Scale
    settings: dict[str, Any]
    data: Path | None
    cache: Path
    out: Path
    smoke: bool = False
    expected: Sequence[Goal] = ()
    partial: str = ""
    start_load: StartLoad = ProcessLoad
    draw: Callable[[dict[str, Any], Path], list[str]] = lambda results, out: []


def too_full(plan: Plan, systems: int | None = None) -> str:
    """Why the disk is too full for a workload with so many systems, and what to do; "" when it is not."""
    systems = 1 + len(plan.peers) if systems is None else systems
    needed = DISK_SPARE_BYTES + DISK_ROUNDS * plan.scale.bytes_max * systems
    where = plan.data or Path(tempfile.gettempdir())
    free = shutil.disk_usage(where).free
    if free < needed:
        return (
            f"it may take {needed / GB:.1f} GB of disk, and {where} has {free / GB:.1f} GB free: "
            "make room, choose another place with --dir, or write less with --megabytes"
        )
    out = next(one for one in (plan.out.absolute(), *plan.out.absolute().parents) if one.exists())
    if (free := shutil.disk_usage(out).free) < OUT_BYTES:
        return f"results take some MB, and {out} has {free / MB:.1f} MB free: make room, or choose another with --out"
    return ""


def run(plan: Plan, console: Console) -> Report:
    """Does all of it; what is started is stopped, whatever happens.

    Returns:
        What was found, its files written.
    """
    suite = Suite(plan, console)
    with Interruption(suite.say) as interruption:
        try:
            suite.measure(interruption)
            interruption.close()
        except BaseException as error:
            # Ray's own answer to SIGTERM, while it starts, is SystemExit. Blocks that a signal ends may raise errors
            # of their own, which are its consequence: they are not told.
            interruption.asked |= not isinstance(error, Exception)
            if not interruption.asked:
                suite.failed("the run", error)
        finally:
            interruption.close()
            suite.finish(interruption.asked)
    return suite.report


@dataclass
class Suite:
    """The parts of one run.

    Attributes:
        report: what was found so far.
    """

    plan: Plan
    console: Console
    report: Report = field(init=False)
    _directory: Path | None = None
    _sweeps: Sweeps = field(default_factory=Sweeps)  # one memory for all workloads

    def __post_init__(self) -> None:
        where = self.plan.data or Path(tempfile.gettempdir())
        settings = {**self.plan.settings, "scale": asdict(self.plan.scale)}
        self.report = Report(self.plan.out, machine.describe(where), settings, self.plan.smoke, dict(self.plan.titles))
        self.report.sweeps, self.report.settled = self._sweeps.found, self._sweeps.settled
        self.report.expected, self.report.partial = self.plan.expected, self.plan.partial
        self.report.code["start"] = machine.code()
        self.plan.out.mkdir(parents=True, exist_ok=True)
        (self.plan.out / LOG_FILE).write_text("")

    def say(self, text: str) -> None:
        """A line of progress, in the log too."""
        self.console.print(text, markup=False, soft_wrap=True)
        self.log(text)

    def log(self, text: str) -> None:
        """Lines for the log only."""
        try:
            with (self.plan.out / LOG_FILE).open("a") as file:
                print(time.strftime("%H:%M:%S"), text, file=file)
        except OSError as error:  # the disk is full, and that is to be said, not to end what says it
            self.console.print(f"{self.plan.out / LOG_FILE}: {error.strerror}", style="yellow", markup=False)

    def failed(self, name: str, error: BaseException) -> None:
        """Says in a line that a workload, or the run, failed, and keeps the traceback."""
        text = "".join(traceback.format_exception(error))
        self.report.failures[name] = text
        self.say(f"{name} failed: {last_line(text)} (see {self.plan.out / LOG_FILE})")
        self.log(text)

    def measure(self, interruption: Interruption) -> None:
        """Starts rayqueue and the peers, runs the workloads, and stops them."""
        found = self.report.machine
        self.say(f"{found['cpu']}, {found['cores']} cores, {found['memory']}, {found['kernel']}")
        self._directory = Path(tempfile.mkdtemp(prefix="rayqueue-benchmarks-", dir=self.plan.data))
        peers = Peers(self.plan.peers, self._directory, self.plan.cache, self.say, self.log)
        self.report.absent = peers.absent
        peers.prepare()
        interruption.check()
        self.say("starting rayqueue")
        with self.plan.start_rayqueue(self._directory / "rayqueue") as rayqueue, peers:
            interruption.arm()
            systems = [rayqueue, *peers.start()]
            self.report.systems = {system.name: system.settings for system in systems}
            if self.report.incomplete:
                self.console.print(self.report.incomplete, style="yellow")
            for number, name in enumerate(self.plan.workloads, 1):
                interruption.check()
                self.say(f"{self.report.title(name)} ({number} of {len(self.plan.workloads)})")
                self._workload(name, rayqueue, peers, interruption)
                self._save()

    def _workload(self, name: str, rayqueue: System, peers: Peers, interruption: Interruption) -> None:
        """Runs one; once more, with one peer less, when a peer has died in the middle of it."""
        while True:
            systems = [rayqueue, *peers.systems()]
            full = too_full(self.plan, len(systems))
            if full:
                self.report.failures[name] = f"skipped: {full}"
                return self.say(f"{name} is skipped: {full}")
            bench, began = self._bench(systems), time.monotonic()
            trouble: Exception | None = None
            try:
                outcome = self.plan.workloads[name](bench)
            except Exception as error:
                trouble = error
            interruption.check()
            dead = peers.dead()
            for peer in dead:
                peers.give_up(peer, name)
            # What was measured of a peer while it died is no figure of it, also where a workload lived through it.
            if dead:
                self.say(f"{name}: once more without {', '.join(dead)}")
            elif trouble is not None:
                return self.failed(name, trouble)
            else:
                outcome.settings["took_s"] = round(time.monotonic() - began, 1)
                outcome.settings["turns"] = {"what": ["idle %", "steal %", "load"], "found": bench.turns}
                return self._found(outcome)

    def _found(self, outcome: Outcome) -> None:
        self.report.outcomes.append(outcome)
        if self.plan.smoke:
            self.say(f"{outcome.workload} ran: {len(outcome.figures)} figures")
        else:
            show(outcome, self.report.title(outcome.workload), self.console)

    def _bench(self, systems: list[System]) -> Bench:
        assert self._directory is not None
        return Bench(
            systems, self._directory, self.plan.scale, self.plan.start_load, self.console, self._sweeps
        )  # fmt: skip

    def finish(self, interrupted: bool) -> None:
        """Removes what was written for the run and writes what was found."""
        if self._directory is not None:
            try:
                shutil.rmtree(self._directory)
            except OSError as error:
                self.say(f"{self._directory} could not be removed: {error}")
        self.report.interrupted = interrupted
        self.report.code["end"] = machine.code()
        if not interrupted:
            self._draw()
        self._save()
        self.report.show(self.console)
        self.console.print(f"Results, raw samples and plots: {self.plan.out}", soft_wrap=True)

    def _save(self) -> None:
        """Writes the results; where they cannot be, that is a failure of the run and not the end of it."""
        try:
            self.report.save()
        except OSError as error:
            self.failed("writing the results", error)

    def _draw(self) -> None:
        try:
            lines = self.plan.draw(self.report.to_dict(), self.plan.out)
        except Exception as error:
            return self.failed("drawing", error)  # the tables and results are there all the same
        for line in lines:
            self.say(line)
