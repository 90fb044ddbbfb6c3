"""The demo's services: what a user would write, each run in its own process by `python -m rayqueue.demo.services`.

They are plain clients that reach the cluster by address, without Ray. A process reads its `Job` as one line of JSON
from standard input, reports with one line of JSON an event on standard output, waits for the line `go`, and ends when
its work is done, or when standard input ends: then the demo that started it is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

import rayqueue
from rayqueue.demo import source, weather_impact
from rayqueue.demo.acks import AckGaps
from rayqueue.demo.board import FIRST, GROUP, LATE
from rayqueue.demo.topics import DELAYS, FLIGHTS, WEATHER, departures, reading_to_json, readings_from_json

REPORT_EVERY_S = 0.2
COMMIT_EVERY_MS = 500
BOARD_ROWS = 2_000  # at a time: a service that is killed has processed a little, not all there is
ROW_DAYS = 10  # each tenth day is sent flight by flight, the others as one batch a day
PIECES_MIN = 200  # of the flights: few of them are sent in pieces smaller than a day


@dataclass(frozen=True)
class Job:
    """What a service needs to know.

    Attributes:
        service: a name in SERVICES.
        bootstrap_servers: the cluster's address.
        token: the cluster's token, or None.
        expected: records of each topic that will come: producers send so many of the source's, and a consumer ends
            when it has them all.
        pace_s: the flights are sent in no less than this time, so that things can happen meanwhile.
    """

    service: str
    bootstrap_servers: str
    token: str | None
    expected: dict[str, int]
    pace_s: float = 0.0

    def client(self) -> dict[str, Any]:
        """Settings of this service's clients."""
        return {"bootstrap.servers": self.bootstrap_servers, "token": self.token, "client.id": f"demo-{self.service}"}


class Report:
    """Counts of records in and out by topic, told to the demo a few times a second, by the service's one thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._next = 0.0
        self._began: float | None = None
        self.consumed: dict[str, int] = {}
        self.produced: dict[str, int] = {}
        self.gaps = AckGaps()

    def begin(self) -> None:
        """The work begins: `seconds` of the events count from here."""
        self._began = time.monotonic()

    def tell(self, event: str, **more: Any) -> None:
        """Sends an event now."""
        seconds = 0.0 if self._began is None else time.monotonic() - self._began
        counts = {"consumed": self.consumed, "produced": self.produced, "gap_s": self.gaps.longest_s}
        print(json.dumps({"event": event, "seconds": seconds, **counts, **more}), file=self._out, flush=True)

    def progress(self) -> None:
        """Sends the counts, unless that was done just now."""
        if time.monotonic() >= self._next:
            self.tell("progress")
            self._next = time.monotonic() + REPORT_EVERY_S


Wait = Callable[[], threading.Event]  # returns when the work is to begin: an event that is set when it is to end
Result = list[dict[str, Any]]


def produce_flights(job: Job, report: Report, wait: Wait) -> Result:
    """Sends the flights a day at a time: most days as one Arrow batch, each tenth day flight by flight."""
    flights = source.read_flights(job.expected[FLIGHTS])
    days = list(_days(flights, -(-flights.num_rows // PIECES_MIN)))
    wait()
    pending: list[Any] = []
    began = time.monotonic()
    with rayqueue.Producer(job.client()) as producer:
        for number, day in enumerate(days):
            _wait_until(began + job.pace_s * number / len(days))
            if number % ROW_DAYS:
                pending.append(report.gaps.batch(producer, FLIGHTS, day))
            else:
                pending.extend(report.gaps.record(producer, FLIGHTS, value=flight) for flight in day.to_pylist())
            pending = _acked(pending, FLIGHTS, report)
        _all_acked(pending, FLIGHTS, report)
    return []


def produce_weather(job: Job, report: Report, wait: Wait) -> Result:
    """Sends the weather readings one by one, as JSON, keyed by airport."""
    readings = source.read_weather(job.expected[WEATHER]).to_pylist()
    wait()
    pending: list[Any] = []
    with rayqueue.Producer(job.client(), value_serializer=reading_to_json, key_serializer="utf-8") as producer:
        for number, reading in enumerate(readings):
            pending.append(producer.produce(WEATHER, value=reading, key=reading["origin"]))
            if number % 1000 == 0:
                pending = _acked(pending, WEATHER, report)
        _all_acked(pending, WEATHER, report)
    return []


def keep_board(job: Job, report: Report, wait: Wait) -> Result:
    """One of the services that share the flights: what comes to the group goes to one of them. It says at once what it
    has processed, and which partitions it has; how far it has come is committed each half second."""
    stop = wait()
    with rayqueue.Consumer(
        FLIGHTS,
        group_id=GROUP,
        auto_offset_reset="earliest",
        auto_commit_interval_ms=COMMIT_EVERY_MS,
        **_keywords(job.client()),
    ) as consumer:
        _process(consumer, report, stop)
    return []


def _process(consumer: rayqueue.Consumer, report: Report, stop: threading.Event) -> None:
    had: list[int] = []
    while not stop.is_set():
        flights = consumer.consume_arrow(max_records=BOARD_ROWS, timeout=REPORT_EVERY_S)
        report.consumed[FLIGHTS] = report.consumed.get(FLIGHTS, 0) + flights.num_rows
        has = [tp.partition for tp in consumer.assignment()]
        if flights.num_rows or has != had:
            report.tell("progress", processed=_spans(flights), has=has)
            had = has
        else:
            report.progress()


def _spans(records: pa.Table) -> list[tuple[int, int, int]]:
    """(partition, first offset, last offset) of what is there: offsets of a table from one partition have no holes."""
    spans = records.group_by("partition").aggregate([("offset", "min"), ("offset", "max")])
    return [(row["partition"], row["offset_min"], row["offset_max"]) for row in spans.to_pylist()]


def make_delays(job: Job, report: Report, wait: Wait) -> Result:
    """Consumes `flights` and produces `delays`, while the flights still arrive."""
    pending: list[Any] = []
    with rayqueue.Producer(job.client()) as producer:
        for _, flights in _records(job, report, wait, FLIGHTS):
            left = departures(flights)
            if left.num_rows:
                pending.append(producer.produce_batch(DELAYS, left))
            pending = _acked(pending, DELAYS, report)
        _all_acked(pending, DELAYS, report)
    return []


def delay_by_wind(job: Job, report: Report, wait: Wait) -> Result:
    """Reads `delays` and `weather` at once: mean departure delay by the wind of the hour."""
    return _delay_by(weather_impact.WIND, DELAYS, job, report, wait)


def delay_by_visibility(job: Job, report: Report, wait: Wait) -> Result:
    """Reads `flights` and `weather` at once: mean departure delay by the visibility of the hour."""
    return _delay_by(weather_impact.VISIBILITY, FLIGHTS, job, report, wait)


def _delay_by(column: str, delays_from: str, job: Job, report: Report, wait: Wait) -> Result:
    departed: list[pa.Table] = []
    readings: list[pa.Table] = []
    for topic, records in _records(job, report, wait, delays_from, WEATHER):
        if topic == WEATHER:
            readings.append(readings_from_json(records["value"]))
        else:
            departed.append(records.select(["origin", "time_hour", "dep_delay"]))
    if not departed or not readings:
        return []
    bands = weather_impact.weather_impact(pa.concat_tables(departed), pa.concat_tables(readings), column)
    return [band._asdict() for band in bands]


SERVICES: dict[str, Callable[[Job, Report, Wait], Result]] = {
    "flights-producer": produce_flights,
    "weather-producer": produce_weather,
    "delays": make_delays,
    "wind": delay_by_wind,
    "visibility": delay_by_visibility,
    **dict.fromkeys((*FIRST, LATE), keep_board),
}


def _wait_until(moment: float) -> None:
    if (left := moment - time.monotonic()) > 0:
        threading.Event().wait(left)


def _days(flights: pa.Table, most: int) -> Iterator[pa.Table]:
    """Slices of flights of one day each (the source is sorted by day), of at most so many rows."""
    months, days = flights["month"].to_pylist(), flights["day"].to_pylist()
    start = 0
    for row in range(1, len(days) + 1):
        if row in (len(days), start + most) or (months[row], days[row]) != (months[start], days[start]):
            yield flights.slice(start, row - start)
            start = row


def _acked(pending: list[Any], topic: str, report: Report) -> list[Any]:
    """Counts what was acked and returns the rest; raises the error of a record that was not written."""
    waiting = []
    acked = 0
    for future in pending:
        if not future.done():
            waiting.append(future)
            continue
        result = future.result()
        acked += 1 if hasattr(result, "offset") else sum(count for _, _, count in result)
    report.produced[topic] = report.produced.get(topic, 0) + acked
    report.progress()
    return waiting


def _all_acked(pending: list[Any], topic: str, report: Report) -> None:
    """Waits for the acks that are missing, in order, counting as they come."""
    while pending:
        pending[0].result()
        pending = _acked(pending, topic, report)


def _records(job: Job, report: Report, wait: Wait, *topics: str) -> Iterator[tuple[str, pa.Table]]:
    """What arrives in the topics, from their beginning, until all that is expected is there."""
    missing = {topic: job.expected[topic] for topic in topics}
    with rayqueue.Consumer(*topics, auto_offset_reset="earliest", **_keywords(job.client())) as consumer:
        wait()
        while any(missing.values()):
            records = consumer.consume_arrow(timeout=REPORT_EVERY_S)
            for topic, part in _by_topic(records):
                missing[topic] -= part.num_rows
                report.consumed[topic] = report.consumed.get(topic, 0) + part.num_rows
                yield topic, part
            report.progress()


def _keywords(settings: dict[str, Any]) -> dict[str, Any]:
    return {name.replace(".", "_"): value for name, value in settings.items()}


def _by_topic(records: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    for topic in records["topic"].unique().to_pylist() if records.num_rows else []:
        yield topic, records.filter(pc.equal(records["topic"], topic))


def _go(report: Report, lines: TextIO) -> threading.Event:
    """Says that this service is ready, waits for the word, then listens for the end on standard input."""
    report.tell("ready")
    if lines.readline().strip() != "go":
        raise SystemExit("the demo ended before it began")
    report.begin()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(lines.fileno(), stop), name="demo-parent", daemon=True).start()
    return stop


def _listen(descriptor: int, stop: threading.Event) -> None:
    # Read past Python's own buffer: a daemon thread that holds its lock breaks the interpreter's exit.
    while os.read(descriptor, 1024):  # the only word that comes
        stop.set()
    print("the demo is gone: this service ends", file=sys.stderr, flush=True)
    os._exit(1)  # the main thread may wait on the cluster for long; nobody needs its result any more


def main() -> None:
    """Runs the service that the first line of standard input names."""
    job = Job(**json.loads(sys.stdin.readline()))
    report = Report(sys.stdout)
    try:
        result = SERVICES[job.service](job, report, lambda: _go(report, sys.stdin))
    except Exception as error:
        traceback.print_exc()  # before the event: on hearing of it the demo ends this process
        sys.stderr.flush()
        report.tell("failed", error=f"{type(error).__name__}: {error}")
        raise SystemExit(1) from error
    report.tell("done", result=result)


def encode_job(job: Job) -> str:
    """The line that starts a service."""
    return json.dumps(asdict(job)) + "\n"


if __name__ == "__main__":
    main()
