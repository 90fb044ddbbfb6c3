"""Apache Kafka as a peer: a broker in KRaft mode with default settings, or three, and confluent-kafka.

`kafka_install.py` fetches it, `kafka_broker.py` runs it in a child process; the roles, which all stand on
`kafka_clients.py`, are in the other files of that name. Its JVM is warmed before anything is measured: what it runs,
it compiles while it runs.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import accounting
from benchmarks.harness.system import Peer, Say, System
from benchmarks.peers import kafka_broker, kafka_install
from benchmarks.peers.kafka_broker import Broker

TOPIC_TIMEOUT_S = 60.0
GONE_WAIT_S, GONE_LOOK_S = 5.0, 0.02
# Warm is who does as much in one window as in the one before, or has had some; `WARM_S` is about what it takes.
WARM_S = 10.0
WINDOWS = 10
WINDOWS_MAX = 6
AGREE = 0.05
WARM_VALUE_BYTES = 100
WARM_ROWS_MAX = 1_000_000
WARM_BATCH_ROWS = 2_500
WARM_BYTES_MAX = 512 << 20
WARM_QUEUE_KIB = 16 * 1024

_MIB = 1 << 20

# librdkafka's defaults: linger 5 ms, batch.size 1 MB, 10,000 records a batch, a queue of 100,000 records or 1 GiB; a
# consumer fetches 1 MiB a partition, keeps 64 MiB, and rests for a second when it has them.
TUNINGS: dict[str, dict[str, dict[str, Any]]] = {
    "rows_in": {
        "default": {},
        "linger 0": {"linger_ms": 0},
        "linger 20": {"linger_ms": 20},
        "linger 20, batch 256 KiB": {"linger_ms": 20, "batch_size": 256 * 1024},
        "linger 50, batch 4 MiB, poll each 100": {
            "linger_ms": 50, "batch_size": 4 * _MIB, "message_max_bytes": 8 * _MIB, "batch_num_messages": 100_000,
            "queue_buffering_max_messages": 500_000, "poll_every": 100,
        },
    },
    "rows_in_batches": {
        "default": {},
        "linger 20": {"linger_ms": 20},
        "linger 50, batch 4 MiB": {
            "linger_ms": 50, "batch_size": 4 * _MIB, "message_max_bytes": 8 * _MIB, "batch_num_messages": 100_000,
            "queue_buffering_max_messages": 500_000,
        },
    },
    "batches_in": {
        "default": {},
        "linger 0": {"linger_ms": 0},
        "linger 0, queue 16 MiB": {"linger_ms": 0, "queue_buffering_max_kbytes": 16 * 1024},
        "linger 5, batch 4 MiB, queue 64 MiB": {
            "linger_ms": 5, "batch_size": 4 * _MIB, "queue_buffering_max_kbytes": 64 * 1024,
        },
    },
    "rows_out": {
        "default": {},
        "no rest": {"fetch_queue_backoff_ms": 1},
        "fetch 8 MiB, no rest": {"fetch_message_max_bytes": 8 * _MIB, "fetch_queue_backoff_ms": 1},
        "fetch 8 MiB, consume(10000)": {
            "fetch_message_max_bytes": 8 * _MIB, "fetch_queue_backoff_ms": 1, "num_messages": 10_000,
        },
    },
    "arrow_out": {
        "default": {},
        "no rest": {"fetch_queue_backoff_ms": 1},
        "fetch 8 MiB, no rest": {"fetch_message_max_bytes": 8 * _MIB, "fetch_queue_backoff_ms": 1},
        "fetch 2 MiB, keep 16 MiB": {
            "fetch_message_max_bytes": 2 * _MIB, "queued_max_messages_kbytes": 16 * 1024, "fetch_queue_backoff_ms": 1,
        },
    },
    "sender": {
        "default": {},
        "linger 0": {"linger_ms": 0},
        "linger 0.1": {"linger_ms": 0.1},
        "linger 0.2": {"linger_ms": 0.2},
        "linger 0.5": {"linger_ms": 0.5},
        "linger 1": {"linger_ms": 1},
    },
    "receiver": {"default": {}},
    "java_rows_in": {"default": {}, "linger 10, batch 256 KiB": {"linger_ms": 10, "batch_size": 256 * 1024}},
}  # fmt: skip
TUNINGS["arrow_out_streamed"] = TUNINGS["arrow_out"]


class KafkaSystem:
    """A running Kafka; see `System`."""

    name = "kafka"
    tunings: Mapping[str, Mapping[str, dict[str, Any]]] = TUNINGS

    def __init__(self, brokers: Sequence[Broker], cache: Path) -> None:
        from confluent_kafka.admin import AdminClient

        self.roles: Mapping[str, type] = roles()
        self.settings: dict[str, Any] = {
            "version": kafka_install.VERSION,
            "client": client_versions(),
            "jvm": " ".join(kafka_broker.JVM),
            "nodes": len(brokers),
            "broker": kafka_broker.settings(len(brokers)),
        }
        self.brokers = brokers
        self._cache = cache
        self._bootstrap_servers = ",".join(broker.bootstrap_servers for broker in brokers)
        self._admin = AdminClient({"bootstrap.servers": self._bootstrap_servers, "log_level": 0})
        self._numbers = itertools.count()

    def client(self) -> dict[str, Any]:
        """What the loads connect with; the last three are for those in Java."""
        return {
            "bootstrap_servers": self._bootstrap_servers,
            "message_bytes_max": kafka_broker.MESSAGE_BYTES_MAX,
            "java": kafka_install.java(),
            "classpath": f"{kafka_install.lib(self._cache)}/*",
            "directory": str(self.brokers[0].data.parent),
        }

    @contextlib.contextmanager
    def topic(self, partitions: int = 1, **config: Any) -> Iterator[str]:
        """A fresh topic, deleted at the end of the block.

        Raises:
            PeerFailed: the broker ended meanwhile; instead of what its clients then raise.
        """
        self.check()
        name = f"bench-{next(self._numbers)}"
        self._create(name, partitions, {key.replace("_", "."): text(value) for key, value in config.items()})
        try:
            yield name
        except Exception:
            self.check()
            self._delete(name)
            raise
        else:  # and not when interrupted: it goes with the run's directory
            self._delete(name)

    def processes(self) -> dict[str, list[int]]:
        """The JVMs."""
        return {"servers": [broker.pid for broker in self.brokers]}

    def check(self) -> None:
        """
        Raises:
            PeerFailed: a broker has ended by itself.
        """
        for broker in self.brokers:
            broker.check()

    def leader(self, topic: str) -> Broker:
        """The broker that leads the topic's first partition."""
        found = self._admin.list_topics(topic, timeout=TOPIC_TIMEOUT_S).topics[topic]
        return self.brokers[found.partitions[0].leader - 1]

    @contextlib.contextmanager
    def replicated(self, directory: Path, nodes: int, say: Say, warm_s: float) -> Iterator[KafkaSystem]:
        """Another Kafka, of so many nodes, whose topics have as many replicas; warmed unless `warm_s` is 0."""
        with kafka_broker.running(directory, self._cache, say, nodes) as brokers:
            system = KafkaSystem(brokers, self._cache)
            if warm_s:
                say(f"kafka: warming the JVMs of {nodes} nodes")
                warm(system, warm_s)
            yield system

    def bytes_on_disk(self) -> int:
        """Bytes that its log.dirs take, but for deleted topics, which it removes some time later."""
        return sum(accounting.bytes_on_disk(log) for log in self._logs() if is_kept(log))

    def _logs(self) -> Iterator[Path]:
        return (log for broker in self.brokers for log in broker.data.iterdir())

    def _create(self, name: str, partitions: int, config: dict[str, str]) -> None:
        from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

        topic = NewTopic(name, num_partitions=partitions, replication_factor=len(self.brokers), config=config)
        self._admin.create_topics([topic], operation_timeout=TOPIC_TIMEOUT_S)[name].result(TOPIC_TIMEOUT_S)
        give_up = time.monotonic() + TOPIC_TIMEOUT_S
        while not self._led(name, partitions):
            self.check()
            if time.monotonic() > give_up:
                raise TimeoutError(f"kafka: topic {name} has no leaders after {TOPIC_TIMEOUT_S:g} s")

    def _led(self, name: str, partitions: int) -> bool:
        found = self._admin.list_topics(name, timeout=TOPIC_TIMEOUT_S).topics[name]
        led = [one for one in found.partitions.values() if one.leader >= 0 and len(one.isrs) == len(self.brokers)]
        return len(led) == len(found.partitions) == partitions

    def _delete(self, name: str) -> None:
        self._admin.delete_topics([name], operation_timeout=TOPIC_TIMEOUT_S)[name].result(TOPIC_TIMEOUT_S)
        self._wait_gone(name)

    def _wait_gone(self, name: str) -> None:
        """Until the topic's files are removed, or it has taken long: Kafka does that later, in somebody else's turn."""
        give_up = time.monotonic() + GONE_WAIT_S
        while any(log.name.startswith(f"{name}-") for log in self._logs()):
            if time.monotonic() > give_up:
                return
            time.sleep(GONE_LOOK_S)


def warm(system: KafkaSystem, seconds: float) -> None:
    """Produces and consumes, each way until it gets no faster: rows, large messages, then single records.

    Args:
        seconds: about; a window of each way is a tenth of it.
    """
    window, client = seconds / WINDOWS, system.client()
    for into, out, more in (
        ("rows_in", "rows_out", {"records_max": WARM_ROWS_MAX}),
        ("batches_in", "arrow_out", {"rows": WARM_BATCH_ROWS, "bytes_max": WARM_BYTES_MAX}),
    ):
        # A short queue, so that the producer is done when its time is; a consumer that does not rest.
        with (
            system.topic() as topic,
            contextlib.closing(system.roles[into](client, queue_buffering_max_kbytes=WARM_QUEUE_KIB)) as producer,
            contextlib.closing(system.roles[out](client, topic, fetch_queue_backoff_ms=1)) as consumer,
        ):
            until_steady(partial(_warm_stream, producer, consumer, topic, window, more))
    with system.topic() as topic:
        _warm_singly(client, topic, window)


def until_steady(rates: Callable[[], tuple[float, ...]]) -> int:
    """Measures until all rates are within `AGREE` of the last ones, or it was often enough; how often it was."""
    before = rates()
    for windows in range(2, WINDOWS_MAX + 1):
        found = rates()
        if all(abs(now - then) <= AGREE * max(now, then) for now, then in zip(found, before, strict=True)):
            return windows
        before = found
    return WINDOWS_MAX


def _warm_stream(producer: Any, consumer: Any, topic: str, seconds: float, more: dict[str, Any]) -> tuple[float, float]:
    """Records a second in, and out."""
    sent = producer.run(topic=topic, value_bytes=WARM_VALUE_BYTES, seconds=seconds, **more)
    read = consumer.run(records=int(sent["records"]))
    return sent["records"] / sent["seconds"], read["records"] / read["seconds"]


def _warm_singly(client: dict[str, Any], topic: str, seconds: float) -> None:
    """One record at a time, in and out, so that the path of small requests is compiled too."""
    from benchmarks.peers.kafka_clients import Receiving, Sending

    with (
        contextlib.closing(Receiving(client, topic)) as receiving,
        contextlib.closing(Sending(client, linger_ms=0)) as sending,
    ):

        def window() -> tuple[float]:
            began, records = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                sending.produce_waiting(topic, bytes(WARM_VALUE_BYTES))
                sending.flush()
                receiving.poll()
                records += 1
            return (records / (time.monotonic() - began),)

        receiving.rewind()
        until_steady(window)


def roles() -> dict[str, type]:
    """What plays each role; imported here, because they need confluent-kafka."""
    from benchmarks.peers import (
        kafka_columns,
        kafka_drain,
        kafka_java,
        kafka_latency,
        kafka_one_by_one,
        kafka_steady,
        kafka_throughput,
    )

    return {
        "rows_in": kafka_throughput.RowsIn,
        "rows_in_batches": kafka_throughput.RowsInBatches,
        "batches_in": kafka_throughput.BatchesIn,
        "rows_out": kafka_throughput.RowsOut,
        "arrow_out": kafka_throughput.ArrowOut,
        "arrow_out_streamed": kafka_throughput.ArrowOut,
        "sender": kafka_latency.Sender,
        "receiver": kafka_latency.Receiver,
        "one_by_one": kafka_one_by_one.OneByOne,
        "pacer": kafka_drain.Pacer,
        "drainer": kafka_drain.Drainer,
        "columns_in": kafka_columns.ColumnsIn,
        "columns_out": kafka_columns.ColumnsOut,
        "java_rows_in": kafka_java.JavaRowsIn,
        "steady_in": kafka_steady.SteadyProducer,
    }


def client_versions() -> str:
    """confluent-kafka's and librdkafka's."""
    import confluent_kafka

    binding = importlib.metadata.version("confluent-kafka")
    return f"confluent-kafka {binding}, librdkafka {confluent_kafka.libversion()[0]}"


def is_kept(log: Path) -> bool:
    """Whether it is the directory of a partition that is not deleted."""
    return log.is_dir() and not log.name.endswith("-delete")


def text(value: Any) -> str:
    """A setting as Kafka writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


class Kafka:
    """The peer; see `Peer`."""

    name = "kafka"

    def __init__(self, warm_s: float = WARM_S) -> None:
        """`warm_s`: about how long the JVM is warmed before `start` yields; see `warm`."""
        self._warm_s = warm_s

    def missing(self, cache: Path) -> str | None:
        """Java, Maven or confluent-kafka, and how to install it."""
        return kafka_install.missing(cache)

    def prepare(self, cache: Path, say: Say) -> None:
        """Fetches its jar files through Maven, once."""
        kafka_install.prepare(cache, say)

    @contextlib.contextmanager
    def start(self, directory: Path, cache: Path, say: Say) -> Iterator[System]:
        """One broker, up and warm."""
        began = time.monotonic()
        with kafka_broker.running(directory, cache, say) as brokers:
            system = KafkaSystem(brokers, cache)
            say(f"kafka: up after {time.monotonic() - began:.1f} s; warming its JVM until it gets no faster")
            warm(system, self._warm_s)
            yield system


PEER: Peer = Kafka()
