"""`rayqueue demo`: the main job on real data. What it does is in `rayqueue.demo`."""

from __future__ import annotations

import click

from rayqueue.cli import output
from rayqueue.cli.options import examples


@click.command(epilog=examples("rayqueue demo", "rayqueue demo --keep --data-dir flights"))
@click.option("--brokers", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Where to make a directory for the data; else the system's directory for temporary files.",
)
@click.option("--keep", is_flag=True, help="Leave the data there at the end.")
@click.option("--flights", type=click.IntRange(min=1), help="Only the first so many flights.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end, nothing else.")
def demo(brokers: int, data_dir: str | None, keep: bool, flights: int | None, as_json: bool) -> None:
    """Runs three brokers and five services on all flights of New York's airports in 2013, and checks the result.

    Every record has three replicas, and in the middle the process of a leader is killed.

    It ends by itself in under a minute and leaves no process behind.
    """
    output.reserve_stdout()
    from rich.console import Console

    from rayqueue.demo.main import run

    terminal = output.stdout().isatty()
    console = Console(file=output.stdout(), width=None if terminal else 120, highlight=False)
    status = run(brokers=brokers, data_dir=data_dir, keep=keep, as_json=as_json, flights=flights, console=console)
    if status:
        raise click.exceptions.Exit(status)
