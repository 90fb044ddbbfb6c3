"""The process of a load: `python -m benchmarks.harness.load_process MODULE:CLASS LABEL`, driven over its pipes.

Each line in is `[method, arguments]`, the first one `__init__`; each line out `[true, result]` or `[false, traceback]`.
The end of standard input closes the object and ends the process.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, TextIO

from benchmarks.harness.loads import resolve


def serve(kind: type, lines: TextIO, out: TextIO) -> None:
    """Makes the object and answers calls until the lines end."""
    load: Any = None
    try:
        for line in lines:
            method, arguments = json.loads(line)
            try:
                if method == "__init__":
                    load = kind(**arguments)
                    result = None
                else:
                    result = getattr(load, method)(**arguments)
                answer = json.dumps([True, result])
            except Exception:
                answer = json.dumps([False, traceback.format_exc()])
            print(answer, file=out, flush=True)
    finally:
        if load is not None:
            load.close()


def main() -> None:
    """Serves the class that the command line names; what it prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(resolve(sys.argv[1]), sys.stdin, answers)


if __name__ == "__main__":
    main()
