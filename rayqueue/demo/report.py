"""What the demo shows at the end: short, for a reader who sees rayqueue for the first time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from rayqueue.admin_descriptions import BrokerDescription, TopicDescription
from rayqueue.demo.board import FIRST, GROUP, LATE, VICTIM, HandOver
from rayqueue.demo.failover import Failover, names
from rayqueue.demo.flow import Flow
from rayqueue.demo.topics import DELAYS, FLIGHTS, TOPICS, WEATHER
from rayqueue.demo.verify import Aircraft, Check, Source
from rayqueue.demo.weather_impact import Band


class Outcome(NamedTuple):
    """All that a run found.

    Attributes:
        failover: of the leader that was killed; None: nobody could have taken over.
        group: what became of the group that shared the flights.
        topics: descriptions, in the order of TOPICS.
        segments: directory of the partition with most flights.
        kept: the data directory, when it stays.
        name: the cluster's.
        seconds: for the whole run.
    """

    source: Source
    flow: Flow
    failover: Failover | None
    group: HandOver
    topics: list[TopicDescription]
    brokers: list[BrokerDescription]
    checks: list[Check]
    aircraft: Aircraft | None
    segments: Path
    kept: Path | None
    name: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every check held."""
        return all(check.ok for check in self.checks)


def show(outcome: Outcome, out: Console) -> None:
    """Prints the results."""
    out.print()
    _show_topics(outcome, out)
    _show_partitions(outcome, out)
    _show_services(outcome, out)
    _show_failover(outcome, out)
    _show_group(outcome.group, out)
    _show_data(outcome, out)
    out.print("[bold]Checked[/]")
    for check in outcome.checks:
        out.print(f"  {'[green]ok[/]    ' if check.ok else '[bold red]FAILED[/]'} {check.text}")
    out.print()
    fingerprint = outcome.checks[0]
    out.print(fingerprint.text, style="bold green" if outcome.ok else "bold red")
    out.print(f"{'Done' if outcome.ok else 'A CHECK FAILED'}, after {outcome.seconds:.0f} s.")


def _grid(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, justify in columns:
        table.add_column(name, justify=justify, style=None, header_style="dim")  # type: ignore[arg-type]
    return table


def _show_topics(outcome: Outcome, out: Console) -> None:
    out.print("[bold]Topics[/]")
    rows = _grid(
        ("topic", "left"), ("", "left"), ("partitions", "right"), ("replicas", "right"), ("messages in", "right"),
        ("read by services", "right"), ("bytes of each", "right"),
    )  # fmt: skip
    for topic, described in zip(TOPICS, outcome.topics, strict=True):
        rows.add_row(
            topic.name, topic.what, str(topic.partitions), str(described.replication_factor),
            f"{outcome.flow.produced.get(topic.name, 0):,}",
            f"{outcome.flow.read(topic.name):,}", f"{described.size or 0:,}",
        )  # fmt: skip
    out.print(rows)
    out.print()


def _show_partitions(outcome: Outcome, out: Console) -> None:
    out.print("[bold]Partitions and their leaders[/]")
    rows = _grid(("broker", "left"), ("node", "left"), ("leads (messages)", "left"))
    for broker in outcome.brokers:
        parts = [
            f"{topic.name}-{p.partition} ({p.records or 0:,})"
            for topic in outcome.topics
            for p in topic.partitions
            if p.leader == broker.broker_id
        ]
        rows.add_row(f"{broker.broker_id}", f"{broker.node_id[:8]} {broker.host}:{broker.port}", ", ".join(parts))
    out.print(rows)
    out.print()


def rates(flow: Flow) -> dict[str, float]:
    """Messages per second of each service, while it worked: acked by producers, consumed by the others."""
    counts = {name: sum(topics.values()) for name, topics in flow.consumed.items()}
    counts["flights-producer"] = flow.produced.get(FLIGHTS, 0)
    counts["weather-producer"] = flow.produced.get(WEATHER, 0)
    return {name: count / max(flow.seconds[name], 1e-3) for name, count in counts.items()}


_WHAT = {
    "flights-producer": "flights: days as Arrow batches, each tenth day flight by flight",
    "weather-producer": "weather: reading by reading, as JSON",
    "delays": "reads flights, writes delays",
    "wind": "reads delays and weather, joins them",
    "visibility": "reads flights and weather, joins them",
    **dict.fromkeys((*FIRST, LATE), f"reads flights, in the group {GROUP!r}"),
}


_LIVES = {VICTIM: "killed in the middle", LATE: "added later"}


def _show_services(outcome: Outcome, out: Console) -> None:
    out.print("[bold]Services[/], a process each")
    rows = _grid(("service", "left"), ("", "left"), ("messages/s", "right"))
    for name, rate in rates(outcome.flow).items():
        rows.add_row(name, _WHAT[name], f"{rate:,.0f}")
    out.print(rows)
    flow = outcome.flow
    out.print()
    out.print(f"{flow.messages_in:,} messages in and {flow.messages_out:,} out in {max(flow.seconds.values()):.1f} s,")
    meanwhile = f"{flow.delays_meanwhile:,} of {flow.produced.get(DELAYS, 0):,}"
    out.print(f"{meanwhile} delays were written before the last flight was in.\n")
    for name, title in (("wind", "wind, mph"), ("visibility", "visibility, miles")):
        _show_means(f"Mean departure delay, minutes, by {title}", flow.results[name], out)


def _show_means(title: str, bands: list[dict[str, Any]], out: Console) -> None:
    found = [Band(**values) for values in bands]
    rows = _grid(*((band.label, "right") for band in found))
    rows.add_row(*(f"{band.mean_delay:.1f}" for band in found))
    out.print(title)
    out.print(rows)
    out.print()


def _show_failover(outcome: Outcome, out: Console) -> None:
    out.print("[bold]A leader is lost[/]")
    if (lost := outcome.failover) is None:
        out.print("  not in this run: that takes two brokers at least, one of them on this machine\n")
        return
    killed = lost.killed
    out.print(f"  broker {killed.victim.broker_id}'s replica actor, process {killed.victim.pid}, was killed (SIGKILL) "
              f"with {killed.flights:,} flights in.")  # fmt: skip
    out.print(f"  It led {names(killed.victim.leads)}. Others went on with them;")
    out.print(f"  the longest time without an ack was [bold]{lost.gap_s:.2f} s[/].")
    if lost.back_s is not None:
        out.print(f"  Started again, it held everything at most {lost.back_s:.1f} s after it was killed.")
    out.print()


def _show_group(group: HandOver, out: Console) -> None:
    out.print("[bold]A group shares the flights[/]: each goes to one of its services")
    rows = _grid(("service", "left"), ("flights", "right"), ("", "left"))
    for name, count in group.flights_by.items():
        rows.add_row(name, f"{count:,}", _LIVES.get(name, ""))
    out.print(rows)
    if group.taken:
        hands = ", ".join(f"flights-{partition} to {name}" for partition, name in group.taken.items())
        out.print(
            f"  {VICTIM} was killed (SIGKILL) with {group.flights:,} flights in; its partitions went on: {hands},"
        )
        out.print(f"  all of them [bold]{group.taken_s:.2f} s[/] later. {group.again:,} flights were processed twice.")
    if group.joined_s is not None:
        names = ", ".join(f"flights-{partition}" for partition in group.joined)
        out.print(f"  {LATE} joined, and {group.joined_s:.2f} s later had {names}.")
    out.print()


def _show_data(outcome: Outcome, out: Console) -> None:
    if (plane := outcome.aircraft) is not None:
        out.print(
            f"Aircraft {plane.tailnum}: {plane.flights} flights, all in partition {plane.partition}, "
            f"from {plane.first} to {plane.last}."
        )
    out.print("[bold]Where the data lies[/]: segments are plain Arrow IPC streams; any Arrow tool opens them")
    segment = outcome.segments / f"{0:020}.arrow"
    command = f"python -c \"import pyarrow as pa; print(pa.ipc.open_stream('{segment}').read_all())\""
    out.print(f"  {command}", soft_wrap=True, markup=False)
    if outcome.kept is None:
        out.print("  (this directory goes when the demo ends; `rayqueue demo --keep` leaves it)\n")
    else:
        brokers = f"--brokers {len(outcome.brokers)}"
        out.print("  it stays; to serve it again:")
        out.print(f"  rayqueue start --name {outcome.name} {brokers} --data-dir {outcome.kept}\n", soft_wrap=True)


def to_dict(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain values for JSON."""
    flow = outcome.flow
    return {
        "ok": outcome.ok,
        "seconds": round(outcome.seconds, 3),
        "checks": [check._asdict() for check in outcome.checks],
        "messages_in": flow.produced,
        "messages_out": flow.consumed,
        "messages_per_second": {name: round(rate) for name, rate in rates(flow).items()},
        "delays_meanwhile": flow.delays_meanwhile,
        "results": flow.results,
        "failover": None if outcome.failover is None else _failover_dict(outcome.failover),
        "group": outcome.group._asdict(),
        "topics": [topic.to_dict() for topic in outcome.topics],
        "brokers": [
            {"broker_id": b.broker_id, "host": b.host, "port": b.port, "node_id": b.node_id} for b in outcome.brokers
        ],
        "aircraft": None if outcome.aircraft is None else outcome.aircraft._asdict(),
        "segments": str(outcome.segments),
        "data_dir": None if outcome.kept is None else str(outcome.kept),
    }


def _failover_dict(lost: Failover) -> dict[str, Any]:
    killed = lost.killed
    return {
        "broker_id": killed.victim.broker_id,
        "pid": killed.victim.pid,
        "led": [list(place) for place in sorted(killed.victim.leads)],
        "flights_in": killed.flights,
        "longest_without_ack_s": round(lost.gap_s, 3),
        "in_sync_again_s": None if lost.back_s is None else round(lost.back_s, 3),
    }
