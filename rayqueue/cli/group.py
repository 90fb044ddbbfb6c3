"""`rayqueue group ...`: consumer groups, who is in them, and how far they have come."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import click

from rayqueue.cli import output
from rayqueue.cli.options import Connection, connection_options, examples, json_option
from rayqueue.cli.positions import parse_time

if TYPE_CHECKING:
    from rayqueue.admin_group_descriptions import GroupDescription, GroupMember, OffsetReset


@click.group("group")
def group_group() -> None:
    """Consumer groups: members, offsets and lag."""


@group_group.command("list", epilog=examples("rayqueue group list", "rayqueue group list --json"))
@json_option
@connection_options
def list_groups(as_json: bool, connection: Connection) -> None:
    """Lists the consumer groups, with their states and how many members they have."""
    with connection.admin() as admin:
        found = admin.list_groups()
    if as_json:
        output.write_json([one.to_dict() for one in found])
    elif not found:
        output.say("There are no consumer groups. A consumer makes one: rayqueue topic consume TOPIC --group NAME")
    else:
        rows = [(one.group, one.state, one.members) for one in found]
        output.table(("GROUP", "STATE", "MEMBERS"), rows, right=("MEMBERS",))


@group_group.command(epilog=examples("rayqueue group describe stats", "rayqueue group describe stats --json"))
@click.argument("groups", nargs=-1, required=True, metavar="GROUP...")
@json_option
@connection_options
def describe(groups: tuple[str, ...], as_json: bool, connection: Connection) -> None:
    """Shows a group: its members, what they have, and how far each partition is behind."""
    with connection.admin() as admin:
        found = [admin.describe_group(name) for name in groups]
    if as_json:
        output.write_json([one.to_dict() for one in found] if len(found) > 1 else found[0].to_dict())
        return
    for number, one in enumerate(found):
        if number:
            output.write("")
        _show(one)


def _show(group: GroupDescription) -> None:
    lag = "lag unknown" if group.lag is None else f"lag {group.lag:,}"
    members = output.count_text(len(group.members), "member")
    output.write(f"{group.group}: {group.state}, {members}, {lag}")
    output.write(f"epoch {group.epoch}, assignor {group.assignor or '-'}, coordinator on broker {group.coordinator}")
    if group.members:
        output.write("")
        columns = ("MEMBER", "INSTANCE", "CLIENT", "HOST", "EPOCH", "HEARD", "PARTITIONS", "GIVING UP", "TO COME")
        output.table(columns, [_member_row(member) for member in group.members], right=("EPOCH",))
    if group.offsets:
        output.write("")
        rows = [
            (o.topic, o.partition, o.committed, o.start, o.end, o.lag, o.member_id or None, _moment(o.committed_ms))
            for o in group.offsets
        ]
        numbers = ("PARTITION", "COMMITTED", "START", "END", "LAG")
        output.table(("TOPIC", *numbers, "MEMBER", "COMMITTED AT"), rows, right=numbers)
    for offset in group.offsets:
        if offset.error:
            output.say(f"{offset.topic}-{offset.partition}: {offset.error}")


def _member_row(member: GroupMember) -> tuple[Any, ...]:
    to_come = set(member.target) - set(member.assignment)
    revoking = f"{len(member.revoking)} since {member.behind_s:.0f} s" if member.revoking else None
    return (
        member.member_id,
        member.instance_id or None,
        member.client_id,
        member.host,
        member.epoch,
        f"{member.heard_s:.1f} s ago",
        len(member.assignment),
        revoking,
        len(to_come) or None,
    )


def _moment(ms: int) -> str | None:
    return datetime.fromtimestamp(ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ") if ms else None


def _offsets(given: tuple[str, ...]) -> dict[tuple[str, int], int]:
    """clicks:0=17 as {("clicks", 0): 17}."""
    found = {}
    for text in given:
        where, equals, offset = text.partition("=")
        topic, colon, number = where.rpartition(":")
        if not (equals and colon and topic and number.isdigit() and offset.isdigit()):
            raise click.UsageError(f"{text!r} is not TOPIC:PARTITION=OFFSET such as clicks:0=17")
        found[topic, int(number)] = int(offset)
    return found


@group_group.command(
    epilog=examples(
        "rayqueue group seek stats --to start --dry-run         what would change",
        "rayqueue group seek stats --to @2026-01-31T12:00       the first record at or after that time",
        "rayqueue group seek stats --to end --topic clicks",
        "rayqueue group seek stats clicks:0=17 clicks:1=20",
    )
)
@click.argument("group")
@click.argument("offsets", nargs=-1, metavar="TOPIC:PARTITION=OFFSET...")
@click.option("--to", metavar="start|end|@TIME", help="Where to, in every partition the group has committed.")
@click.option(
    "--topic", "topics", multiple=True, metavar="TOPIC", help="Only (and all of) this topic; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Show it, change nothing.")
@json_option
@connection_options
def seek(
    group: str,
    offsets: tuple[str, ...],
    to: str | None,
    topics: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    connection: Connection,
) -> None:
    """Moves the committed offsets of GROUP, which must have no members at that time."""
    if (to is None) == (not offsets):
        raise click.UsageError("give --to start, --to end or --to @TIME; or TOPIC:PARTITION=OFFSET, ...")
    if offsets and topics:
        raise click.UsageError("--topic goes with --to: TOPIC:PARTITION=OFFSET names its topic")
    place: Any = _offsets(offsets) if to is None else _place(to)
    with connection.admin() as admin:
        moved = admin.reset_group_offsets(group, place, dry_run, topics or None)
    if as_json:
        output.write_json([one.to_dict() for one in moved])
    elif not moved:
        output.say(f"Group {group} has committed nothing: name a topic with --topic.")
    else:
        _show_moved(moved)
        if dry_run:
            output.say("Nothing was changed: leave out --dry-run to do it.")


def _place(text: str) -> str | int:
    word = text.strip().lower()
    if word in ("start", "earliest", "beginning"):
        return "earliest"
    if word in ("end", "latest"):
        return "latest"
    if word.startswith("@"):
        return parse_time(text.strip()[1:])
    raise click.UsageError(f"--to is start, end or a time such as @2026-01-31, not {text!r}")


def _show_moved(moved: list[OffsetReset]) -> None:
    rows = [(one.topic, one.partition, one.before, one.after) for one in moved]
    output.table(("TOPIC", "PARTITION", "BEFORE", "AFTER"), rows, right=("PARTITION", "BEFORE", "AFTER"))


@group_group.command(
    epilog=examples("rayqueue group delete stats", "rayqueue group delete stats --topic clicks   its offsets only")
)
@click.argument("group")
@click.option(
    "--topic", "topics", multiple=True, metavar="TOPIC", help="Only its offsets in this topic; may be repeated."
)
@json_option
@connection_options
def delete(group: str, topics: tuple[str, ...], as_json: bool, connection: Connection) -> None:
    """Deletes GROUP with its committed offsets; it must have no members."""
    with connection.admin() as admin:
        if not topics:
            admin.delete_group(group)
        else:
            named = [(topic, p.partition) for topic in topics for p in admin.describe_topic(topic).partitions]
            admin.delete_group_offsets(group, named)
    if as_json:
        output.write_json({"group": group, "topics": list(topics) or None})
    elif topics:
        output.write(f"Deleted what group {group} had committed in {', '.join(topics)}.")
    else:
        output.write(f"Deleted group {group}.")
