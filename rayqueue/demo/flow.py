"""What the services have reported so far."""

from __future__ import annotations

from typing import Any

from rayqueue.demo.topics import DELAYS


class Flow:
    """Counts of messages by topic and service, from the services' events.

    Attributes:
        produced: acked messages by topic.
        consumed: messages by service, by topic.
        seconds: how long each service worked, so far.
        gap_s: the longest time each service went without an ack while it waited for one (see `acks.AckGaps`).
        results: what each finished service found.
        delays_meanwhile: messages in `delays` when the last flight was acked.
    """

    def __init__(self) -> None:
        self.produced: dict[str, int] = {}
        self.consumed: dict[str, dict[str, int]] = {}
        self.seconds: dict[str, float] = {}
        self.gap_s: dict[str, float] = {}
        self.results: dict[str, list[dict[str, Any]]] = {}
        self.delays_meanwhile = 0

    def take(self, service: str, event: dict[str, Any]) -> None:
        """Takes an event of a service (see `services.Report`)."""
        self.produced.update(event["produced"])
        self.consumed[service] = event["consumed"]
        self.seconds[service] = event["seconds"]
        self.gap_s[service] = event["gap_s"]
        if event["event"] == "done":
            self.results[service] = event["result"]
            if service == "flights-producer":
                self.delays_meanwhile = self.produced.get(DELAYS, 0)

    @property
    def messages_in(self) -> int:
        """Messages produced and acked, in all topics."""
        return sum(self.produced.values())

    @property
    def messages_out(self) -> int:
        """Messages consumed, by all services."""
        return sum(sum(topics.values()) for topics in self.consumed.values())

    def read(self, topic: str) -> int:
        """Messages of the topic consumed, by all services."""
        return sum(topics.get(topic, 0) for topics in self.consumed.values())

    def line(self) -> str:
        """Where things stand, in a line."""
        topics = ", ".join(f"{topic} {count:,}" for topic, count in sorted(self.produced.items()))
        return f"in: {topics or 'nothing yet'} | read by services: {self.messages_out:,}"
