"""Members of a group, driven by one thread: what each was handed, and what it was told."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from rayqueue.consumer import Consumer
from rayqueue.message import Message
from rayqueue.types import TopicPartition
from tests.integration.consumer_cluster import World

WAIT_S = 20.0


class One:
    """A consumer of a group.

    Attributes:
        got: messages, in order. told: ("assign" | "revoke" | "lost", partition numbers), in order.
    """

    def __init__(self, world: World, *topics: Any, **settings: Any) -> None:
        self.got: list[Message] = []
        self.told: list[tuple[str, list[int]]] = []
        settings.setdefault("heartbeat_interval_ms", 500)
        settings.setdefault("session_timeout_ms", 10_000)
        self.consumer: Consumer = world.consumer(**settings)
        if topics:
            self.subscribe(*topics)

    def subscribe(self, *topics: Any) -> None:
        """With callbacks that note what they are told."""
        self.consumer.subscribe(
            list(topics), on_assign=self._note("assign"), on_revoke=self._note("revoke"), on_lost=self._note("lost")
        )

    def _note(self, what: str) -> Callable[[Consumer, list[TopicPartition]], None]:
        return lambda _, partitions: self.told.append((what, [tp.partition for tp in partitions]))

    @property
    def holds(self) -> list[int]:
        """Numbers of the partitions held."""
        return [tp.partition for tp in self.consumer.assignment()]

    def poll(self, timeout: float = 0.01) -> None:
        """Takes what there is."""
        self.got += self.consumer.consume(500, timeout=timeout)

    @property
    def values(self) -> list[int]:
        """The numbers of what it got, in order."""
        return [int(message.value) for message in self.got]


def group_name() -> str:
    """One that nobody has used."""
    return f"g-{uuid.uuid4().hex[:8]}"


def poll_until(members: Sequence[One], condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    """All of them poll in turn until it is so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about: {[repr(m.consumer) for m in members]}"
        for member in members:
            member.poll()


def settle(*members: One, partitions: int) -> None:
    """Until they share that many partitions, as evenly as can be."""
    shares = sorted(partitions // len(members) + (i < partitions % len(members)) for i in range(len(members)))
    poll_until(members, lambda: sorted(len(one.holds) for one in members) == shares, f"shares {shares}")
    held = [number for one in members for number in one.holds]
    assert sorted(held) == list(range(partitions)), "each partition is held by one"
