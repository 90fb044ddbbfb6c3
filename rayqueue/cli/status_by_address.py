"""`rayqueue status` by address: what the brokers tell, where there is no Ray to look at the processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.cluster_groups import with_groups
from rayqueue.cluster_status import ClusterStatus, PartitionStatus, ProcessStatus, TopicStatus

if TYPE_CHECKING:
    from rayqueue.admin_descriptions import ClusterDescription, TopicDescription
    from rayqueue.cli.options import Connection


def status_by_address(connection: Connection) -> ClusterStatus:
    """The cluster's state as its brokers have it.

    Raises:
        BrokerNotAvailable: none of them answers. AuthenticationError: the token is not the cluster's.
    """
    with connection.admin() as admin:
        cluster = admin.describe_cluster()
        topics = admin.describe_topics(internal=True)
    return with_groups(judge(cluster, topics, connection), connection.settings())


def judge(cluster: ClusterDescription, topics: list[TopicDescription], connection: Connection) -> ClusterStatus:
    """What the descriptions mean. What only Ray knows (pids, replica actors, files) is left empty."""
    return ClusterStatus(
        name="",
        cluster_id=cluster.cluster_id,
        bootstrap_servers=",".join(f"grpc://{_endpoint(b.host, b.port)}" for b in cluster.brokers)
        or connection.bootstrap_servers,
        needs_token=bool(connection.token),
        data_dir="",
        coordinator_epoch=cluster.coordinator_epoch,
        metadata_index=cluster.metadata_index,
        processes=_processes(cluster),
        topics=[_topic(topic) for topic in topics],
        problems=_problems(cluster, topics),
    )


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _processes(cluster: ClusterDescription) -> list[ProcessStatus]:
    state = "running" if cluster.coordinator else "gone"
    coordinator = ProcessStatus("coordinator", -1, -1, state, "", cluster.coordinator, 0, "", "", "")
    brokers = [
        ProcessStatus(
            "broker",
            broker.broker_id,
            -1,
            "running" if broker.alive else "gone",
            "",
            _endpoint(broker.host, broker.port),
            0,
            broker.node_id,
            "",
            "",
        )
        for broker in cluster.brokers
    ]
    return [coordinator, *brokers]


def _topic(topic: TopicDescription) -> TopicStatus:
    partitions = [
        PartitionStatus(
            partition=p.partition,
            leader=p.leader,
            leader_epoch=p.leader_epoch,
            replicas=p.replicas,
            isr=p.isr,
            offline=p.leader < 0 or bool(p.error),
            elr=p.elr,
            adding=p.adding,
            removing=p.removing,
            min_isr=int(topic.configs["min.insync.replicas"]),
            unclean=p.unclean_epoch == p.leader_epoch,
        )
        for p in topic.partitions
    ]
    return TopicStatus(topic.name, topic.schema is not None, partitions)


def _problems(cluster: ClusterDescription, topics: list[TopicDescription]) -> list[str]:
    problems = []
    if not cluster.coordinator:
        problems.append("no coordinator is active: topics cannot be changed")
    problems += [f"broker {broker.broker_id} does not live" for broker in cluster.brokers if not broker.alive]
    for topic in topics:
        for described, p in zip(topic.partitions, _topic(topic).partitions, strict=True):
            name = f"{topic.name}-{p.partition}"
            if p.leader < 0:
                problems.append(f"{name} has no leader")
            elif described.error:
                problems.append(f"{name}: {described.error}")
            elif p.under_min_isr:
                problems.append(f"{name} refuses acks=all: in sync {p.isr}, min.insync.replicas {p.min_isr}")
            elif p.under_replicated:
                problems.append(f"{name} is under-replicated: in sync {p.isr} of {p.replicas}")
            if p.unclean:
                problems.append(f"{name} is led since an UNCLEAN election: acked records may be lost")
    return problems
