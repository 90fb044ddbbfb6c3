"""`rayqueue doctor`: what is wrong, in plain words, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from rayqueue.cli import output
from rayqueue.cli.checks import FAIL, OK, WARN, Check, check_machine, default_data_dir
from rayqueue.cli.options import Connection, connection_options, examples, json_option

_COLORS = {OK: "green", WARN: "yellow", FAIL: "red"}


@click.command(
    epilog=examples("rayqueue doctor", "rayqueue doctor --json | jq '.checks[] | select(.result != \"ok\")'")
)
@click.option("--data-dir", type=click.Path(file_okay=False), help="The cluster's data directory on this node.")
@json_option
@connection_options
def doctor(data_dir: str | None, as_json: bool, connection: Connection) -> None:
    """Looks for what is wrong with this machine, Ray and the cluster, and says what to do.

    Exit status 1 when something fails; warnings do not fail.
    """
    found: list[Check] = []
    for check in _checks(connection, Path(data_dir) if data_dir else None):
        found.append(check)
        if not as_json:
            _show(check)
    counts = Counter(check.result for check in found)
    if as_json:
        summary = {result: counts[result] for result in (OK, WARN, FAIL)}
        output.write_json({"healthy": not counts[FAIL], "summary": summary, "checks": [c.to_dict() for c in found]})
    else:
        output.write(f"{counts[OK]} ok, {counts[WARN]} warnings, {counts[FAIL]} failed")
    if counts[FAIL]:
        raise click.exceptions.Exit(1)


def _checks(connection: Connection, data_dir: Path | None) -> Iterator[Check]:
    from rayqueue.cli.checks_cluster import check_cluster
    from rayqueue.cli.checks_ray import check_ray

    connection.settings()  # Ray may no longer write to standard output
    ray_up = True
    if connection.through_ray:
        for check in check_ray():
            ray_up = ray_up and check.result != FAIL
            yield check
    cluster_up = False
    if ray_up:
        for check in check_cluster(connection):
            cluster_up = cluster_up or (check.name == "cluster" and check.result == OK)
            yield check
    yield from check_machine(data_dir or _data_dir(connection, cluster_up), cluster_up)


def _data_dir(connection: Connection, cluster_up: bool) -> Path | None:
    """Where the cluster found by Ray has its data, else where one would be started; None: an address does not tell."""
    if not connection.through_ray:
        return None
    if not cluster_up:
        return default_data_dir(connection.cluster)
    from rayqueue.cluster import connect

    return Path(connect(connection.cluster).data_dir)


def _show(check: Check) -> None:
    mark = click.style(f"{check.result:<4}", fg=_COLORS[check.result])
    output.write(f"{mark}  {check.name}: {check.found}")
    if check.advice:
        output.write(f"      -> {check.advice}")
    output.stdout().flush()
