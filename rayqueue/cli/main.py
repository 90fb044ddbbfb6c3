"""The command `rayqueue`: its groups, and what becomes of errors, Ctrl-C and broken pipes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

import rayqueue
from rayqueue.cli import output
from rayqueue.cli.demo import demo
from rayqueue.cli.doctor import doctor
from rayqueue.cli.group import group_group
from rayqueue.cli.lifecycle import restart, shutdown, start, status
from rayqueue.cli.log import log_group
from rayqueue.cli.options import examples
from rayqueue.cli.perf import perf
from rayqueue.cli.signals import INTERRUPTED, unwind_on_sigterm
from rayqueue.cli.topic import topic
from rayqueue.errors import RayQueueError

FAILED = 1


class Failure(click.ClickException):
    """What went wrong, for a person: one red line, exit status 1."""

    exit_code = FAILED

    def show(self, file: Any = None) -> None:
        output.complain(self.message)


class Program(click.Group):
    """The root command. Turns exceptions into exit statuses, whichever command they come from."""

    def invoke(self, context: click.Context) -> Any:
        try:
            result = super().invoke(context)
            output.stdout().flush()
            return result
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Who read our output has enough of it (`| head`).
            output.discard_stdout()
            raise click.exceptions.Exit(0) from None
        except Exception as error:
            if debugging():
                traceback.print_exc(file=sys.stderr)
            raise Failure(explain(error)) from None


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("RAYQUEUE_LOG", "").lower() == "debug"


def explain(error: Exception) -> str:
    """One sentence for an error, ours or not."""
    if isinstance(error, RayQueueError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name == "ray":
        return (
            "Ray is not installed here, and without it the cluster cannot be found by name: "
            "give its address with --bootstrap-servers (`rayqueue status` prints it), or pip install 'ray[default]'"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"the Python package {error.name!r} is missing: install it into this environment"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error} (RAYQUEUE_LOG=debug shows where)"


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "rayqueue demo                                      see it work on real data",
        "rayqueue start                                     start a cluster on this machine's Ray",
        "rayqueue topic create clicks --partitions 3",
        "echo 'u1:hello' | rayqueue topic produce clicks -k :",
        "rayqueue topic consume clicks -o start -e -f '%p %o %k %v\\n'",
        "rayqueue doctor                                    what is wrong, and what to do",
    ),
)
@click.version_option(rayqueue.__version__, prog_name="rayqueue")
def cli() -> None:
    """A partitioned, durable event log with Kafka's semantics, inside a Ray cluster.

    Commands find the cluster through Ray, or by --bootstrap-servers without Ray. Exit status: 0 done, 1 failed,
    2 wrong usage.
    """
    _configure_logging()


for command in (demo, start, status, restart, shutdown, doctor, topic, group_group, log_group, perf):
    cli.add_command(command)


def _configure_logging() -> None:
    level = os.environ.get("RAYQUEUE_LOG", "").upper()
    if isinstance(logging.getLevelName(level), int):
        logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the installed command."""
    unwind_on_sigterm()
    cli.main(args=None if arguments is None else list(arguments), prog_name="rayqueue")
    raise AssertionError("click ends the process")
