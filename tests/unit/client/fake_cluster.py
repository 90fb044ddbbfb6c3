"""A cluster for the producer's tests: no sockets, answers given by the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pytest

from rayqueue.client.io import pipeline as pipeline_module
from rayqueue.client.io.topics import leader_of
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, RayQueueError, UnknownTopicOrPartition
from rayqueue.producer import Producer
from rayqueue.protocol.messages import (
    InitProducerIdResponse,
    MetadataResponse,
    PartitionInfo,
    ProduceRequest,
    TopicInfo,
)
from rayqueue.protocol.schemas import DEFAULT_SCHEMA, serialize_schema

WAIT_S = 20.0
Outcome = tuple[int, int, RayQueueError | None]


class FakeCluster:
    """Stands in for ClusterClient and for the replica actors behind it.

    Attributes:
        topics: by name. requests: (node, request, row count's values) as they came in.
        answering: whether requests are answered as they come; else they are kept until `answer`.
        respond: makes the outcome of a batch from (request, its number).
        refusing: no link opens. stopped: a node that does not read: sending to it hangs.
        refreshes: topics whose metadata was asked for again. opened: nodes that links were opened to.
    """

    def __init__(self) -> None:
        self.topics: dict[str, TopicInfo] = {}
        self.requests: list[tuple[Any, ProduceRequest, list[Any]]] = []
        self.answering = True
        self.respond: Callable[[ProduceRequest, int], Outcome] = self._append
        self.refreshes: list[list[str]] = []
        self.opened: list[Any] = []
        self.refusing = False
        self.stopped: Any = None
        self.window = 64
        self.ids = 0
        self.pid = os.getpid()
        self.links: list[FakeLink] = []
        self._ends: dict[tuple[bytes, int], int] = {}
        self.changed = threading.Condition()

    def add_topic(
        self, name: str = "t", partitions: int = 1, schema: pa.Schema = DEFAULT_SCHEMA, **options: Any
    ) -> None:
        """A topic all of whose partitions are led by ("a", 1)."""
        infos = [PartitionInfo(p, 0, 1, [0], [0], "a", 1, "inc") for p in range(partitions)]
        configs = {key.replace("_", "."): value for key, value in options.pop("configs", {}).items()}
        topic_id = options.pop("topic_id", name.encode().ljust(16))
        typed, key_column = schema is not DEFAULT_SCHEMA, options.pop("key_column", "")
        self.topics[name] = TopicInfo(name, topic_id, serialize_schema(schema), typed, key_column, configs, infos)

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Waits until something that a request, a link or a refresh changes is so."""
        with self.changed:
            assert self.changed.wait_for(condition, WAIT_S), "it did not happen"
            return condition()

    def rows(self) -> list[bytes | None]:
        """The values of all rows that were sent, in the order of requests."""
        return [record["value"] for record in self.records()]

    def records(self) -> list[dict[str, Any]]:
        """All rows that were sent, in the order of requests."""
        found: list[dict[str, Any]] = []
        for _, _, rows in self.requests:
            for row in rows:
                found += pa.ipc.read_record_batch(pa.ipc.read_message(row), DEFAULT_SCHEMA).to_pylist()
        return found

    def _append(self, request: ProduceRequest, number: int) -> Outcome:
        batch = request.batches[number]
        key = (batch.topic_id, batch.partition)
        base = self._ends.get(key, 0)
        self._ends[key] = base + batch.record_count
        return base, -1, None

    # --- what ClusterClient does -----------------------------------------------------------------------------------

    def retry(self, call: Callable[[float], Any], timeout_s: float) -> Any:
        return call(timeout_s)

    def topic(
        self, name: str, *, refresh: bool = False, auto_create: bool = False, timeout_s: float | None = None
    ) -> TopicInfo:
        if name not in self.topics:
            raise UnknownTopicOrPartition(f"there is no topic {name!r}: create it with `rayqueue topic create {name}`")
        return self.topics[name]

    def refresh(
        self, topics: list[str], min_index: int = -1, auto_create: bool = False, timeout_s: float | None = None
    ) -> MetadataResponse:
        with self.changed:
            self.refreshes.append(topics)
            self.changed.notify_all()
        return MetadataResponse("c", 1, [], "", 0, 0, [self.topics[name] for name in topics if name in self.topics])

    def call_broker(self, action: str, request: Any, reply: Any, timeout_s: float | None = None) -> Any:
        assert action == "init_producer_id"
        self.ids += 1
        return InitProducerIdResponse(self.ids, 0)

    def backoff(self, attempt: int) -> float:
        return 0.001

    def check_process(self) -> None:
        if os.getpid() != self.pid:
            raise RayQueueError("forked")

    def close(self) -> None: ...


class FakeLink:
    """Stands in for ProduceLink: calls its listener on the sender's thread, or on the test's."""

    def __init__(self, cluster: FakeCluster, node: Any, listener: Any) -> None:
        self.cluster, self.node, self.listener = cluster, node, listener
        self.unanswered: list[ProduceRequest] = []
        self.closed = False
        self.memory = None  # shares none
        self.ended = threading.Event()

    def start(self) -> None:
        with self.cluster.changed:
            self.cluster.opened.append(self.node)
            self.cluster.links.append(self)
            self.cluster.changed.notify_all()
        leaders = {leader_of(p) for topic in self.cluster.topics.values() for p in topic.partitions}
        if self.cluster.refusing:
            self.listener.link_ended(self, False, BrokerNotAvailable("refused"))
        elif self.node not in leaders:
            self.listener.link_ended(self, False, ClusterMismatch("another incarnation answers here"))
        else:
            self.listener.link_opened(self, self.cluster.window)

    def send(self, request: ProduceRequest, rows: list[Any]) -> None:
        if self.cluster.stopped == self.node:
            assert self.ended.wait(WAIT_S), "nobody freed the sender"
        if self.closed:
            raise BrokerNotAvailable("closed")
        with self.cluster.changed:
            self.cluster.requests.append((self.node, request, rows))
            self.unanswered.append(request)
            answering = self.cluster.answering and request.acks != 0
            self.cluster.changed.notify_all()
        if answering:
            self.answer()

    def answer(self, *outcomes: Outcome) -> None:
        """Answers the oldest request: as `respond` says, or as given."""
        request = self.unanswered.pop(0)
        results = list(outcomes) or [self.cluster.respond(request, n) for n in range(len(request.batches))]
        self.listener.link_answered(self, results)

    def end(self) -> None:
        """Breaks."""
        self.closed = True
        self.listener.link_ended(self, True, BrokerNotAvailable("broken"))

    def close(self) -> None:
        self.closed = True
        self.ended.set()

    def join(self, timeout_s: float) -> None: ...


@contextmanager
def producing(patch: pytest.MonkeyPatch, cluster: FakeCluster, **settings: Any) -> Iterator[Producer]:
    """A producer on the fake cluster; what is left at the end is given up."""
    patch.setattr(pipeline_module, "ClusterClient", lambda config: cluster)
    patch.setattr(pipeline_module, "ProduceLink", lambda node, c, listener, *rest: FakeLink(cluster, node, listener))
    producer = Producer(bootstrap_servers="fake:1", **settings)
    try:
        yield producer
    finally:
        producer.close(0)
