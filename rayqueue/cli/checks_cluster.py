"""What `rayqueue doctor` asks a cluster: who answers, and what has no leader."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rayqueue.cli.checks import FAIL, OK, WARN, Check
from rayqueue.cli.options import Connection
from rayqueue.cli.output import count_text
from rayqueue.errors import AuthenticationError, ClusterNotRunning, RayQueueError

if TYPE_CHECKING:
    from rayqueue.admin_descriptions import ClusterDescription, TopicDescription

TIMEOUT_MS = 5000
NAMED = 5  # so many partitions are named


def check_cluster(connection: Connection) -> Iterator[Check]:
    """The cluster answers, its token fits, its brokers live, its partitions are led."""
    from rayqueue.admin import AdminClient

    with AdminClient(
        {**connection.settings(), "client.id": "rayqueue-doctor", "request.timeout.ms": TIMEOUT_MS}
    ) as admin:
        try:
            cluster = admin.describe_cluster()
        except RayQueueError as error:
            yield failure(error, connection)
            return
        size = f"{count_text(len(cluster.brokers), 'broker')}, {count_text(cluster.topics, 'topic')}"
        yield Check("cluster", OK, f"{cluster.cluster_id}, {size}")
        yield check_token(cluster, connection.token)
        yield check_coordinator(cluster)
        yield from check_brokers(cluster)
        try:
            topics = admin.describe_topics(internal=True)
        except RayQueueError as error:
            yield Check("partitions", FAIL, str(error), "run doctor again; when it stays, look at the brokers' logs")
            return
        yield check_partitions(cluster, topics)


def failure(error: RayQueueError, connection: Connection) -> Check:
    """What it means that the cluster cannot be asked."""
    if isinstance(error, AuthenticationError):
        given = "the token given is not the cluster's" if connection.token else "no token was given"
        return Check(
            "token",
            FAIL,
            f"the cluster refuses us: {given}",
            "set RAYQUEUE_TOKEN to what `rayqueue start` printed, or --token",
        )
    name = f" --name {connection.cluster}" if connection.cluster != "default" else ""
    if isinstance(error, ClusterNotRunning):
        return Check("cluster", FAIL, f"no cluster {connection.cluster!r} runs", f"rayqueue start{name}")
    return Check(
        "cluster", FAIL, str(error), f"rayqueue status{name}; then rayqueue start{name} brings back what is missing"
    )


def check_token(cluster: ClusterDescription, token: str | None) -> Check:
    """Who listens to the network asks for a token."""
    public = [broker.host for broker in cluster.brokers if not _is_loopback(broker.host)]
    if not public:
        return Check("token", OK, "brokers listen on this machine only; no token is needed")
    if token or os.environ.get("RAYQUEUE_TOKEN"):
        return Check("token", OK, "the token given is the cluster's")
    return Check("token", OK, f"brokers listen on {', '.join(sorted(set(public)))}; Ray knows the token")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_coordinator(cluster: ClusterDescription) -> Check:
    """There is an active coordinator."""
    if not cluster.coordinator:
        return Check(
            "coordinator",
            FAIL,
            "no coordinator is active; producing goes on, topics cannot be changed",
            "wait some seconds, Ray restarts it; else rayqueue start",
        )
    return Check("coordinator", OK, f"active at {cluster.coordinator}, epoch {cluster.coordinator_epoch}")


def check_brokers(cluster: ClusterDescription) -> Iterator[Check]:
    """Every broker lives."""
    if not cluster.brokers:
        yield Check("brokers", FAIL, "no broker has registered", "wait some seconds; then look at the brokers' logs")
        return
    dead = [broker for broker in cluster.brokers if not broker.alive]
    for broker in dead:
        yield Check(
            "brokers",
            FAIL,
            f"broker {broker.broker_id} at {broker.host}:{broker.port} does not live; it led {broker.leads} partitions",
            "Ray restarts it; when it stays away, look at its log and at `ray status`, then rayqueue start",
        )
    if not dead:
        yield Check("brokers", OK, f"all {len(cluster.brokers)} live")


def check_partitions(cluster: ClusterDescription, topics: list[TopicDescription]) -> Check:
    """Every partition has a leader that answers, and all its replicas."""
    if cluster.without_leader:
        return Check(
            "partitions",
            FAIL,
            f"without leader: {_some(cluster.without_leader)}",
            "their broker or replica actor is away: see above, and `rayqueue topic describe`",
        )
    silent = [f"{topic.name}-{p.partition}" for topic in topics for p in topic.partitions if p.error]
    if silent:
        return Check(
            "partitions",
            FAIL,
            f"the leader does not answer: {_some(silent)}",
            "its replica actor is restarting or stuck: run doctor again in some seconds",
        )
    if cluster.under_replicated:
        return Check(
            "partitions",
            WARN,
            f"under-replicated: {_some(cluster.under_replicated)}",
            "a broker is away or catching up; records are safe as long as one replica in sync remains",
        )
    return Check("partitions", OK, f"{count_text(cluster.partitions, 'partition')}, all led")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
