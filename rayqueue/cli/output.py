"""What the command writes: results to standard output, everything else to standard error.

Ray prints to standard output from C++ and from threads, also after shutdown. `reserve_stdout` therefore keeps the
real standard output for our results alone and points file descriptor 1 at standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

import click

# Wide enough that nothing is cut or wrapped when the output is a pipe or a file.
PIPE_WIDTH = 4096

_reserved: IO[str] | None = None


def stdout() -> IO[str]:
    """Where results go."""
    return _reserved if _reserved is not None else sys.stdout


def binary_stdout() -> IO[bytes]:
    """The same for bytes; text written before must have been flushed."""
    return stdout().buffer  # type: ignore[attr-defined,no-any-return]


def reserve_stdout() -> None:
    """From now on only our results reach standard output; what others print there goes to standard error.

    Does nothing when standard output is not the process's own (a test's buffer).
    """
    global _reserved
    if _reserved is not None or not _is_descriptor(sys.stdout, 1):
        return
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    _reserved = os.fdopen(ours, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    sys.stdout = sys.stderr


def _is_descriptor(stream: IO[str], number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError, AttributeError):
        return False


def discard_stdout() -> None:
    """After a broken pipe: nothing more is written, and the flush at exit does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in {stdout(), sys.stdout}:
        if stream is sys.stderr:
            continue
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError, AttributeError):
            continue  # a test's buffer has no descriptor, and cannot break at exit
    os.close(nowhere)


def write(text: str) -> None:
    """A line of result."""
    click.echo(text, file=stdout())


def write_json(value: Any) -> None:
    """A result as JSON, indented."""
    write(json.dumps(value, indent=2, default=str))


def say(text: str) -> None:
    """A line for a person, on standard error."""
    click.echo(text, err=True)


def complain(text: str) -> None:
    """An error: one red line on standard error."""
    click.secho("error: " + " ".join(text.split()), fg="red", err=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", right: Iterable[str] = ()) -> None:
    """A table: with rich's lines on a terminal, plain aligned columns elsewhere.

    Args:
        columns: headings.
        rows: cells, shown by `str`; None as "-".
        title: above the table, on a terminal only.
        right: headings of columns to align right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = stdout().isatty()
    console = Console(file=stdout(), width=None if terminal else PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    drawn = Table(
        title=title if terminal and title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD if terminal else None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name in columns:
        drawn.add_column(name, justify="right" if name in set(right) else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*("-" if cell is None else str(cell) for cell in row))
    if terminal:
        console.print(drawn)
        return
    with console.capture() as capture:
        console.print(drawn)
    for line in capture.get().splitlines():
        write(line.rstrip())


def size_text(size: float | None) -> str:
    """Bytes for people: 512 B, 1.5 KiB, 3.2 GiB."""
    if size is None:
        return "-"
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while abs(size) >= 1024 and step < len(units) - 1:
        size /= 1024
        step += 1
    return f"{size:.0f} {units[step]}" if step == 0 else f"{size:.1f} {units[step]}"


def count_text(count: int | None, noun: str) -> str:
    """1 record, 2,000 records, 2 batches."""
    if count is None:
        return "-"
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"
