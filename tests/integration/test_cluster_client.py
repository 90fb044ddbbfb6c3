"""What every client shares: its settings, its cache, and trying again, against an in-process cluster and dead ports."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import rayqueue.cluster
from rayqueue import errors
from rayqueue.actors.calls import typed
from rayqueue.actors.flight import FlightServer
from rayqueue.client import cluster_client
from rayqueue.client.addresses import format_addresses, parse_addresses
from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.connection import Channel
from rayqueue.config import AdminConfig
from rayqueue.protocol.messages import (
    PROTOCOL_VERSION,
    CreateTopicsRequest,
    Empty,
    Identity,
    MetadataRequest,
    MetadataResponse,
    TopicSpec,
    TopicsResponse,
)
from rayqueue.testing.inprocess import InProcessCluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path_factory.mktemp("cluster")) as one:
        yield one


def client(servers: str, **settings: Any) -> ClusterClient:
    return ClusterClient(AdminConfig.parse({"bootstrap_servers": servers, **settings}))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def metadata_server(answer: Any, token: str | None = None) -> FlightServer:
    """A broker that answers metadata requests with a function of ours."""
    identity = Identity(PROTOCOL_VERSION, "c", "broker", 0, "i", 1)
    actions = {"metadata": typed(MetadataRequest, answer)}
    return FlightServer("127.0.0.1", 0, identity=identity, token=token, actions=actions)


def empty(_: Any) -> MetadataResponse:
    return MetadataResponse("c", 0, [], "127.0.0.1", 1, 0, [])


def create(one: ClusterClient, name: str) -> None:
    request = CreateTopicsRequest([TopicSpec(name, 1, -1, {}, b"", "")])
    assert not one.call_coordinator("create_topics", request, TopicsResponse).results[0].error


def test_a_dead_address_in_the_list_is_passed_over(cluster: InProcessCluster) -> None:
    one = client(f"127.0.0.1:{free_port()},{cluster.bootstrap_servers}")
    for _ in range(5):
        assert one.metadata().brokers[0].alive
    one.close()


def test_nobody_answers() -> None:
    one = client(f"127.0.0.1:{free_port()}", request_timeout_ms=300)
    with pytest.raises(errors.BrokerNotAvailable, match="rayqueue status"):
        one.metadata()
    one.close()


def test_request_timeout_bounds_a_server_that_is_silent() -> None:
    release = threading.Event()
    server = metadata_server(lambda _: (release.wait(20), empty(_))[1])
    one = client(f"127.0.0.1:{server.port}", request_timeout_ms=300)
    started = time.monotonic()
    with pytest.raises(errors.BrokerNotAvailable):
        one.metadata()
    assert time.monotonic() - started < 10
    release.set()
    one.close()
    server.shutdown()


def test_a_broker_that_hangs_is_passed_over_and_others_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_client, "BROKER_PATIENCE_S", 0.1)
    release = threading.Event()
    asked: list[str] = []

    def hang(request: MetadataRequest) -> MetadataResponse:
        asked.append("hanging")
        release.wait(20)
        return empty(request)

    hanging = metadata_server(hang)
    lively = metadata_server(lambda request: (asked.append("lively"), empty(request))[1])
    one = client(f"127.0.0.1:{hanging.port},127.0.0.1:{lively.port}")
    for _ in range(30):
        assert one.metadata().cluster_id == "c"
    assert asked.count("hanging") <= 1 and asked.count("lively") == 30
    release.set()
    one.close()
    for server in (hanging, lively):
        server.shutdown()


def test_retriable_errors_are_tried_again_after_the_backoff() -> None:
    calls: list[float] = []

    def flaky(request: Any) -> MetadataResponse:
        calls.append(time.monotonic())
        if len(calls) < 4:
            raise errors.BrokerNotAvailable("starting")
        return empty(request)

    server = metadata_server(flaky)
    one = client(f"127.0.0.1:{server.port}", retry_backoff_ms=40, retry_backoff_max_ms=50)
    assert one.metadata().cluster_id == "c"
    assert len(calls) == 4
    assert all(later - earlier >= 0.03 for earlier, later in zip(calls, calls[1:], strict=False))
    one.close()
    server.shutdown()


def test_backoff_doubles_up_to_its_limit() -> None:
    one = client("127.0.0.1:1", retry_backoff_ms=100, retry_backoff_max_ms=350)
    assert [round(one.backoff(n) / 0.1) for n in (0, 1)] == [1, 2]
    assert all(0.28 <= one.backoff(n) <= 0.42 for n in (2, 5, 100))
    one.close()


def test_the_token_goes_along_from_setting_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    server = metadata_server(empty, token="right")
    address = f"127.0.0.1:{server.port}"
    monkeypatch.setenv("RAYQUEUE_TOKEN", "wrong")
    with pytest.raises(errors.AuthenticationError, match="RAYQUEUE_TOKEN"):
        client(address).metadata()
    assert client(address, token="right").metadata().cluster_id == "c"
    monkeypatch.setenv("RAYQUEUE_TOKEN", "right")
    assert client(address).metadata().cluster_id == "c"
    server.shutdown()


def test_auto_asks_ray_for_the_cluster_of_that_name(cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(name: str) -> tuple[str, str | None]:
        asked.append(name)
        return cluster.bootstrap_servers, "a token"

    monkeypatch.setattr(rayqueue.cluster, "resolve_bootstrap", resolve)
    one = client("auto", cluster="orders")
    assert one.metadata().brokers
    assert (asked, one.token) == (["orders"], "a token")
    one.close()


def test_connection_setup_timeout_bounds_a_host_that_does_not_answer() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        held = [socket.socket() for _ in range(4)]
        for one in held:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        channel = Channel("127.0.0.1", full.getsockname()[1], connect_timeout_s=0.2)
        with pytest.raises(errors.RayQueueError):
            channel.call("identify", Empty(), Identity, 1.0)
        for one in held:
            one.close()


def test_metadata_is_cached_until_its_age_or_a_refresh(cluster: InProcessCluster) -> None:
    one = client(cluster.bootstrap_servers, metadata_max_age_ms=600_000)
    create(one, "cached")
    first = one.topic("cached")
    assert one.topic("cached") is first
    assert one.topic("cached", refresh=True) is not first
    old = client(cluster.bootstrap_servers, metadata_max_age_ms=1)
    before = old.topic("cached")
    threading.Event().wait(0.01)
    assert old.topic("cached") is not before
    one.close()
    old.close()


def test_an_unknown_topic_says_how_to_make_it_and_what_is_near(cluster: InProcessCluster) -> None:
    one = client(cluster.bootstrap_servers)
    create(one, "flights")
    with pytest.raises(errors.UnknownTopicOrPartition, match=r"did you mean 'flights'.*rayqueue topic create flight"):
        one.topic("flight")
    with pytest.raises(errors.UnknownTopicOrPartition, match="partitions 0 to 0, not 7"):
        one.partition("flights", 7)
    for name in ("", ".", "a b", "n" * 250):
        with pytest.raises(errors.InvalidTopic):
            one.topic(name)
    one.close()
    with pytest.raises(errors.RayQueueError, match="closed"):
        one.metadata()


@pytest.mark.parametrize("text", ["", " , ", "host", "host:port", "host:0", "host:70000", ":9000"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(errors.ConfigError, match=r"bootstrap\.servers"):
        parse_addresses(text)


def test_addresses_there_and_back() -> None:
    assert parse_addresses("grpc://a:1, b:2/,[::1]:3") == [("a", 1), ("b", 2), ("::1", 3)]
    assert parse_addresses(format_addresses([("a", 1), ("::1", 3)])) == [("a", 1), ("::1", 3)]
