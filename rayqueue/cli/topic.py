"""`rayqueue topic ...`: topics and their settings. Producing and consuming have modules of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rayqueue.cli import output
from rayqueue.cli.consume import consume
from rayqueue.cli.options import Connection, config_option, connection_options, examples, json_option
from rayqueue.cli.partitions import elect_leaders, reassign, reassignments
from rayqueue.cli.produce import produce
from rayqueue.config.settings import INT64_MAX
from rayqueue.errors import TopicAlreadyExists

if TYPE_CHECKING:
    from rayqueue.admin import PartitionDescription, TopicDescription


_NEVER = str(INT64_MAX)


@click.group()
def topic() -> None:
    """Topics: list, create, describe, delete, change; produce to them and consume from them."""


topic.add_command(produce)
topic.add_command(consume)
topic.add_command(reassign)
topic.add_command(reassignments)
topic.add_command(elect_leaders)


@topic.command("list", epilog=examples("rayqueue topic list", "rayqueue topic list --json | jq -r '.[].name'"))
@click.option("--internal", is_flag=True, help="rayqueue's own topics, too.")
@json_option
@connection_options
def list_topics(internal: bool, as_json: bool, connection: Connection) -> None:
    """Lists topics with their partitions, records and sizes."""
    with connection.admin() as admin:
        topics = admin.describe_topics(internal=internal)
    if as_json:
        keys = ("name", "topic_id", "internal", "replication_factor", "records", "size", "key_column")
        summaries = [(t, t.to_dict()) for t in topics]
        output.write_json(
            [
                {**{key: d[key] for key in keys}, "partitions": len(t.partitions), "schema": d["schema"]}
                for t, d in summaries
            ]
        )
        return
    if not topics:
        output.say("There are no topics. Create one: rayqueue topic create NAME")
        return
    rows = [
        (t.name, len(t.partitions), t.replication_factor, _number(t.records), output.size_text(t.size), _kind(t))
        for t in topics
    ]
    columns = ("TOPIC", "PARTITIONS", "REPLICAS", "RECORDS", "SIZE", "KIND")
    output.table(columns, rows, right=("PARTITIONS", "REPLICAS", "RECORDS", "SIZE"))


@topic.command(
    epilog=examples(
        "rayqueue topic create clicks --partitions 3 --config retention.ms=86400000",
        "rayqueue topic create flights -p 6 --schema 'tailnum:string,delay:double,day:date32' --key-column tailnum",
        "rayqueue topic create trips --schema-file trips.parquet",
    )
)
@click.argument("name")
@click.option("-p", "--partitions", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "-r", "--replication-factor", type=click.IntRange(min=1), help="Replicas of each; else the cluster's default."
)
@config_option("A topic setting, such as retention.ms=3600000")
@click.option(
    "--schema", metavar="NAME:TYPE,...", help="Columns of a typed topic; without it records have key and value."
)
@click.option(
    "--schema-file",
    type=click.Path(exists=True, dir_okay=False),
    help="Columns as in this file: JSON, Parquet or Arrow.",
)
@click.option("--key-column", help="The column that keys a typed topic's records.")
@click.option("--exist-ok", is_flag=True, help="Do nothing when an equal topic exists.")
@json_option
@connection_options
def create(
    name: str,
    partitions: int,
    replication_factor: int | None,
    config: dict[str, str],
    schema: str | None,
    schema_file: str | None,
    key_column: str | None,
    exist_ok: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Creates the topic NAME; returns when every partition has a leader."""
    if schema and schema_file:
        raise click.UsageError("give --schema or --schema-file, not both")
    columns = None
    if schema or schema_file:
        from rayqueue.cli.schema_text import parse_schema, read_schema_file

        columns = parse_schema(schema) if schema else read_schema_file(schema_file or "")
    with connection.admin() as admin:
        try:
            admin.create_topic(name, partitions, replication_factor, config, columns, key_column, exist_ok)
        except TopicAlreadyExists:
            if exist_ok:
                raise
            raise TopicAlreadyExists(
                f"there is a topic {name!r}: delete it first, or use it (--exist-ok, when it is as asked for)"
            ) from None
        if as_json:
            output.write_json(admin.describe_topic(name).to_dict())
            return
    output.write(f"Created topic {name} with {output.count_text(partitions, 'partition')}.")


@topic.command(epilog=examples("rayqueue topic describe clicks", "rayqueue topic describe clicks --json | jq .records"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@json_option
@connection_options
def describe(names: tuple[str, ...], as_json: bool, connection: Connection) -> None:
    """Shows topics: partitions, leaders, replicas, offsets, sizes, columns and settings."""
    with connection.admin() as admin:
        topics = admin.describe_topics(names)
        configs = {name: admin.describe_topic_config(name) for name in names}
    if as_json:
        found = []
        for one in topics:
            described = one.to_dict()
            described["configs"] = {entry.name: entry.to_dict() for entry in configs[one.name].values()}
            found.append(described)
        output.write_json(found[0] if len(found) == 1 else found)
        return
    for number, one in enumerate(topics):
        if number:
            output.write("")
        _show(one)
        rows = [(e.name, "never" if e.value == _NEVER else e.value, e.source) for e in configs[one.name].values()]
        output.write("")
        output.table(("SETTING", "VALUE", "FROM"), rows)


def _show(one: TopicDescription) -> None:
    records, size = output.count_text(one.records, "record"), output.size_text(one.size)
    output.write(f"{one.name}: {output.count_text(len(one.partitions), 'partition')}, {records}, {size}")
    output.write(f"id {one.topic_id}, replication factor {one.replication_factor}, {_kind(one)}")
    output.write("")
    columns = ("PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END", "RECORDS", "SIZE", "SEGMENTS")
    output.table(
        columns, [_partition_row(p) for p in one.partitions], right=("START", "END", "RECORDS", "SIZE", "SEGMENTS")
    )
    for p in one.partitions:
        if p.error:
            output.say(f"partition {p.partition}: {p.error}")
    if one.schema is not None:
        output.write("")
        rows = [
            (f.name, f.type, "" if f.nullable else "not null", "key" if f.name == one.key_column else "")
            for f in one.schema
        ]
        output.table(("COLUMN", "TYPE", "", ""), rows)


def _partition_row(p: PartitionDescription) -> tuple[object, ...]:
    leader = "none" if p.leader < 0 else p.leader
    replicas, isr = (",".join(map(str, ids)) for ids in (p.replicas, p.isr))
    offsets = (_number(p.start_offset), _number(p.end_offset), _number(p.records))
    return (p.partition, leader, p.leader_epoch, replicas, isr, *offsets, output.size_text(p.size), _number(p.segments))


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _kind(one: TopicDescription) -> str:
    if one.schema is None:
        return "key, value"
    keyed = f", key {one.key_column}" if one.key_column else ""
    return output.count_text(len(one.schema), "column") + keyed


@topic.command(epilog=examples("rayqueue topic delete clicks", "rayqueue topic delete old1 old2 --yes"))
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@json_option
@connection_options
def delete(names: tuple[str, ...], yes: bool, as_json: bool, connection: Connection) -> None:
    """Deletes topics with all their records, for good."""
    if not yes:
        _confirm(f"Delete {', '.join(names)} and all records?")
    with connection.admin() as admin:
        for name in names:
            admin.delete_topic(name)
            if not as_json:
                output.write(f"Deleted topic {name}.")
    if as_json:
        output.write_json({"deleted": list(names)})


def _confirm(question: str) -> None:
    """Goes on after a yes only; where nobody answers (a script, an empty pipe) that is a usage error."""
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError(
            "nobody answered, so nothing was deleted; to delete without a question give --yes"
        ) from None
    if not agreed:
        raise click.Abort


@topic.command(
    "alter-config",
    epilog=examples(
        "rayqueue topic alter-config clicks retention.ms=60000 segment.bytes=1048576",
        "rayqueue topic alter-config clicks --reset retention.ms",
    ),
)
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="NAME=VALUE...")
@click.option("--reset", multiple=True, metavar="NAME", help="Take this setting back to its default; may be repeated.")
@json_option
@connection_options
def alter_config(
    name: str, settings: tuple[str, ...], reset: tuple[str, ...], as_json: bool, connection: Connection
) -> None:
    """Changes settings of the topic NAME. In effect at every replica when the command returns."""
    changes: dict[str, str | None] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is not name=value; to take a setting back use --reset {text}")
        changes[key.strip()] = value.strip()
    changes.update(dict.fromkeys(reset))
    if not changes:
        raise click.UsageError("give name=value, or --reset name")
    with connection.admin() as admin:
        admin.alter_topic_config(name, changes)
        entries = admin.describe_topic_config(name)
    changed = [entries[key] for key in sorted(entries) if key in {k.replace("_", ".") for k in changes}]
    if as_json:
        output.write_json({entry.name: entry.to_dict() for entry in changed})
        return
    for entry in changed:
        output.write(f"{entry.name}={entry.value} ({entry.source})")


@topic.command("add-partitions", epilog=examples("rayqueue topic add-partitions clicks 6    # six in all"))
@click.argument("name")
@click.argument("total", type=click.IntRange(min=1))
@json_option
@connection_options
def add_partitions(name: str, total: int, as_json: bool, connection: Connection) -> None:
    """Adds partitions to the topic NAME, up to TOTAL. Keyed records may land elsewhere from then on."""
    with connection.admin() as admin:
        admin.create_partitions(name, total)
        if as_json:
            output.write_json(admin.describe_topic(name).to_dict())
            return
    output.write(f"Topic {name} has {total} partitions now.")
