"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import machine, target
from benchmarks.harness.bench import Bench, Scale
from benchmarks.harness.figures import Outcome
from benchmarks.harness.table import markdown, show
from benchmarks.workloads import WORKLOADS

PEERS = (
    "INCOMPLETE: no peer is in this table. This version starts no Kafka, so confluent-kafka and ray.data.read_kafka "
    "are not measured; no figure is carried over from another machine."
)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures rayqueue on this machine.")
    options.add_argument("--only", default="", help="workloads, separated by commas: " + ", ".join(WORKLOADS))
    options.add_argument("--seconds", type=float, default=Scale.seconds, help="of one measurement (%(default)s)")
    options.add_argument("--repeats", type=int, default=Scale.repeats, help="of each, after a warm-up (%(default)s)")
    options.add_argument("--brokers", type=int, default=1, help="brokers of the cluster (%(default)s)")
    options.add_argument("--dir", type=Path, help="where data is written (the system's directory for such things)")
    options.add_argument("--json", type=Path, dest="json_file", help="write all results, raw samples too, to this file")
    options.add_argument("--markdown", type=Path, dest="markdown_file", help="write the tables to this file")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the workloads asked for and prints their tables; 2 for a workload that does not exist."""
    options = parser().parse_args(arguments)
    names = [name for name in options.only.split(",") if name] or list(WORKLOADS)
    console = Console(highlight=False, width=None if Console().is_terminal else 150)
    unknown = [name for name in names if name not in WORKLOADS]
    if unknown:
        console.print(f"There is no workload {', '.join(unknown)}; there are {', '.join(WORKLOADS)}.")
        return 2
    scale = Scale(seconds=options.seconds, repeats=options.repeats)
    directory = Path(tempfile.mkdtemp(prefix="rayqueue-benchmarks-", dir=options.dir))
    try:
        report, outcomes = _run(names, directory, options.brokers, scale, console)
    finally:
        shutil.rmtree(directory)
    if options.json_file:
        options.json_file.write_text(json.dumps(report, indent=1))
        console.print(f"Results with raw samples: {options.json_file}")
    if options.markdown_file:
        options.markdown_file.write_text("\n".join(markdown(outcome) for outcome in outcomes))
    return 0


def _run(
    names: Sequence[str], directory: Path, brokers: int, scale: Scale, console: Console
) -> tuple[dict[str, Any], list[Outcome]]:
    """Runs them on a cluster of their own; what `--json` writes, and the outcomes."""
    described = machine.describe(directory)
    console.print(f"{described['cpu']}, {described['cores']} cores, {described['kernel']}; {described['packages']}")
    console.print(PEERS + "\n", style="yellow")
    began = time.time()
    outcomes: list[Outcome] = []
    with target.on_ray(directory / "data", brokers, {}) as cluster:
        bench = Bench(cluster, directory, scale)
        for name in names:
            outcome = WORKLOADS[name](bench)
            show(outcome, console)
            outcomes.append(outcome)
    report = {
        "machine": described,
        "began": began,
        "seconds": time.time() - began,
        "scale": vars(scale),
        "cluster": cluster.settings,
        "peers": PEERS,
        "outcomes": [outcome.to_dict() for outcome in outcomes],
    }
    return report, outcomes
