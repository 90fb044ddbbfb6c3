"""A Kafka of one node or three, each broker and controller (KRaft), on loopback ports and in a directory of its own.

Its settings are Kafka's defaults and those of its start script, but for what so few nodes cannot do (replication
factors of internal topics) and what the comparison needs: room for a message that holds an Arrow batch, deleted topics
that free the disk at once, no topic made by a typing error.
"""

from __future__ import annotations

import base64
import contextlib
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.system import PeerFailed, Say
from benchmarks.peers import kafka_install

HOST = "127.0.0.1"
START_WAIT_S = 120.0
FORMAT_WAIT_S = 60.0
ATTEMPTS = 3  # with other ports: between our choice and Kafka's bind another program may take one
PORT_TAKEN = "Address already in use"
MESSAGE_BYTES_MAX = 64 << 20

# What bin/kafka-server-start.sh and bin/kafka-run-class.sh set.
JVM = (
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
)
# Kafka logs at INFO by default, some lines a partition; WARN costs it less.
LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    # It warns that it begins with an empty log.
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.controller.QuorumController=error",
)

SETTINGS: dict[str, Any] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "group.initial.rebalance.delay.ms": 0,
    "auto.create.topics.enable": "false",
    "message.max.bytes": MESSAGE_BYTES_MAX,
    "log.segment.delete.delay.ms": 100,
    "log.initial.task.delay.ms": 1000,
}
# By how many nodes there are: replicas, and how many of them an acks=all append needs.
REPLICAS_SETTINGS = (
    "offsets.topic.replication.factor",
    "transaction.state.log.replication.factor",
    "share.coordinator.state.topic.replication.factor",
)
IN_SYNC_SETTINGS = ("min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr")


def settings(nodes: int) -> dict[str, Any]:
    """Those of each node of so many."""
    in_sync = max(1, nodes - 1)
    return {**SETTINGS, **dict.fromkeys(REPLICAS_SETTINGS, nodes), **dict.fromkeys(IN_SYNC_SETTINGS, in_sync)}


class Broker:
    """A running one.

    Attributes:
        bootstrap_servers: where it listens.
        data: its log.dirs.
        killed: whether it was ended on purpose.
    """

    def __init__(self, process: ChildProcess, port: int, data: Path) -> None:
        self.bootstrap_servers = f"{HOST}:{port}"
        self.data = data
        self.killed = False
        self._process = process

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self._process.pid

    def check(self) -> None:
        """
        Raises:
            PeerFailed: it has ended.
        """
        status = self._process.status
        if status is not None and not self.killed:
            raise PeerFailed(f"kafka: the broker (pid {self.pid}) ended {ending(status)}{self.said()}")

    def said(self) -> str:
        """See `said`."""
        return said(self._process)

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        self.killed = True
        self._process.kill()

    def stop(self) -> None:
        """Ends it in order."""
        self._process.stop()


@contextlib.contextmanager
def running(directory: Path, cache: Path, say: Say, nodes: int = 1) -> Iterator[list[Broker]]:
    """Kafka for the length of the block; node n, counted from 1, is the broker of index n - 1.

    Raises:
        PeerFailed: it did not come up.
    """
    brokers = _begin_somewhere(directory, cache, say, nodes)
    with contextlib.ExitStack() as stack:
        for broker in brokers:
            stack.callback(broker.stop)
        yield brokers


def _begin_somewhere(directory: Path, cache: Path, say: Say, nodes: int) -> list[Broker]:
    for attempt in range(1, ATTEMPTS):
        try:
            return _begin(directory / f"kafka-{attempt}", cache, nodes)
        except PeerFailed as error:
            if PORT_TAKEN not in str(error):
                raise
            say("kafka: another program took its port meanwhile; once more, with other ports")
    return _begin(directory / f"kafka-{ATTEMPTS}", cache, nodes)


def _begin(place: Path, cache: Path, nodes: int) -> list[Broker]:
    """Starts it and waits until it answers; whatever goes wrong, all of its processes have ended then."""
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    with held_ports(2 * nodes) as ports, contextlib.ExitStack() as stack:
        brokers = []
        for number in range(1, nodes + 1):
            directory = place / f"node-{number}"
            directory.mkdir(parents=True)
            properties = directory / "broker.properties"
            properties.write_text(configuration(ports, directory / "data", number))
            _format(properties, cache, cluster)
            command = [*_java(cache), *JVM, *LOGGING, "kafka.Kafka", str(properties)]
            process = ChildProcess(command, directory / "broker.log", directory)
            stack.callback(process.stop)
            brokers.append(Broker(process, ports[2 * number - 2], directory / "data"))
        _await_answer(brokers)
        stack.pop_all()  # they go on
    return brokers


def configuration(ports: Sequence[int], data: Path, number: int = 1) -> str:
    """The text of a node's properties file.

    Args:
        ports: of each node two: for clients, for the controller. number: which node it is, from 1.
    """
    nodes = list(zip(ports[::2], ports[1::2], strict=True))
    clients, controller = nodes[number - 1]
    found = {
        **settings(len(nodes)),
        "node.id": number,
        "controller.quorum.voters": ",".join(f"{one}@{HOST}:{port}" for one, (_, port) in enumerate(nodes, 1)),
        "listeners": f"PLAINTEXT://{HOST}:{clients},CONTROLLER://{HOST}:{controller}",
        "log.dirs": str(data).replace("\\", "\\\\"),
    }
    return "".join(f"{name}={value}\n" for name, value in found.items())


@contextlib.contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Free loopback ports that no other program is given by the kernel during the block.

    They are bound here, but not listened to, and may be shared (SO_REUSEADDR): a Java server, which sets that option
    too, can bind and listen to them meanwhile. Without that the seconds that a JVM takes to start are a race.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            held = stack.enter_context(socket.socket())
            held.bind((HOST, 0))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ports.append(held.getsockname()[1])
        yield ports


def ending(status: int) -> str:
    """How a program ended, in words."""
    return f"by signal {-status}" if status < 0 else f"with status {status}"


def said(process: ChildProcess) -> str:
    """The end of its log, to be appended to a sentence; "" when it was killed, for its log does not know."""
    if process.status == -signal.SIGKILL:
        return ""
    tail = process.tail()
    return f"; the end of its log: {tail}" if tail else "; its log is empty"


def _java(cache: Path) -> list[str]:
    program = kafka_install.java()
    if program is None:
        raise PeerFailed(kafka_install.missing(cache) or "kafka: no java")
    return [program, "-cp", f"{kafka_install.lib(cache)}/*"]


def _format(properties: Path, cache: Path, cluster: str) -> None:
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", str(properties)]
    # It lives for a second: a compiler of the first tier only, and no more heap than it needs.
    short = ["-Xmx256M", "-XX:TieredStopAtLevel=1"]
    with ChildProcess([*_java(cache), *short, *LOGGING, *tool], properties.with_name("format.log")) as formatting:
        try:
            status = formatting.wait(FORMAT_WAIT_S)
        except subprocess.TimeoutExpired:
            raise PeerFailed(f"kafka: its directory was not formatted within {FORMAT_WAIT_S:.0f} s") from None
        if status != 0:
            raise PeerFailed(f"kafka: formatting its directory ended {ending(status)}{said(formatting)}")


def _await_answer(brokers: Sequence[Broker]) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    servers = ",".join(broker.bootstrap_servers for broker in brokers)
    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0, "reconnect.backoff.max.ms": 200})
    give_up = time.monotonic() + START_WAIT_S
    while time.monotonic() < give_up:
        for broker in brokers:
            broker.check()
        try:
            if len(admin.list_topics(timeout=0.5).brokers) == len(brokers):
                return
        except KafkaException:
            continue  # not yet: nobody listens, or no broker is registered
    raise PeerFailed(f"kafka: the brokers did not answer within {START_WAIT_S:.0f} s{brokers[0].said()}")
