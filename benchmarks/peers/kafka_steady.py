"""A producer at a slow and steady pace that notes when each record was acked, for what is killed meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, Message

from benchmarks.peers.kafka_clients import ACK_TIMEOUT_S, Sending

POLL_S = 0.2


class SteadyProducer:
    """As rayqueue's in `w10_kill`: single records at a fixed rate, whatever happens (open loop)."""

    def __init__(self, client: Mapping[str, Any], topic: str) -> None:
        self._sending = Sending(client, linger_ms=0)
        self._topic = topic
        self._stop = threading.Event()
        self._acks: list[int] = []
        self._errors: list[str] = []
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._sending.produce_waiting(topic, b"0")
        self._sending.flush()

    def start(self, rate: int) -> None:
        """Sends from now on."""
        self._pause_ns = 1_000_000_000 // rate
        self._thread.start()

    def _send(self) -> None:
        producer = self._sending.producer
        due = time.monotonic_ns()
        while not self._stop.is_set():
            self._sending.produce_waiting(self._topic, b"%d" % due, self._told)
            due += self._pause_ns
            # Acks are told within `poll`, at once: whatever is left of the pause is waited there.
            producer.poll(0)
            while (left := due - time.monotonic_ns()) > 0:
                producer.poll(left / 1e9)
        give_up = time.monotonic() + ACK_TIMEOUT_S
        while producer.flush(POLL_S) and time.monotonic() < give_up:
            continue

    def _told(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._acks.append(time.monotonic_ns())
        else:
            self._errors.append(str(error))

    def stop(self) -> dict[str, Any]:
        """Stops; the moments of all acks (CLOCK_MONOTONIC, ns), and what failed."""
        self._stop.set()
        self._thread.join(ACK_TIMEOUT_S)
        return {"times": self._acks, "errors": self._errors}

    def close(self) -> None:
        """Closes the producer."""
        self._stop.set()
        self._sending.close()
