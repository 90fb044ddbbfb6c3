"""Options that many commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rayqueue.cli import output

if TYPE_CHECKING:
    from rayqueue.admin import AdminClient

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Connection:
    """Where the cluster is: an address, or a name that Ray knows."""

    bootstrap_servers: str
    cluster: str
    token: str | None

    @property
    def through_ray(self) -> bool:
        """Whether Ray has to be asked for the address."""
        return self.bootstrap_servers == "auto"

    def settings(self) -> dict[str, Any]:
        """Settings for any client. Ray, if it is going to be used, may no longer write to standard output."""
        if self.through_ray:
            output.reserve_stdout()
        return {"bootstrap.servers": self.bootstrap_servers, "cluster": self.cluster, "token": self.token}

    def admin(self) -> AdminClient:
        """An admin client."""
        from rayqueue.admin import AdminClient

        return AdminClient({**self.settings(), "client.id": "rayqueue-cli"})


def connection_options(command: F) -> F:
    """Adds --bootstrap-servers, --token and --name; the command gets them as `connection`."""

    @functools.wraps(command)
    def wrapped(*args: Any, bootstrap_servers: str, token: str | None, cluster: str, **kwargs: Any) -> Any:
        return command(*args, connection=Connection(bootstrap_servers, cluster, token), **kwargs)

    options = (
        click.option(
            "-b",
            "--bootstrap-servers",
            envvar="RAYQUEUE_BOOTSTRAP",
            default="auto",
            metavar="HOST:PORT,...",
            help="Address of the cluster, as `rayqueue start` printed it; without it the cluster is found through Ray. "
            "[env: RAYQUEUE_BOOTSTRAP]",
        ),
        click.option(
            "--token", envvar="RAYQUEUE_TOKEN", help="The cluster's token, where it needs one. [env: RAYQUEUE_TOKEN]"
        ),
        name_option,
    )
    return _apply(wrapped, options)


name_option = click.option(
    "--name", "cluster", default="default", show_default=True, help="Name of the cluster, when it is found through Ray."
)

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def _apply(command: Any, options: Sequence[Callable[[Any], Any]]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


def key_values(context: click.Context, parameter: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """Callback of options that are given as `name=value`, several times."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{text!r} is not name=value", context, parameter)
        if name.strip() in pairs:
            raise click.BadParameter(f"{name.strip()} is given twice", context, parameter)
        pairs[name.strip()] = value.strip()
    return pairs


def config_option(what: str) -> Callable[[F], F]:
    """--config name=value, several times; the command gets a dict as `config`."""
    return click.option(
        "-c", "--config", multiple=True, metavar="NAME=VALUE", callback=key_values, help=f"{what}; may be repeated."
    )


def examples(*lines: str) -> str:
    """An epilog that shows commands, not re-wrapped."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
