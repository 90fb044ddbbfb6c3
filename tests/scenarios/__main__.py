"""`python -m tests.scenarios [--rewrite] [FILE ...]`: checks the golden files, or writes down what is printed now."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from tests.scenarios.golden import rewritten
from tests.scenarios.quorum_world import World

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Returns 1 when a file differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.scenarios", description=__doc__)
    parser.add_argument("--rewrite", action="store_true")
    parser.add_argument("files", nargs="*", type=Path)
    args = parser.parse_args()
    differing = 0
    for path in args.files or sorted((HERE / "quorum").glob("*.txt")):
        before = path.read_text()
        now = rewritten(before, World().run)
        if now != before:
            differing += 1
            print("".join(difflib.unified_diff(before.splitlines(True), now.splitlines(True), str(path), "now")))
            if args.rewrite:
                path.write_text(now)
    return 0 if args.rewrite else min(differing, 1)


if __name__ == "__main__":
    sys.exit(main())
