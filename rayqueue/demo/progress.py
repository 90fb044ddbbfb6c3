"""The demo's progress: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.live import Live
from rich.table import Table

from rayqueue.demo.flow import Flow
from rayqueue.demo.topics import TOPICS

PLAIN_EVERY_S = 2.0
BAR = 30


@contextlib.contextmanager
def step(console: Console, text: str, spinner: bool = True) -> Iterator[None]:
    """A step that takes a while; when it is done, its line is printed with the time it took.

    Without `spinner` the step may show something live of its own.
    """
    began = time.monotonic()
    waiting = console.status(text) if spinner and console.is_terminal else contextlib.nullcontext()
    with waiting:
        yield
    console.print(f"{text:<72}{time.monotonic() - began:6.1f} s", highlight=False)


@contextlib.contextmanager
def watch(console: Console, flow: Flow, expected: dict[str, int]) -> Iterator[Callable[[], None]]:
    """Shows messages going in and out; what it yields is to be called after each news."""
    if console.is_terminal:
        with Live(table(flow, expected), console=console, refresh_per_second=8, transient=True) as live:
            yield lambda: live.update(table(flow, expected))
    else:
        lines = PlainLines(console, flow)
        yield lines.show


class PlainLines:
    """A line each two seconds, for logs and pipes."""

    def __init__(self, console: Console, flow: Flow) -> None:
        self._console = console
        self._flow = flow
        self._began = self._last = time.monotonic()

    def show(self) -> None:
        """Prints where things stand, unless that was done just now."""
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S:
            self._last = now
            self._console.print(f"  {now - self._began:5.1f} s  {self._flow.line()}", highlight=False)


def table(flow: Flow, expected: dict[str, int]) -> Table:
    """One line a topic: a bar, messages in, messages read by services."""
    rows = Table(box=None, pad_edge=False)
    rows.add_column("topic")
    rows.add_column("", width=BAR)
    rows.add_column("messages in", justify="right")
    rows.add_column("read by services", justify="right")
    for topic in TOPICS:
        count = flow.produced.get(topic.name, 0)
        bar = "━" * min(BAR, count * BAR // max(1, expected[topic.name]))
        rows.add_row(topic.name, f"[green]{bar}[/]", f"{count:,}", f"{flow.read(topic.name):,}")
    return rows
