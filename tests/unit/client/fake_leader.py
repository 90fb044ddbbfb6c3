"""A fetch machine with a fake cluster around it: effects are recorded, events are made by hand."""

from __future__ import annotations

from rayqueue.client.cursor import Cursor
from rayqueue.client.fetch_state import Limits
from rayqueue.client.fetcher import Fetcher
from rayqueue.client.streams import Close, DropMapping, Effect, Endpoint, LookUp, Open, Refresh, Send, Warn
from rayqueue.errors import BrokerNotAvailable
from rayqueue.protocol.messages import FetchPart, FetchPartition, OffsetAnswer, TopicInfo
from tests.unit.client.fake_chunks import FakeChunk, topic_info


class Bench:
    """The machine, a clock, and what it asked for.

    Attributes:
        subscribed: by subscription id, what the fake server has been told to send. credit: what it may send.
    """

    def __init__(self, reset: str = "earliest", partitions: int = 1, local: bool = False, **limits: int) -> None:
        self.now = 1000
        self.local = local
        self.machine = Fetcher(
            Limits(
                stream_bytes=limits.get("stream_bytes", 1000),
                partition_bytes=limits.get("partition_bytes", 400),
                reset=reset,
                mapped=True,
                metadata_max_age_ms=60_000,
                backoff_ms=lambda attempt: min(500, 20 * 2**attempt),
                wall_ms=lambda: limits.get("wall_ms", 0),
            )
        )
        self.effects: list[Effect] = []
        self.subscribed: dict[int, FetchPartition] = {}
        self.credit = 0
        self.learn(topic_info(partitions=partitions))

    def learn(self, *topics: TopicInfo, asked: list[str] | None = None) -> None:
        """Metadata comes."""
        names = ["t"] if asked is None else asked
        self.machine.on_metadata(topics, names, 1, self.now)

    def assign(self, partition: int = 0, start: int | str = 0) -> Cursor:
        """Adds a partition."""
        info = self.machine.leaders.topics["t"]
        return self.machine.assign("t", info.topic_id, partition, start)

    def plan(self) -> list[Effect]:
        """Plans, keeps the fake server's books, and checks that planning again changes nothing."""
        effects = self.machine.plan(self.now)
        self.machine.validate()
        assert self.machine.plan(self.now) == []
        for effect in effects:
            if isinstance(effect, Send):
                for gone in effect.request.remove:
                    self.subscribed.pop(gone, None)
                self.subscribed.update((wanted.subscription, wanted) for wanted in effect.request.add)
                self.credit += effect.request.credit
        self.effects += effects
        return effects

    def run(self) -> list[Effect]:
        """Plans until nothing happens; opening streams succeeds."""
        done: list[Effect] = []
        while effects := self.plan():
            done += effects
            for effect in effects:
                if isinstance(effect, Open):
                    self.machine.on_opened(effect.endpoint, self.local)
        return done

    @property
    def endpoint(self) -> Endpoint:
        """Of the newest stream opened."""
        return next(effect.endpoint for effect in reversed(self.effects) if isinstance(effect, Open))

    def newest(self, partition: int = 0) -> FetchPartition:
        """The newest subscription of a partition."""
        return [s for s in self.subscribed.values() if s.partition == partition][-1]

    def send(self, partition: int, base: int, end: int, high: int = 100, epoch: int = 0) -> None:
        """The server sends offsets [base, end) of a partition."""
        chunk = FakeChunk(base, end)
        part = FetchPart(self.newest(partition).subscription, high, 0, epoch, entries=b"x")
        self.credit -= chunk.size
        self.machine.on_part(self.endpoint, part, chunk, chunk.size, self.now)
        self.machine.validate()

    def tell(self, partition: int = 0, high: int = 100, **fields: object) -> None:
        """The server sends news without data."""
        values: dict[str, object] = {"log_start": 0, "leader_epoch": 0, **fields}
        part = FetchPart(self.newest(partition).subscription, high, **values)  # type: ignore[arg-type]
        self.machine.on_part(self.endpoint, part, None, 0, self.now)
        self.machine.validate()

    def close(self) -> None:
        """The stream breaks."""
        endpoint = self.endpoint
        self.subscribed.clear()
        self.credit = 0
        self.machine.on_closed(endpoint, BrokerNotAvailable("gone"), self.now)
        self.machine.validate()

    def answer(self, *offsets: int) -> None:
        """The newest look-up is answered."""
        self.machine.on_offsets(self.lookup().number, [OffsetAnswer(offset, -1) for offset in offsets])

    def lookup(self) -> LookUp:
        """The newest look-up."""
        return next(effect for effect in reversed(self.effects) if isinstance(effect, LookUp))


def kinds(effects: list[Effect]) -> list[str]:
    """Names of effects."""
    return [type(effect).__name__ for effect in effects]


__all__ = ["Bench", "Close", "DropMapping", "Endpoint", "LookUp", "Open", "Refresh", "Send", "Warn", "kinds"]
