"""What the demo prints: the line that counts, failures in plain sight, JSON that says the same."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from rayqueue.admin_descriptions import BrokerDescription, PartitionDescription, TopicDescription
from rayqueue.demo.board import HandOver
from rayqueue.demo.failover import Failover, Killed, Victim
from rayqueue.demo.flow import Flow
from rayqueue.demo.progress import PlainLines, table
from rayqueue.demo.report import Outcome, rates, show, to_dict
from rayqueue.demo.source import FLIGHTS_SCHEMA, WEATHER_SCHEMA
from rayqueue.demo.topics import TOPICS
from rayqueue.demo.verify import Aircraft, Check, prepare

FLIGHTS_BY = {"board-1": 4, "board-2": 3, "board-4": 5}
BANDS = [{"label": "under 5 mph", "departures": 2, "delay_sum": 25}]


def _flow() -> Flow:
    flow = Flow()
    flow.take("delays", _event("progress", consumed={"flights": 5}, produced={"delays": 4}, seconds=0.5))
    flow.take("flights-producer", _event("done", produced={"flights": 10}, seconds=2.0, result=[]))
    flow.take("weather-producer", _event("done", produced={"weather": 3}, seconds=1.0, result=[]))
    flow.take("delays", _event("done", consumed={"flights": 10}, produced={"delays": 9}, seconds=4.0, result=[]))
    for name in ("wind", "visibility"):
        flow.take(name, _event("done", consumed={"flights": 10, "weather": 3}, seconds=4.0, result=BANDS))
    return flow


def _event(event: str, **more: object) -> dict[str, object]:
    return {"event": event, "consumed": {}, "produced": {}, "seconds": 0.0, "gap_s": 0.0, **more}


def _partitions(count: int) -> list[PartitionDescription]:
    return [
        PartitionDescription(p, p % 3, 1, [p % 3], [p % 3], start_offset=0, end_offset=5, size=99) for p in range(count)
    ]


def _outcome(*checks: Check) -> Outcome:
    topics = [
        TopicDescription(t.name, "00" * 16, _partitions(t.partitions), t.schema, t.key_column, {}, []) for t in TOPICS
    ]
    return Outcome(
        source=prepare(pa.Table.from_pylist([], FLIGHTS_SCHEMA), pa.Table.from_pylist([], WEATHER_SCHEMA)),
        flow=_flow(),
        group=HandOver(
            4712, 5, {"board-1": 4, "board-2": 3, "board-4": 5}, 10, 2, 0, {1: "board-1"}, 3.5, 0.25, [0, 2]
        ),
        failover=Failover(Killed(Victim(1, 4711, {("flights", 1): 0}), 100.0, 4), [], 3.2, 0.41),
        topics=topics,
        brokers=[BrokerDescription(b, "127.0.0.1", 4000 + b, "abcdef0123456789", True, 4, 4) for b in range(3)],
        checks=list(checks),
        aircraft=Aircraft("N1", 4, 2, "EWR-IAH 01-01", "IAH-EWR 12-31"),
        segments=Path("/data/0/partitions/flights-00-1"),
        kept=None,
        name="demo-1",
        seconds=12.3,
    )


def _printed(outcome: Outcome) -> str:
    out = io.StringIO()
    show(outcome, Console(file=out, width=110, highlight=False))
    return out.getvalue()


def test_a_good_run_ends_with_the_count() -> None:
    text = _printed(_outcome(Check("10 flights in, 10 read back", True), Check("checksum", True)))
    assert "\n10 flights in, 10 read back\nDone, after 12 s.\n" in text
    assert "FAILED" not in text
    assert "Aircraft N1: 4 flights, all in partition 2" in text
    assert "22 messages in and 36 out in 4.0 s,\n4 of 9 delays were written before the last flight was in." in text
    assert "by wind, mph" in text and "12.5" in text
    assert "process 4711, was killed (SIGKILL) with 4 flights in" in text and "It led flights-1." in text
    assert "the longest time without an ack was 0.41 s" in text and "3.2 s after it was killed" in text
    assert "flights-1 to board-1,\n  all of them 3.50 s later. 2 flights were processed twice." in text
    assert "board-4 joined, and 0.25 s later had flights-0, flights-2." in text
    assert "open_stream('/data/0/partitions/flights-00-1/00000000000000000000.arrow')" in text


def test_a_failed_check_is_in_plain_sight() -> None:
    outcome = _outcome(Check("10 flights in, 10 read back", True), Check("checksum", False))
    text = _printed(outcome)
    assert "FAILED checksum" in text and "A CHECK FAILED" in text and "Done" not in text
    assert not outcome.ok


def test_json_says_the_same() -> None:
    found = json.loads(json.dumps(to_dict(_outcome(Check("10 flights in, 10 read back", True)))))
    assert found["ok"] is True
    assert found["messages_in"] == {"delays": 9, "flights": 10, "weather": 3}
    assert found["messages_per_second"]["flights-producer"] == 5
    assert found["failover"] == {
        "broker_id": 1, "pid": 4711, "led": [["flights", 1]], "flights_in": 4, "longest_without_ack_s": 0.41,
        "in_sync_again_s": 3.2,
    }  # fmt: skip
    assert found["group"]["flights_by"] == FLIGHTS_BY and found["group"]["again"] == 2
    assert [topic["name"] for topic in found["topics"]] == ["flights", "weather", "delays"]


def test_a_run_without_a_kill_says_so() -> None:
    outcome = _outcome(Check("10 flights in, 10 read back", True))._replace(failover=None)
    assert "not in this run: that takes two brokers" in _printed(outcome)
    assert to_dict(outcome)["failover"] is None


def test_rates_count_what_a_service_is_for() -> None:
    assert rates(_flow()) == {
        "delays": 2.5, "flights-producer": 5.0, "weather-producer": 3.0, "wind": 3.25, "visibility": 3.25,
    }  # fmt: skip


def test_progress_on_a_terminal_and_in_a_pipe() -> None:
    out = io.StringIO()
    console = Console(file=out, width=110, highlight=False)
    console.print(table(_flow(), {"flights": 20, "weather": 3, "delays": 9}))
    lines = PlainLines(console, _flow())
    lines.show()
    lines._last -= 10
    lines.show()
    text = out.getvalue()
    assert "━" * 15 in text and "━" * 31 not in text
    assert text.count("in: delays 9, flights 10, weather 3 | read by services: 36") == 1
