"""`rayqueue topic reassign | reassignments | elect-leaders`: which brokers hold partitions, and which lead them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, connection_options, examples, json_option

if TYPE_CHECKING:
    from rayqueue.admin import AdminClient, PartitionReassignment
    from rayqueue.types import TopicPartition

POLL_S = 0.5


def _replicas(text: str) -> tuple[int, list[int]]:
    """0=1,2,3 as (0, [1, 2, 3])."""
    number, equals, brokers = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return int(number), [int(one) for one in brokers.split(",")]
    except ValueError:
        raise click.UsageError(f"{text!r} is not PARTITION=BROKER,BROKER,... such as 0=1,2,3") from None


@click.command(
    epilog=examples(
        "rayqueue topic reassign clicks 0=1,2,3 1=2,3,1           the preferred leader first",
        "rayqueue topic reassign clicks 0=1,2,3 --throttle 10000000 --wait",
        "rayqueue topic reassign clicks --cancel",
    )
)
@click.argument("name")
@click.argument("assignments", nargs=-1, metavar="PARTITION=ID,ID,...")
@click.option("--cancel", is_flag=True, help="Take back what is under way for this topic.")
@click.option(
    "--throttle",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Bytes a second at which each replica actor that leads feeds new replicas; else no limit.",
)
@click.option("--wait", is_flag=True, help="Return when it is done, and not when it has begun.")
@json_option
@connection_options
def reassign(
    name: str,
    assignments: tuple[str, ...],
    cancel: bool,
    throttle: int | None,
    wait: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Gives partitions of the topic NAME other replicas: moves them, or changes how many there are.

    New replicas copy the log; when they are in sync, those that are not named any more delete theirs. Producing and
    consuming go on meanwhile. `rayqueue topic reassignments` shows how far it is.
    """
    if cancel == bool(assignments):
        raise click.UsageError("give PARTITION=BROKER,... for each partition, or --cancel")
    with connection.admin() as admin:
        if cancel:
            mine = [tp for tp in admin.list_partition_reassignments() if tp.topic == name]
            admin.reassign_partitions(dict.fromkeys(mine))
            text = f"Cancelled {output.count_text(len(mine), 'reassignment')} of topic {name}."
        else:
            wanted = dict(_replicas(text) for text in assignments)
            admin.reassign_partitions({(name, number): ids for number, ids in wanted.items()}, throttle)
            text = f"Topic {name}: {output.count_text(len(wanted), 'partition')} being reassigned."
        while wait and any(tp.topic == name for tp in admin.list_partition_reassignments()):
            time.sleep(POLL_S)
        left = {tp: one for tp, one in admin.list_partition_reassignments().items() if tp.topic == name}
    if as_json:
        output.write_json(_as_json(left))
        return
    output.write(text if left or cancel else f"Topic {name}: done.")
    if left:
        _show(left)


@click.command(epilog=examples("rayqueue topic reassignments", "rayqueue topic reassignments --json"))
@json_option
@connection_options
def reassignments(as_json: bool, connection: Connection) -> None:
    """Shows the partitions that are being given other replicas."""
    with connection.admin() as admin:
        found = admin.list_partition_reassignments()
    if as_json:
        output.write_json(_as_json(found))
    elif not found:
        output.say("No partition is being reassigned.")
    else:
        _show(found)


@click.command(
    "elect-leaders",
    epilog=examples(
        "rayqueue topic elect-leaders                       preferred leaders, where they are in sync",
        "rayqueue topic elect-leaders clicks 0 --unclean    loses what only the brokers that are down hold",
    ),
)
@click.argument("name", required=False)
@click.argument("partitions", nargs=-1, type=click.IntRange(min=0), metavar="PARTITION...")
@click.option(
    "--unclean", is_flag=True, help="For partitions without a leader: whoever is there leads. Acked records are lost."
)
@json_option
@connection_options
def elect_leaders(
    name: str | None, partitions: tuple[int, ...], unclean: bool, as_json: bool, connection: Connection
) -> None:
    """Gives partitions back to their preferred leaders: all, those of the topic NAME, or some of these."""
    if unclean and name is None:
        raise click.UsageError("--unclean gives up acked records: name the topic")
    with connection.admin() as admin:
        moved = admin.elect_leaders(_named(admin, name, partitions), unclean)
    if as_json:
        output.write_json({"moved": moved})
    else:
        output.write(f"{output.count_text(moved, 'partition')} changed the leader.")


def _named(admin: AdminClient, name: str | None, partitions: tuple[int, ...]) -> list[tuple[str, int]] | None:
    if name is None:
        return None
    numbers = partitions or tuple(p.partition for p in admin.describe_topic(name).partitions)
    return [(name, number) for number in numbers]


def _as_json(found: Mapping[TopicPartition, PartitionReassignment]) -> list[dict[str, object]]:
    return [{"topic": tp.topic, "partition": tp.partition, **one.to_dict()} for tp, one in found.items()]


def _show(found: Mapping[TopicPartition, PartitionReassignment]) -> None:
    def ids(brokers: list[int]) -> str:
        return ",".join(map(str, brokers))

    rows = [
        (tp.topic, tp.partition, ids(one.replicas), ids(one.adding), ids(one.removing), ids(one.isr))
        for tp, one in found.items()
    ]
    output.table(("TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING", "ISR"), rows)
