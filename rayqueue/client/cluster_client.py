"""What every client shares: finding the cluster, its metadata, its connections, and trying again.

Not pure: it locks, waits, and imports `rayqueue.cluster` (so Ray) when, and only when, the address is "auto".
"""

from __future__ import annotations

import difflib
import math
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from rayqueue.client.addresses import parse_addresses
from rayqueue.client.connection import Channel, check_fork
from rayqueue.client.data_channel import DataChannel
from rayqueue.config.clients import CommonConfig
from rayqueue.config.names import check_topic_name
from rayqueue.errors import BrokerNotAvailable, RayQueueError, RequestTimeout, UnknownTopicOrPartition
from rayqueue.protocol.messages import MetadataRequest, MetadataResponse, PartitionInfo, TopicInfo

T = TypeVar("T")

# A broker that does not answer in this time is passed over, and others are asked first for a while; when none answers
# they are given twice the time, and so on. One that waits for topics to be created has all the time there is.
BROKER_PATIENCE_S = 1.0
SHUN_S = 30.0


class ClusterClient:
    """Metadata and connections of one cluster; safe for many threads.

    Args:
        config: the client's settings. Nothing is connected before the first call.

    Raises:
        ConfigError: `bootstrap.servers` are no addresses.
    """

    def __init__(self, config: CommonConfig) -> None:
        self._config = config
        self._lock = threading.RLock()
        self._channels: dict[tuple[str, int], Channel] = {}
        servers = config.bootstrap_servers
        self._bootstrap = None if servers == "auto" else parse_addresses(servers)
        self._token = config.token or os.environ.get("RAYQUEUE_TOKEN") or None
        self._latest: MetadataResponse | None = None
        self._topics: dict[str, tuple[float, TopicInfo]] = {}
        self._shunned: dict[tuple[str, int], float] = {}  # brokers that did not answer, and until when
        self._random = random.Random()
        self._pid = os.getpid()
        self._closed = False

    def __repr__(self) -> str:
        return f"ClusterClient({self._config.bootstrap_servers!r})"

    # --- addresses and connections ---------------------------------------------------------------------------------

    @property
    def token(self) -> str | None:
        """The token sent with every call, or None."""
        return self._token

    def bootstrap(self) -> list[tuple[str, int]]:
        """The addresses to begin with; for "auto" the cluster's, found through Ray.

        Raises:
            ClusterNotRunning: "auto", and Ray knows no cluster of that name.
        """
        with self._lock:
            if self._bootstrap is None:
                from rayqueue.cluster import resolve_bootstrap  # the only way to Ray from a client

                servers, token = resolve_bootstrap(self._config.cluster)
                self._token = self._token or token
                self._bootstrap = parse_addresses(servers)
            return self._bootstrap

    def channel(self, host: str, port: int) -> Channel:
        """The connection to a broker, shared by all who ask."""
        with self._lock:
            if self._closed:
                raise RayQueueError("this client is closed: make a new one")
            key = (host, port)
            if key not in self._channels:
                connect_s = self._config.socket_connection_setup_timeout_ms / 1000
                self._channels[key] = Channel(host, port, self._token, connect_s)
            return self._channels[key]

    def data_channel(self, host: str, port: int) -> DataChannel:
        """Makes connections to a replica actor or the coordinator."""
        if self._closed:
            raise RayQueueError("this client is closed: make a new one")
        return DataChannel(host, port, self._token, self._config.socket_connection_setup_timeout_ms / 1000)

    def check_process(self) -> None:
        """Refuses to work in a forked child: neither threads nor gRPC survive a fork."""
        if os.getpid() != self._pid:
            check_fork()
            raise RayQueueError(
                "this client was made in the parent process and does not survive a fork: make a new one in the child"
            )

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            self._closed = True
            channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            channel.close()

    # --- trying again ----------------------------------------------------------------------------------------------

    def backoff(self, attempt: int) -> float:
        """Seconds to wait before try number `attempt` + 1: doubled each time, with a fifth of jitter (KIP-580)."""
        base = min(self._config.retry_backoff_max_ms, self._config.retry_backoff_ms * 2 ** min(attempt, 20))
        return base * self._random.uniform(0.8, 1.2) / 1000

    def retry(self, call: Callable[[float], T], timeout_s: float | None = None) -> T:
        """Runs `call(seconds left)` until it succeeds, fails for good, or time is out (then its last error)."""
        self.check_process()
        deadline = time.monotonic() + (timeout_s if timeout_s is not None else self._config.request_timeout_ms / 1000)
        attempt = 0
        while True:
            try:
                return call(max(0.001, deadline - time.monotonic()))
            except RayQueueError as error:
                wait = self.backoff(attempt)
                if not error.retriable or self._closed or time.monotonic() + wait >= deadline:
                    raise
                attempt += 1
                time.sleep(wait)

    def call_broker(self, action: str, request: Any, reply: type[T], timeout_s: float | None = None) -> T:
        """One request to any broker that answers; one that does not may still do it."""
        patience_s = math.inf if getattr(request, "auto_create", False) else BROKER_PATIENCE_S

        def once(left: float) -> T:
            nonlocal patience_s
            each_s, patience_s = min(left, patience_s), 2 * patience_s
            return self._any_broker(action, request, reply, each_s)

        return self.retry(once, timeout_s)

    def _any_broker(self, action: str, request: Any, reply: type[T], each_s: float) -> T:
        known = [(b.host, b.port) for b in self._latest.brokers if b.alive] if self._latest else []
        addresses = list(dict.fromkeys([*known, *self.bootstrap()]))
        self._random.shuffle(addresses)
        now = time.monotonic()
        addresses.sort(key=lambda address: self._shunned.get(address, 0.0) > now)
        last: RayQueueError | None = None
        for host, port in addresses:
            try:
                return self.channel(host, port).call(action, request, reply, each_s)
            except BrokerNotAvailable as error:
                last = error
            except RequestTimeout as error:
                last = error
                self._shunned[host, port] = time.monotonic() + SHUN_S
        tried = ", ".join(f"{host}:{port}" for host, port in addresses)
        raise BrokerNotAvailable(f"no broker answers at {tried}; is the cluster up (`rayqueue status`)?") from last

    def call_coordinator(self, action: str, request: Any, reply: type[T], timeout_s: float | None = None) -> T:
        """One request to the active coordinator, which any broker names; asked again when it is another one by now."""

        def once(left: float) -> T:
            metadata = self.refresh([], timeout_s=left)
            address = metadata.coordinator_host, metadata.coordinator_port
            return self.data_channel(*address).call(action, request, reply, left)

        return self.retry(once, timeout_s)

    # --- metadata --------------------------------------------------------------------------------------------------

    def refresh(
        self,
        topics: list[str] | None = None,
        min_index: int = -1,
        auto_create: bool = False,
        timeout_s: float | None = None,
    ) -> MetadataResponse:
        """Asks a broker for metadata.

        Args:
            topics: whose to bring; None for all, [] for the brokers only.
            min_index: metadata index the broker's image must have reached (it waits a little).
            auto_create: let the broker create what is missing, if it is set up to.
            timeout_s: how long to try; None: `request.timeout.ms`.
        """
        request = MetadataRequest(topics, min_index, auto_create)
        response = self.call_broker("metadata", request, MetadataResponse, timeout_s)
        now = time.monotonic()
        with self._lock:
            self._latest = response
            found = {topic.name for topic in response.topics}
            gone = list(self._topics) if topics is None else topics
            for name in gone:
                if name not in found:
                    self._topics.pop(name, None)
            for topic in response.topics:
                self._topics[topic.name] = (now, topic)
        return response

    def metadata(self) -> MetadataResponse:
        """All topics and brokers, asked anew."""
        return self.refresh(None)

    def topic(
        self, name: str, *, refresh: bool = False, auto_create: bool = False, timeout_s: float | None = None
    ) -> TopicInfo:
        """A topic's metadata, from the cache while it is younger than `metadata.max.age.ms`; `timeout_s` as `refresh`.

        Raises:
            UnknownTopicOrPartition: there is none; the message has the command that creates it.
            InvalidTopic: there cannot be one of that name.
        """
        cached = self._topics.get(name)
        fresh = cached and time.monotonic() - cached[0] < self._config.metadata_max_age_ms / 1000
        if cached and fresh and not refresh:
            return cached[1]
        check_topic_name(name)
        # To create it only when it is missing: that may take long, and a broker that hangs would get as much time.
        for create in (False, True) if auto_create else (False,):
            response = self.refresh([name], auto_create=create, timeout_s=timeout_s)
            for topic in response.topics:
                if topic.name == name:
                    return topic
        raise UnknownTopicOrPartition(self._unknown(name))

    def _unknown(self, name: str) -> str:
        names = [topic.name for topic in self.metadata().topics]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? Else create" if near else "create"
        how = f"`rayqueue topic create {name}` or AdminClient().create_topic({name!r})"
        return f"there is no topic {name!r}: {hint} it with {how}"

    def partition(self, topic: str, partition: int) -> PartitionInfo:
        """A partition's metadata.

        Raises:
            UnknownTopicOrPartition: the topic has no such partition.
        """
        info = self.topic(topic)
        if not 0 <= partition < len(info.partitions):
            info = self.topic(topic, refresh=True)
        if not 0 <= partition < len(info.partitions):
            raise UnknownTopicOrPartition(
                f"topic {topic!r} has partitions 0 to {len(info.partitions) - 1}, not {partition}"
            )
        return info.partitions[partition]
