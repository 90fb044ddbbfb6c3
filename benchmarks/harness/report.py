"""What a run found, as it is told at the end, kept in files, and turned into an exit status."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.goals import GOALS, Goal
from benchmarks.harness import interruption
from benchmarks.harness.figures import Outcome
from benchmarks.harness.table import by_goal, goal_rows, markdown, markdown_goals, show_goals

YARDSTICK = "kafka"  # the peer without which the comparison is not one
PASSED, FAILED = 0, 1
HEADING = "All goals, and how far we are"
JSON_FILE, TABLE_FILE, LOG_FILE = "results.json", "table.md", "log.txt"


@dataclass
class Report:
    """A run so far.

    Attributes:
        out: directory of the files.
        machine: see `machine.describe`.
        settings: scale and options of the run.
        smoke: whether it is tiny, so that no figure means anything and no goal is judged.
        titles: workload → what it is, in a few words.
        systems: name → how it was started.
        outcomes: of the workloads that ran.
        absent: peer → why it is not measured, or no longer, in one line.
        failures: workload → traceback, or why it was skipped.
        sweeps: what sweeps have found; see `Sweeps.found`.
        settled: sweep → what full rounds called best; see `Sweeps.settled`.
        expected: the goals that this run is to measure.
        partial: what was left out of the run, or made shorter, in a few words; "" for a full one.
        code: which version was measured, at the "start" and at the "end"; see `machine.code`.
    """

    out: Path
    machine: dict[str, Any]
    settings: dict[str, Any]
    smoke: bool = False
    titles: dict[str, str] = field(default_factory=dict)
    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    sweeps: dict[str, dict[str, float]] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    expected: Sequence[Goal] = ()
    partial: str = ""
    code: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False
    began: float = field(default_factory=time.time)

    def title(self, workload: str) -> str:
        """What a workload is called."""
        return f"{workload}: {self.titles[workload]}" if workload in self.titles else workload

    @property
    def incomplete(self) -> str:
        """The line that says so when Kafka is not in the table, else ""."""
        if YARDSTICK in self.systems and YARDSTICK not in self.absent:
            return ""
        asked_for = YARDSTICK in self.settings.get("peers", ())
        why = self.absent.get(YARDSTICK, "the run ended before it" if asked_for else "it was not asked for")
        return f"INCOMPLETE: Kafka is not in this table ({why}). No figure is carried over from another machine."

    @property
    def missed(self) -> list[str]:
        """The musts that were not reached, with their workloads."""
        found = [(outcome.workload, figure) for outcome in self.outcomes for figure in outcome.missed]
        return [f"{workload}: {figure.name}{' (UNDECIDED)' * figure.undecided}" for workload, figure in found]

    @property
    def not_measured(self) -> list[str]:
        """The musts that this run was to measure and did not, with their workloads."""
        found = by_goal(self.outcomes)
        return [f"{goal.workload}: {goal.what}" for goal in self.expected if goal.key not in found]

    @property
    def mixed(self) -> str:
        """The line that says so when not all figures are of one version, else ""."""
        if self.code.get("start") == self.code.get("end", self.code.get("start")):
            return ""
        return "MIXED: the code changed while the run was going on; these figures are of no one version."

    @property
    def status(self) -> int:
        """The exit status: 0 when Kafka is in and every must of the run was measured, of one version of the code, and
        holds; of a smoke run when every workload ran."""
        if self.interrupted:
            return interruption.STATUS
        if self.failures:
            return FAILED
        trouble = self.incomplete or self.missed or self.not_measured or self.mixed
        return PASSED if self.smoke or not trouble else FAILED

    @property
    def heading(self) -> list[str]:
        """Lines that stand above every table of the run, because without them it would be misread."""
        interrupted = "INTERRUPTED: the run was stopped; these are the results so far." if self.interrupted else ""
        smoke = "SMOKE: everything ran at tiny size; no figure here means anything." if self.smoke else ""
        failures = [f"FAILED: {name} ({last_line(text)})" for name, text in self.failures.items()]
        absent = [f"{name} is not measured: {why}" for name, why in self.absent.items() if name != YARDSTICK]
        partial = f"PARTIAL: {self.partial}. Goals that were not asked for are not judged." if self.partial else ""
        if self.smoke:
            partial = ""
        lines = (interrupted, smoke, self.mixed, self.incomplete, partial, *failures, *absent)
        return [line for line in lines if line]

    @property
    def summary(self) -> str:
        """How the run ended, in one line."""
        found = by_goal(self.outcomes)
        judged = len(found) + len(self.not_measured)
        held = f"{sum(bool(figure.must_reached) for figure in found.values())} of {judged} musts hold"
        if self.not_measured:
            held += f", {len(self.not_measured)} of them not measured"
        if self.partial:
            held = f"PARTIAL: {held}; there are {len(judged_at_all())} in all"
        if self.smoke:
            held = f"{len(self.outcomes)} workloads ran"
        return f"{held}; {len(self.failures)} failed; exit status {self.status}."

    def show(self, console: Console) -> None:
        """Prints the one table of the run and how it ended."""
        for line in self.heading:
            console.print(line, style="yellow")
        if not self.smoke:
            show_goals(self._goals(), HEADING, console)
            for missed in self.missed:
                console.print(f"MISSED {missed}", style="bold red")
            for missing in self.not_measured:
                console.print(f"NOT MEASURED {missing}", style="bold red")
        console.print(self.summary)

    def _goals(self) -> list[tuple[str, ...]]:
        return goal_rows(self.outcomes, GOALS.values(), {goal.key for goal in self.expected})

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
            "seconds": time.time() - self.began,
            "status": self.status,
            "interrupted": self.interrupted,
            "incomplete": bool(self.incomplete),
            "partial": self.partial,
            "code": {**self.code, "mixed": bool(self.mixed)},
            "smoke": self.smoke,
            "machine": self.machine,
            "settings": self.settings,
            "systems": self.systems,
            "absent": self.absent,
            "failures": self.failures,
            "missed": self.missed,
            "not_measured": self.not_measured,
            "sweeps": self.sweeps,
            "settled": self.settled,
            "titles": self.titles,
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
        }

    def markdown(self) -> str:
        """The tables for a document."""
        lines = [f"**{line}**\n" for line in self.heading]
        workloads = [markdown(outcome, self.title(outcome.workload)) for outcome in self.outcomes]
        goals = "" if self.smoke else f"## {HEADING}\n\n{markdown_goals(self._goals())}"
        return "\n".join([f"{self._about()}\n", *lines, goals, f"{self.summary}\n", "## By workload\n", *workloads])

    def _about(self) -> str:
        found = self.machine
        packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
        began = time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(self.began))
        return (
            f"{began}: {found['cpu']}, {found['cores']} cores, {found['memory']}, {found['kernel']}, "
            f"{found['data_dir']['file_system']}; Python {found['python']}; {packages}{self._version()}."
        )

    def _version(self) -> str:
        code = self.code.get("start") or {}
        commit = code.get("commit")
        return f"; commit {commit[:12]}{' and changes to it' * bool(code.get('dirty'))}" if commit else ""

    def save(self) -> None:
        """Writes the files, each as a whole or not at all; again and again as a run proceeds."""
        self.out.mkdir(parents=True, exist_ok=True)
        _replace(self.out / JSON_FILE, json.dumps(self.to_dict(), indent=1) + "\n")
        _replace(self.out / TABLE_FILE, self.markdown())


def judged_at_all() -> list[Goal]:
    """The goals that can be measured by now."""
    return [goal for goal in GOALS.values() if not goal.comes_with]


def last_line(text: str) -> str:
    """Of a traceback, the error itself, without the module it is from."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^(\w+\.)+(?=\w+(:|$))", "", lines[-1].strip()) if lines else ""


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
