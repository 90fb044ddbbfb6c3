"""Progress of long work, on standard error and only when that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def progress_bar(description: str, total: int | None, wanted: bool = True) -> Iterator[Advance]:
    """A bar that the yielded function moves on by a number of steps.

    Args:
        description: what is done.
        total: steps in all; None when nobody knows.
        wanted: False when results go to the same terminal and the bar would only disturb.
    """
    if not wanted or not sys.stderr.isatty():
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=total)
        yield lambda steps: bars.advance(task, steps)
