"""`rayqueue start | status | restart | shutdown`: a cluster's life, through Ray."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, config_option, connection_options, examples, json_option, name_option
from rayqueue.cli.signals import unwind_on_sigterm

if TYPE_CHECKING:
    from rayqueue.cluster import Cluster
    from rayqueue.cluster_status import ClusterStatus


@click.command(
    epilog=examples(
        "rayqueue start                                  a broker on every node of Ray",
        "rayqueue start --brokers 3 --data-dir data      three brokers, on one node if need be",
        "rayqueue start -c retention.ms=3600000 -c auto.create.topics.enable=true",
        "rayqueue start --block                          until Ctrl-C, then shut down",
    )
)
@name_option
@click.option(
    "--brokers", type=click.IntRange(min=1), help="How many; else one on every node, also on nodes that join."
)
@click.option(
    "--data-dir",
    envvar="RAYQUEUE_DATA_DIR",
    type=click.Path(file_okay=False),
    help="A directory on each node; else ~/.rayqueue/NAME. [env: RAYQUEUE_DATA_DIR]",
)
@config_option("A broker setting, or a default of topics")
@click.option("--block", is_flag=True, help="Stay until Ctrl-C, then shut the cluster down.")
@json_option
def start(
    cluster: str, brokers: int | None, data_dir: str | None, config: dict[str, str], block: bool, as_json: bool
) -> None:
    """Starts a cluster, or finds it running. On the same data directory everything is back."""
    output.reserve_stdout()
    from rayqueue import cluster as lifecycle

    started = lifecycle.start(name=cluster, brokers=brokers, data_dir=data_dir, config=config or None, stay=not block)
    try:
        _show_started(started, cluster, as_json)
        if block:
            _wait_for_signal()
    finally:
        if block:
            output.say(f"Shutting down cluster {cluster}; its data stays.")
            lifecycle.shutdown(cluster)


def _show_started(started: Cluster, name: str, as_json: bool) -> None:
    token = started.token
    if as_json:
        output.write_json({"name": name, "bootstrap_servers": started.bootstrap_servers, "token": token})
        output.stdout().flush()
        return
    output.write(f"Cluster {name} is up.")
    output.write(f"bootstrap servers: {started.bootstrap_servers}")
    if token:
        output.write(f"token: {token}")
        output.write("Clients inside Ray find both by themselves. Anywhere else:")
        output.write(f"  export RAYQUEUE_BOOTSTRAP={started.bootstrap_servers}")
        output.write(f"  export RAYQUEUE_TOKEN={token}")
        output.write('  or in Python: rayqueue.Producer(bootstrap_servers="...", token="...")')
    output.stdout().flush()


def _wait_for_signal() -> None:
    """Until Ctrl-C, or SIGTERM (which the command line turns into an exit)."""
    unwind_on_sigterm()
    while True:
        signal.pause()


@click.command(
    epilog=examples(
        "rayqueue status",
        "rayqueue status --json | jq .under_replicated",
        "rayqueue status -b 10.0.0.1:9500    without Ray",
    )
)
@json_option
@connection_options
def status(as_json: bool, connection: Connection) -> None:
    """Shows brokers, partitions, leaders, and what is missing.

    By address (--bootstrap-servers) it shows what the brokers tell; process ids, replica actors, directories and log
    files are shown only when the cluster is found through Ray (-b auto). Exit status 1 when something is missing.
    """
    found = _status(connection)
    if as_json:
        output.write_json(found.to_dict())
    else:
        output.write(str(found).rstrip())
        if not connection.through_ray:
            output.say("By address: process ids, replica actors, directories and log files need Ray (-b auto).")
    if not found.healthy:
        raise click.exceptions.Exit(1)


def _status(connection: Connection) -> ClusterStatus:
    if not connection.through_ray:
        from rayqueue.cli.status_by_address import status_by_address

        return status_by_address(connection)
    output.reserve_stdout()
    from rayqueue import cluster as lifecycle

    return lifecycle.status(connection.cluster)


@click.command(
    epilog=examples(
        "rayqueue restart                 all brokers, one after the other",
        "rayqueue restart --broker 2      this one",
    )
)
@name_option
@click.option("--broker", "brokers", type=int, multiple=True, metavar="ID", help="Only this one; may be repeated.")
@click.option("--timeout", type=click.FloatRange(min=1), default=600, show_default=True, help="Seconds for each.")
@json_option
def restart(cluster: str, brokers: tuple[int, ...], timeout: float, as_json: bool) -> None:
    """Restarts brokers one after the other, while producing and consuming go on: a rolling upgrade.

    Each hands over what it leads, ends, starts again from what is installed on its node, and is in sync before the next
    one's turn.
    """
    output.reserve_stdout()
    from rayqueue import cluster as lifecycle

    done = lifecycle.restart(cluster, list(brokers) or None, timeout)
    if as_json:
        output.write_json({"name": cluster, "restarted": done})
    else:
        output.write(f"Restarted {output.count_text(len(done), 'broker')} of cluster {cluster}, and all is in sync.")


@click.command(epilog=examples("rayqueue shutdown", "rayqueue start    # everything is back"))
@name_option
@json_option
def shutdown(cluster: str, as_json: bool) -> None:
    """Stops the cluster's actors. The data stays."""
    output.reserve_stdout()
    from rayqueue import cluster as lifecycle

    stopped = lifecycle.shutdown(cluster)
    if as_json:
        output.write_json({"name": cluster, "stopped": stopped})
    elif not stopped:
        output.write(f"Cluster {cluster} was not running.")
    else:
        output.write(f"Cluster {cluster} is stopped; its data stays, `rayqueue start` brings it back.")
