"""Chaos on a real Ray cluster of three nodes on this machine; see docs/testing.md. Exit status 1: it was not good."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.harness.interruption import STATUS, Interrupted, Interruption
from tests.chaos.nemesis import FAULTS
from tests.chaos.run import PLANTED, Settings, run


def say(text: str) -> None:
    """Progress, for who watches."""
    print(text, file=sys.stderr, flush=True)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "seed", type=int, help="decides which faults come when, and what they hit where there is a choice"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are drawn (default 60)")
    parser.add_argument("--rounds", type=int, help="draw so many times instead")
    parser.add_argument("--partitions", type=int, default=4, help="of the topic (default 4)")
    parser.add_argument(
        "--rate", type=float, default=80.0, help="values a second of each of two producers (default 80)"
    )
    parser.add_argument("--faults", default="", help=f"only these, by commas; there are {', '.join(FAULTS)}")
    parser.add_argument("--direct", action="store_true", help="no proxy between processes, so no cut links")
    parser.add_argument(
        "--disk", type=int, default=0, metavar="MB", help="a small disk for one node, to be filled (root)"
    )
    parser.add_argument(
        "--standbys", type=int, default=0, help="processes of each broker that stand by (default 0: faults last longer)"
    )
    parser.add_argument("--planted", default="", choices=[*PLANTED], help="a bug that the run must find")
    parser.add_argument("--out", type=Path, help="keep report.json, histories and logs in this new directory")
    return parser


def possible(args: argparse.Namespace) -> tuple[str, ...]:
    """The faults that can be injected in such a run."""
    return tuple(
        name
        for name in FAULTS
        if not (name.startswith("cut-") and args.direct) and not (name == "fill-disk" and not args.disk)
    )


def main() -> int:
    """Exit status."""
    parser = arguments()
    args = parser.parse_args()
    faults = tuple(args.faults.split(",")) if args.faults else possible(args)
    if unknown := set(faults) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if args.out is not None and args.out.exists():
        parser.error(f"{args.out} is there already")
    settings = Settings(
        args.seed,
        args.seconds,
        args.rounds,
        args.partitions,
        args.rate,
        faults,
        not args.direct,
        args.disk << 20,
        args.planted,
        args.standbys,
    )
    directory = args.out or Path(tempfile.mkdtemp(prefix="rayqueue-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with Interruption(say) as interruption:
            report = run(settings, directory.resolve(), say, interruption.arm)
            interruption.check()
    except Interrupted:
        say("stopped; nothing was judged")
        return STATUS
    finally:
        if args.out is None:
            shutil.rmtree(directory)
    print(report)
    if args.out is not None:
        report.write(args.out / "report.json")
    if settings.planted:
        found = bool(report.anomalies)
        say(f"the planted bug {settings.planted} was {'found, as it must be' if found else 'NOT found'}")
        return 0 if found else 1
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
