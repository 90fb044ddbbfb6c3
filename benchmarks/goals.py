"""The project's table of goals, row by row: what a run is held against. Nothing else has a must.

"must" decides whether a run passes; "aim" is what is hoped for. Where the table says "no gap" or "no CPU", `reading`
says what that is in numbers. Rows that need what is not there yet say what they come with, and get no verdict.
"""

from __future__ import annotations

from dataclasses import dataclass

RATIO = "ratio"
KAFKA, QUEUE = "kafka", "ray.util.queue"


@dataclass(frozen=True)
class Goal:
    """A row of the table, or a part of one.

    Attributes:
        key: what workloads call it.
        what: as the table has it.
        workload: which measures it.
        must, aim: in `unit`; the aim may be missing.
        higher_is_better: which side of them is good.
        peer: without which it cannot be measured; "" for none.
        reading: how words of the table are read as a number.
        comes_with: what has to be there before it can be measured; "" when it can.
    """

    key: str
    what: str
    workload: str
    must: float
    aim: float | None = None
    unit: str = RATIO
    higher_is_better: bool = True
    peer: str = KAFKA
    reading: str = ""
    comes_with: str = ""


def _lower(key: str, what: str, workload: str, must: float, aim: float | None, **more: str) -> Goal:
    return Goal(key, what, workload, must, aim, higher_is_better=False, **more)  # type: ignore[arg-type]


_NOBODY = {"peer": ""}

_TABLE = (
    Goal("rows_in", "rows in (`produce()` a record, with its future): to confluent-kafka's `produce()`", "w1", 1.2, 2),
    Goal("batches_in", "batches in, 100 B records, RF 1: to the steelman", "w1", 2, 4),
    Goal("batches_in_rows", "batches in, 100 B records, RF 1: to confluent's rows", "w1", 6, 12),
    Goal("items_awaited", "items one by one, each awaited: to `ray.util.queue`", "w1", 5, 10, peer=QUEUE),
    Goal(
        "items_pipelined",
        "items one by one, pipelined: to `ray.util.queue` (`put_async`, one item a call)",
        "w1", 100, 1000, peer=QUEUE,
    ),
    Goal("arrow_streamed", "Arrow out over the stream: to the steelman", "w2", 0.8, 1.2),
    Goal("arrow_mapped", "Arrow out, mapped on the same node: to the steelman", "w2", 3, 10),
    Goal("rows_out", "rows out: to confluent-kafka", "w2", 2, 4),
    _lower("cpu", "CPU-s/GB, batches in + out: to the steelman", "w2", 0.3, 0.15),
    _lower("p50_1000", "end to end p50 at 1,000/s, RF 1: to Kafka's best, warm", "w4", 1, 0.6),
    _lower("p99_1000", "end to end p99 at 1,000/s, RF 1: to Kafka's best, warm", "w4", 1, 0.6),
    _lower("p50_10000", "end to end p50 at 10,000/s, RF 1: to Kafka's best, warm", "w4", 0.5, 0.3),
    _lower("p99_10000", "end to end p99 at 10,000/s, RF 1: to Kafka's best, warm", "w4", 0.5, 0.3),
    _lower("leader_killed", "leader killed: longest time without an ack", "w10", 1000, 300, unit="ms", **_NOBODY),
    _lower(
        "coordinator_killed_produce", "coordinator killed: no gap in produce", "w10", 100, None, unit="ms", **_NOBODY,
        reading="longer without an ack than in the quiet while before, by the machine's own hiccups at most",
    ),
    _lower(
        "coordinator_killed_consume", "coordinator killed: no gap in consume", "w10", 100, None, unit="ms", **_NOBODY,
        reading="longer without a record than in the quiet while before, by the machine's own hiccups at most",
    ),
    _lower("idle_memory", "memory of an idle partition replica", "w10", 64, 16, unit="KiB", **_NOBODY),
    _lower(
        "idle_cpu", "1,000 idle partitions: no CPU", "w10", 0.5, None, unit="% of a core", **_NOBODY,
        reading="less than can be told from the noise of processes that wake twice a second anyway",
    ),
    _lower("created", "1,000 partitions created", "w10", 1, 0.3, unit="s", **_NOBODY),
    Goal("batches_in_rf3", "batches in, RF 3 acks=all: to the steelman", "w6", 3, 6),
    _lower("p50_rf3", "end to end p50 at 1,000/s, RF 3: to Kafka's best, warm", "w6", 0.3, 0.1),
    _lower("p99_rf3", "end to end p99 at 1,000/s, RF 3: to Kafka's best, warm", "w6", 0.3, 0.1),
    _lower("node_lost", "node lost", "w10", 3, 1.5, unit="s", **_NOBODY),
    Goal("ray_data", "Ray Data read: to `read_kafka`", "w9", 10, 20, comes_with="rayqueue.read_topic"),
)  # fmt: skip

GOALS: dict[str, Goal] = {goal.key: goal for goal in _TABLE}
