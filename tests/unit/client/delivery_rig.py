"""A delivery machine with nodes whose links open at once, driven by a test."""

from __future__ import annotations

from typing import Any

from rayqueue.client.delivery import Delivery
from rayqueue.client.delivery_effects import Connect, DeliverySettings, Send
from rayqueue.client.lanes import Batch, Lane
from rayqueue.errors import BrokerNotAvailable, RayQueueError

BACKOFF = 10.0
OK = None


class Rig:
    """A machine with lanes led by nodes, links that open at once, and a record of all effects."""

    def __init__(self, **settings: Any) -> None:
        defaults: dict[str, Any] = {
            "acks": -1, "idempotent": True, "retries": 1000, "max_in_flight": 5, "max_request_size": 1 << 20,
            "request_timeout_ms": 500.0, "delivery_timeout_ms": 2000.0,
        }  # fmt: skip
        self.machine = Delivery(DeliverySettings(**{**defaults, **settings}), lambda attempt: BACKOFF)
        self.now = 0.0
        self.links: dict[str, str] = {}
        self.effects: list[Any] = []
        self.lanes: list[Lane] = []
        if self.machine._settings.idempotent:
            self.machine.set_producer_id(7, 0)

    def lane(self, node: str | None = "A", partition: int = 0) -> Lane:
        lane = self.machine.make_lane("t", b"t" * 16, partition)
        self.machine.set_leader(lane, node, 1)
        self.lanes.append(lane)
        return lane

    def add(self, lane: Lane, count: int = 10, size: int = 100) -> Batch:
        batch = Batch(
            lane, count, size, self.now + self.machine._settings.delivery_timeout_ms, message=f"b{lane._numbered}"
        )
        self.machine.add([batch])
        return batch

    def poll(self) -> list[Send]:
        """Everything due, links opened; the requests that were sent."""
        sends = []
        while True:
            effects = self.machine.poll(self.now)
            self.effects += effects
            sends += [e for e in effects if isinstance(e, Send)]
            connects = [e for e in effects if isinstance(e, Connect)]
            for connect in connects:
                self.links[str(connect.node)] = f"{connect.node}{len(self.effects)}"
                self.machine.connected(connect.node, self.links[str(connect.node)], 64)
            self.machine.validate()
            for lane in self.lanes:
                lane.validate()
            if not connects:
                return sends

    def answer(self, *results: RayQueueError | int | None, node: str = "A") -> list[Any]:
        outcomes = [(r, -1, None) if isinstance(r, int) else (0 if r is None else -1, -1, r) for r in results]
        effects = self.machine.answered(node, self.links[node], outcomes, self.now)
        self.machine.validate()
        self.effects += effects
        return effects

    def fail_link(self, node: str = "A") -> list[Any]:
        effects = self.machine.disconnected(node, self.links[node], BrokerNotAvailable("gone"), self.now)
        self.machine.validate()
        self.effects += effects
        return effects

    def establish(self, lane: Lane) -> None:
        """The first ack, after which the whole window is open."""
        self.add(lane, 1)
        assert len(self.poll()) == 1
        self.answer(OK)


def sequences(sends: list[Send]) -> list[tuple[int, int]]:
    return [(b.producer_epoch, b.base_sequence) for send in sends for b in send.request.batches]


def rows(sends: list[Send]) -> list[Any]:
    return [row for send in sends for row in send.rows]
