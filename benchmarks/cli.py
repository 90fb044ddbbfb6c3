"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.goals import Goal
from benchmarks.harness import plots, rayqueue_system, suite
from benchmarks.harness.bench import Scale
from benchmarks.harness.ray_cluster import RayCluster
from benchmarks.harness.report import judged_at_all
from benchmarks.peers import PEERS
from benchmarks.workloads import TITLES, WORKLOADS

USAGE = 2
WIDTH = 160  # of tables that go into a file or a pipe
NONE = "none"
ALIASES = {"ray_queue": "ray.util.queue"}  # by the file's name too
OUT = Path("build/benchmarks")
SMOKE = Scale(
    seconds=0.05,
    sweep_seconds=0.02,
    repeats=1,
    warm_up=0,
    bytes_max=2_000_000,
    rows_max=2_000,
    partitions=5,
    sync=False,
)

DESCRIPTION = """\
Measures rayqueue and its peers on this machine, in turns, and holds the ratios against the goals of the project.

rayqueue runs on a Ray of its own, or on the cluster that --address names, and each peer on loopback ports and in a
directory of its own; all of it is stopped, by process id, and what was written is removed at the end, after Ctrl-C
too. Kafka is got through Maven once, into the cache; a peer that is not there is left out with a line that says how to
install it, and the rest runs.
"""
EPILOG = """\
exit status:
  0    Kafka is in the table and every "must" holds (with --smoke: every workload ran); with --only, --peers or a
       smaller scale the table is headed PARTIAL, and only what was asked for is judged
  1    a must is missed, undecided or not measured, a workload failed, the code changed meanwhile (MIXED), or the table
       is INCOMPLETE: Kafka is not in it
  2    these options make no sense, or there is no room for the run
  130  interrupted; the results so far are written

examples:
  python -m benchmarks                                  everything, about 25 minutes on two cores
  python -m benchmarks --only w1,w4 --peers kafka       two workloads against Kafka
  python -m benchmarks --only w2 --repeats 9 --out w2   more rounds, results into ./w2
  python -m benchmarks --smoke                          does everything still run? some minutes, no peers
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    workloads = "\n".join(f"  {name:<9} {title}" for name, title in TITLES.items())
    options = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{DESCRIPTION}\nworkloads:\n{workloads}\n",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("--only", type=_names, default=list(WORKLOADS), metavar="NAMES", help="workloads, separated by commas")
    add("--peers", type=_names, metavar="NAMES",
        help=f"of {', '.join(PEERS)}, separated by commas, or none; all that are there, if not given")  # fmt: skip
    add("--seconds", type=_positive(float), help=f"of one measurement ({Scale.seconds:g})")
    add("--repeats", type=_positive(int), help=f"rounds of each, after a warm-up ({Scale.repeats})")
    add("--megabytes", type=_positive(int), metavar="MB",
        help=f"that one measurement writes or reads at most ({Scale.bytes_max >> 20})")  # fmt: skip
    add("--brokers", type=_positive(int), help="brokers of rayqueue (1; with --address one a node)")
    add("--address", metavar="HOST:PORT",
        help="use this Ray cluster, or the one that auto finds, with loads spread over its nodes")  # fmt: skip
    add("--dir", type=Path, help="where data is written, in a directory of its own (the system's for such things)")
    add("--cache", type=Path, default=default_cache(), help="what is downloaded for peers is kept here (%(default)s)")
    add("--out", type=Path, default=OUT, help="results.json, table.md, log.txt and plots go here (%(default)s)")
    add("--smoke", action="store_true", help="tiny, to see that everything runs; no peers unless named")
    return options


def default_cache() -> Path:
    """A directory of the user's that may be deleted at any time (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "rayqueue-benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmarks; returns the exit status (see EPILOG)."""
    options = parser().parse_args(arguments)
    trouble = _trouble(options)
    if trouble:
        print(trouble, file=sys.stderr)
        return USAGE
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    plan = _plan(options)
    trouble = suite.too_full(plan)
    if trouble:
        print(f"There is no room for the run: {trouble}", file=sys.stderr)
        return USAGE
    return suite.run(plan, console).status


def _trouble(options: argparse.Namespace) -> str:
    """What is wrong with the options, in a line; "" when nothing is."""
    for names, known, what in ((options.only, WORKLOADS, "workload"), (_asked_for(options), PEERS, "peer")):
        unknown = [name for name in names if name not in known]
        if unknown:
            return f"There is no {what} {', '.join(unknown)}; there are {', '.join(known)}."
    if options.address is not None and options.brokers is not None:
        return "--brokers and --address: with an address every node of the Ray cluster gets a broker; leave one out."
    if options.dir is not None and not options.dir.is_dir():
        return f"--dir {options.dir}: there is no such directory; make it, or name another."
    for option, directory in (("--out", options.out), ("--cache", options.cache)):
        nearest = next(one for one in (directory.absolute(), *directory.absolute().parents) if os.path.exists(one))
        try:
            # Asking for permission is not enough: root has it everywhere, and /proc takes no file all the same.
            with tempfile.TemporaryFile(dir=nearest):
                pass
        except OSError:
            return f"{option} {directory}: {nearest} is no directory that can be written; name another."
    return ""


def _asked_for(options: argparse.Namespace) -> list[str]:
    if options.peers is None:
        return [] if options.smoke else list(PEERS)
    return [] if options.peers == [NONE] else list(dict.fromkeys(ALIASES.get(name, name) for name in options.peers))


def _plan(options: argparse.Namespace) -> suite.Plan:
    chosen = {"seconds": options.seconds, "repeats": options.repeats}
    if options.megabytes is not None:
        chosen["bytes_max"] = options.megabytes << 20
    given = {name: value for name, value in chosen.items() if value is not None}
    scale = dataclasses.replace(SMOKE if options.smoke else Scale(), **given)
    brokers, peers = options.brokers or 1, [PEERS[name] for name in _asked_for(options)]
    where: dict[str, Any] = {"start_rayqueue": partial(rayqueue_system.on_ray, brokers=brokers), "peers": peers}
    if options.address is not None:
        cluster = RayCluster(options.address)
        peers = [cluster.local(peer) for peer in peers]
        where = {"start_rayqueue": cluster.start, "start_load": cluster.start_load, "peers": peers}
    return suite.Plan(
        workloads={name: WORKLOADS[name] for name in options.only},
        titles={name: TITLES[name] for name in options.only},
        scale=scale,
        settings={"only": options.only, "peers": _asked_for(options), "address": options.address},
        data=options.dir,
        cache=options.cache,
        out=options.out,
        smoke=options.smoke,
        expected=[goal for goal in expected(options.only, _asked_for(options)) if not options.address or goal.peer],
        partial=_left_out(options, scale),
        draw=plots.draw,
        **where,
    )


def expected(workloads: Sequence[str], peers: Sequence[str]) -> list[Goal]:
    """The goals that a run of these workloads with these peers is to measure."""
    return [goal for goal in judged_at_all() if goal.workload in workloads and (not goal.peer or goal.peer in peers)]


def _left_out(options: argparse.Namespace, scale: Scale) -> str:
    """What makes the run less than a full one, in a few words; "" when nothing does."""
    told = []
    if missing := [name for name in WORKLOADS if name not in options.only]:
        told.append(f"without {', '.join(missing)}")
    asked_for = _asked_for(options)
    if unasked := [name for name in PEERS if name not in asked_for]:
        told.append(f"{', '.join(unasked)} not asked for")
    if options.address is not None:
        # There nobody's processes are killed and no partitions counted, and nothing else runs beside on the same cores.
        told.append(f"on the Ray cluster {options.address}")
    full = Scale()
    if any(getattr(scale, name) < getattr(full, name) for name in ("seconds", "repeats", "bytes_max")):
        told.append("shorter than the default")
    return "; ".join(told)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.lower().split(",") if name.strip()))
    if not names:
        raise argparse.ArgumentTypeError("names, separated by commas, are missing")
    return names


def _positive(kind: type) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value

    parse.__name__ = kind.__name__  # argparse names it when the text is no number at all
    return parse
