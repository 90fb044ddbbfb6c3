"""What a run reports: JSON for programs, a table for people."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.checker import KINDS, Anomaly
from tests.chaos.history import Event
from tests.chaos.nemesis import Injected

EXAMPLES_MAX = 5
NS = 1e9
JUST_BEFORE_NS = 300_000_000


@dataclass
class Report:
    """One run.

    Attributes:
        problems: what kept the run from being judged, or from converging; "" for none.
        longest_gap_s, gaps_s: the longest time in which a partition acked nothing: of all, and from each draw on.
        converged_s: from the last fault's end until every replica was in sync and every process ran; None: it did not.
    """

    seed: int
    commit: str
    settings: dict[str, Any]
    draws: list[Injected] = field(default_factory=list)
    operations: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    anomalies: list[Anomaly] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    converged_s: float | None = None
    seconds: float = 0.0
    status: str = ""

    @property
    def injected(self) -> list[Injected]:
        """Draws that were faults and were possible."""
        return [draw for draw in self.draws if draw.fault and not draw.skipped]

    @property
    def without_effect(self) -> list[Injected]:
        """Faults of which no effect was seen."""
        return [draw for draw in self.injected if not draw.proof]

    @property
    def good(self) -> bool:
        """No anomaly, no problem, and every fault took effect."""
        return not (self.anomalies or self.problems or self.without_effect)

    def judge(self, events: Sequence[Event], anomalies: list[Anomaly]) -> None:
        """Takes in the histories and what the checker says of them."""
        self.anomalies = anomalies
        self.operations = dict(sorted(Counter(event.event for event in events).items()))
        self.operations["records read"] = sum(len(event.records or ()) for event in events)
        errors = Counter(f"{e.event}: {(e.error or '').partition(':')[0]}" for e in events if e.error is not None)
        self.errors = dict(errors.most_common())
        gaps = _gaps(events)
        self.longest_gap_s = max((b - a for a, b in gaps), default=0) / NS
        self.gaps_s = [_longest(gaps, draw.began_ns, draw.ended_ns) for draw in self.draws]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        counts = Counter(anomaly.kind for anomaly in self.anomalies)
        return {
            "seed": self.seed,
            "commit": self.commit,
            "good": self.good,
            "settings": self.settings,
            "seconds": round(self.seconds, 1),
            "draws": len(self.draws),
            "draws_without_fault": sum(not draw.fault for draw in self.draws),
            "faults": [
                {**draw.to_dict(), "longest_without_ack_s": round(gap, 3)}
                for draw, gap in zip(self.draws, self.gaps_s or [0.0] * len(self.draws), strict=True)
                if draw.fault
            ],
            "operations": self.operations,
            "errors": self.errors,
            "longest_without_ack_s": round(self.longest_gap_s, 3),
            "converged_s": self.converged_s,
            "anomalies": {kind: counts[kind] for kind in KINDS},
            "examples": {kind: [a.text for a in self.anomalies if a.kind == kind][:EXAMPLES_MAX] for kind in counts},
            "problems": self.problems,
            "status_at_the_end": self.status,
        }

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    def __str__(self) -> str:
        converged = "NOT in its time" if self.converged_s is None else f"{self.converged_s:.1f} s after the last fault"
        operations = ", ".join(f"{count} {name}" for name, count in self.operations.items())
        lines = [f"chaos: seed {self.seed}, commit {self.commit}, {self.seconds:.0f} s", "", "faults"]
        lines += [
            f"  {draw}" + (f"  [{gap:.2f} s without an ack]" if draw.fault else "")
            for draw, gap in zip(self.draws, self.gaps_s or [0.0] * len(self.draws), strict=True)
        ]
        lines += [
            f"  {len(self.injected)} injected, {len(self.without_effect)} without effect, "
            f"{sum(not draw.fault for draw in self.draws)} of {len(self.draws)} draws were no fault",
            "",
            f"operations   {operations}",
            f"errors       {', '.join(f'{count} {name}' for name, count in self.errors.items()) or 'none'}",
            f"no ack for   {self.longest_gap_s:.2f} s at the longest, in a partition",
            f"converged    {converged}",
            "",
            "anomalies",
        ]
        counts = Counter(anomaly.kind for anomaly in self.anomalies)
        for kind, meaning in KINDS.items():
            lines.append(f"  {kind:22} {counts[kind] or 'none':>6}   {meaning}")
            lines += [f"      {one.text}" for one in self.anomalies if one.kind == kind][:EXAMPLES_MAX]
        lines += ["", *(f"PROBLEM  {problem}" for problem in self.problems)]
        lines.append("GOOD" if self.good else "FAILED")
        return "\n".join(lines)


def _gaps(events: Sequence[Event]) -> list[tuple[int, int]]:
    """The times between one ack and the next of the same partition."""
    acks: dict[int, list[int]] = defaultdict(list)
    for event in events:
        if event.event == "ack" and event.partition is not None:
            acks[event.partition].append(event.time)
    return [pair for times in acks.values() for pair in zip(sorted(times), sorted(times)[1:], strict=False)]


def _longest(gaps: list[tuple[int, int]], began: int, ended: int) -> float:
    """The longest of them that begins in a span, in s; or just before it, with the last ack before the fault."""
    return max((b - a for a, b in gaps if began - JUST_BEFORE_NS <= a <= ended), default=0) / NS
