"""Golden files: commands with their expected output.

    # Prose.
    > a command
    what it prints
    ... until an empty line

`python -m tests.scenarios --rewrite` writes down what the commands print now; read the diff before you commit it. After
the data-driven tests of etcd's raft, with a format of our own.
"""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[[str], list[str]]


def rewritten(text: str, run: Run) -> str:
    """The file with the output that its commands have now. A failing command prints its error."""
    lines: list[str] = []
    in_output = False
    for line in text.splitlines():
        if line.startswith("> "):
            lines.append(line)
            lines += run(line[2:].strip())
            in_output = True
        elif not line.strip():
            lines.append("")
            in_output = False
        elif line.startswith("#"):
            lines.append(line)
        elif not in_output:
            raise ValueError(f"neither a comment, nor a command, nor output of one: {line!r}")
    return "\n".join(lines) + "\n"
