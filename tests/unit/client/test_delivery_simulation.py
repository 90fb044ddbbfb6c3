"""The delivery machine against logs that break, move, lose answers and refuse: seeded, thousands of schedules.

The log's side is the real producer state (`replication.producer_state`). What must hold, whatever happens: no batch is
in a log twice; an acked one is in it, where the ack said; acked ones stand in the order in which they were produced;
one that failed for certain is not in it; and when the faults end, everything that is left gets through.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from rayqueue.client.delivery import (
    Connect,
    Delivered,
    Delivery,
    DeliverySettings,
    Disconnect,
    Failed,
    NeedProducerId,
    RefreshMetadata,
    Send,
)
from rayqueue.client.lanes import Batch, Lane
from rayqueue.errors import (
    BrokerNotAvailable,
    DeliveryTimeout,
    NotEnoughReplicas,
    NotLeaderOrFollower,
    RayQueueError,
    RecordTooLarge,
)
from rayqueue.protocol.messages import BatchHeader, ProduceBatch
from rayqueue.replication.producer_state import ProducerStates

NODES = ("A", "B")
PARTITIONS = 3


class Log:
    """A partition: its batches, and which node leads it."""

    def __init__(self) -> None:
        self.states = ProducerStates()
        self.rows: list[int] = []
        self.leader = "A"
        self.end = 0

    def append(self, header: ProduceBatch, row: int) -> int:
        count = header.record_count
        seen = self.states.check(header.producer_id, header.producer_epoch, header.base_sequence, count)
        if seen is not None:
            return seen.base_offset
        base, self.end = self.end, self.end + count
        stamp = (header.producer_id, header.producer_epoch, header.base_sequence)
        self.states.append(BatchHeader(base, self.end - 1, count, 0, *stamp, 0, 0, 0, 0), 0, self.end)
        self.rows.append(row)
        return base


class World:
    """The machine, the logs, and what is on its way between them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.faults = True
        self.now = 0.0
        settings = DeliverySettings(-1, True, 1000, self.random.choice([1, 2, 5]), 1 << 20, 80.0, 400.0)
        self.machine = Delivery(settings, lambda attempt: 5.0 * 2 ** min(attempt, 4))
        self.logs = [Log() for _ in range(PARTITIONS)]
        self.lanes = [self.machine.make_lane("t", b"", p) for p in range(PARTITIONS)]
        self.links: dict[str, tuple[str, list[Send]]] = {}  # node: (link, requests on their way)
        self.dead: set[str] = set()
        self.next_id = 0
        self.rows = 0
        self.timeout_ms = 400.0
        self.poisoned: set[int] = set()
        self.produced: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}
        self.acked: dict[int, tuple[int, int]] = {}  # row: (partition, offset)
        self.failed: dict[int, RayQueueError] = {}

    def produce(self) -> None:
        partition = self.random.randrange(PARTITIONS)
        lane: Lane = self.lanes[partition]
        row, self.rows = self.rows, self.rows + 1
        if self.faults and self.random.random() < 0.05:
            self.poisoned.add(row)
        self.produced[partition].append(row)
        self.machine.add(
            [Batch(lane, self.random.randint(1, 9), 10, self.now + self.timeout_ms, message=row, part=row)]
        )

    def perform(self, effects: list[Any]) -> None:
        for effect in effects:
            match effect:
                case Delivered(batch, offset, _):
                    assert batch.part not in self.acked
                    assert batch.part not in self.failed
                    self.acked[batch.part] = (batch.lane.partition, offset)
                case Failed(batch, error):
                    assert batch.part not in self.acked
                    self.failed[batch.part] = error
                case Connect(node):
                    if node in self.dead:
                        error = BrokerNotAvailable("dead")
                        self.perform(self.machine.disconnected(node, None, error, self.now))
                    else:
                        link = f"{node}-{self.random.random()}"
                        self.links[node] = (link, [])
                        self.machine.connected(node, link, 8)
                case Disconnect(link):
                    self.links = {n: pair for n, pair in self.links.items() if pair[0] != link}
                case Send(node, link, _, _):
                    if self.links.get(node, ("",))[0] == link:
                        self.links[node][1].append(effect)
                case RefreshMetadata():
                    self.refresh()
                case NeedProducerId():
                    self.next_id += 1
                    self.machine.set_producer_id(self.next_id, 32_760)

    def refresh(self) -> None:
        self.machine.refreshed("t")
        for lane, log in zip(self.lanes, self.logs, strict=True):
            gone = self.faults and self.random.random() < 0.1
            self.machine.set_leader(lane, None if gone else log.leader, 0)

    def serve(self, node: str) -> None:
        """The oldest request of a node is answered, or its answer is lost with the link."""
        link, requests = self.links[node]
        if not requests:
            return
        send = requests.pop(0)
        results: list[tuple[int, int, RayQueueError | None]] = []
        for header, row in zip(send.request.batches, send.rows, strict=True):
            results.append(self.apply(node, header, row))
        if self.faults and self.random.random() < 0.1:
            self.break_link(node)
        else:
            self.perform(self.machine.answered(node, link, results, self.now))

    def apply(self, node: str, header: ProduceBatch, row: int) -> tuple[int, int, RayQueueError | None]:
        log = self.logs[header.partition]
        try:
            if log.leader != node:
                raise NotLeaderOrFollower("moved")
            if row in self.poisoned:
                raise RecordTooLarge("poison")
            if self.faults and self.random.random() < 0.1:
                raise NotEnoughReplicas("busy")
            return log.append(header, row), -1, None
        except RayQueueError as error:
            return -1, -1, error

    def break_link(self, node: str) -> None:
        if node in self.links:
            link, _ = self.links.pop(node)
            self.perform(self.machine.disconnected(node, link, BrokerNotAvailable("broken"), self.now))

    def step(self) -> None:
        event = self.random.choices(
            ["produce", "serve", "time", "break", "move", "die", "revive"], [30, 40, 20, 2, 2, 1, 3]
        )[0]
        node = self.random.choice(NODES)
        if event == "produce":
            self.produce()
        elif event == "serve" and node in self.links:
            self.serve(node)
        elif event == "time":
            self.now += self.random.choice([1, 5, 30])
        elif event == "break":
            self.break_link(node)
        elif event == "move":
            self.random.choice(self.logs).leader = node
        elif event == "die":
            self.dead.add(node)
            self.break_link(node)
        elif event == "revive":
            self.dead.discard(node)
        self.perform(self.machine.poll(self.now))
        self.machine.validate()
        for lane in self.lanes:
            lane.validate()

    def heal(self) -> None:
        """No more faults: everything left gets through."""
        self.faults = False
        self.poisoned.clear()
        self.dead.clear()
        self.timeout_ms = 1e9
        before = len(self.failed)
        for _ in range(10):
            self.produce()
        rounds = 0
        while any(not lane.idle for lane in self.lanes):
            rounds += 1
            assert rounds < 3000, f"stuck: {self.lanes}"
            self.now += 1
            self.perform(self.machine.poll(self.now))
            for node in list(self.links):
                self.serve(node)
        late = {row for row in self.failed if row >= self.rows - 10}
        assert not late, f"failed without a fault ({before} before)"

    def check(self) -> None:
        for partition, log in enumerate(self.logs):
            assert len(set(log.rows)) == len(log.rows), f"duplicates in partition {partition}: {log.rows}"
            order = {row: place for place, row in enumerate(log.rows)}
            acked = [row for row in self.produced[partition] if row in self.acked]
            assert all(row in order for row in acked), "an acked batch is lost"
            places = [order[row] for row in acked]
            assert places == sorted(places), "acked batches out of order"
            offsets = [self.acked[row][1] for row in acked]
            assert offsets == sorted(offsets)
            for row in self.produced[partition]:
                assert row in self.acked or row in self.failed
                if isinstance(self.failed.get(row), RecordTooLarge):
                    assert row not in order
                elif row in self.failed:
                    assert isinstance(self.failed[row], DeliveryTimeout)
                    assert row not in order or "not known" in str(self.failed[row])


@pytest.mark.parametrize("block", range(4))
def test_nothing_is_lost_doubled_or_out_of_order(block: int, soak: int) -> None:
    acked = failed = 0
    for seed in range(block * 25 * soak, (block + 1) * 25 * soak):
        world = World(seed)
        try:
            for _ in range(250):
                world.step()
            world.heal()
            world.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acked += len(world.acked)
        failed += len(world.failed)
    assert acked > 1000, "the schedules got something through"
    assert failed > 20, "the faults had an effect"
