"""Groups outlive whoever serves them: the group's state is in its log, and nothing committed goes back."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayqueue import AdminClient
from rayqueue.actors import group_log
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.errors import RayQueueError
from rayqueue.protocol.group_messages import GroupPartition, OffsetFetchRequest, OffsetFetchResponse
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.group_client import GroupClient, TestMember, retried
from tests.integration.waiting import eventually

WAIT_S = 30.0
PARTITIONS = 4
GROUP = "g"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path, brokers=3, config={"offsets.topic.num.partitions": 2}) as one:
        with AdminClient(bootstrap_servers=one.bootstrap_servers) as admin:
            admin.create_topic("clicks", partitions=PARTITIONS, replication_factor=3)
        yield one


@pytest.fixture
def client(cluster: InProcessCluster) -> GroupClient:
    return GroupClient(cluster.bootstrap_servers, GROUP)


def in_sync(cluster: InProcessCluster) -> bool:
    """Whether every replica of the topic of groups is."""

    def look(state: object, index: int, epoch: int) -> bool:
        return all(len(one.isr) == 3 for one in state.topics[GROUPS_TOPIC].partitions)  # type: ignore[attr-defined]

    broker = next(iter(cluster.brokers.values()))
    return broker._follower.read(look)


def partition_of(cluster: InProcessCluster) -> GroupPartition:
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        return GroupPartition(bytes.fromhex(admin.describe_topic("clicks").topic_id), 0)


def of(member: TestMember, offset: int) -> dict[GroupPartition, int]:
    return dict.fromkeys(sorted(member.holds), offset)


def check_goes_on(client: GroupClient, member: TestMember, offset: int) -> None:
    """The group is as it was: its member goes on under its epoch, and its offsets are there."""
    epoch, held = member.epoch, set(member.holds)
    assert client.committed() == of(member, offset)
    assert member.beat().error == "" and not member.errors
    assert (member.epoch, member.holds) == (epoch, held)
    assert member.commit(of(member, offset + 1)) == [""] * PARTITIONS
    assert client.committed() == of(member, offset + 1)


def test_the_group_coordinator_ends(cluster: InProcessCluster, client: GroupClient) -> None:
    with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
        member.commit(of(member, 1))
        broker_id = client.find().broker_id
        cluster.stop_groups(broker_id)
        cluster.start_groups(broker_id)
        check_goes_on(client, member, 1)


def test_the_partition_is_led_by_another_broker(cluster: InProcessCluster, client: GroupClient) -> None:
    with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
        member.commit(of(member, 1))
        before = client.find()
        cluster.stop_replica(before.broker_id)
        check_goes_on(client, member, 1)
        after = client.find()
        assert after.broker_id != before.broker_id and after.leader_epoch > before.leader_epoch
        assert client.describe().coordinator_epoch == after.leader_epoch
        cluster.start_replica(before.broker_id)


def test_both_end_and_come_back(cluster: InProcessCluster, client: GroupClient) -> None:
    with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
        member.commit(of(member, 1))
        broker_id = client.find().broker_id
        cluster.stop_replica(broker_id)
        cluster.stop_groups(broker_id)
        check_goes_on(client, member, 1)
        cluster.start_replica(broker_id)
        cluster.start_groups(broker_id)
        eventually(lambda: in_sync(cluster), WAIT_S)
        check_goes_on(client, member, 2)


def test_all_end_at_once_and_what_they_had_on_disk_is_gone(cluster: InProcessCluster, client: GroupClient) -> None:
    with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
        member.commit(of(member, 1))
        eventually(lambda: len(cluster.groups) == 3, WAIT_S)
        for broker_id in range(3):
            cluster.stop_groups(broker_id)
        for broker_id in range(3):
            cluster.stop_replica(broker_id)
        for broker_id in range(3):
            root = cluster.data_dir / str(broker_id)
            (root / "ports" / "groups").unlink()
            (root / "locks" / "groups").unlink()
        for broker_id in range(3):
            cluster.start_replica(broker_id)
            cluster.start_groups(broker_id)
        check_goes_on(client, member, 1)


def test_a_broker_is_restarted(cluster: InProcessCluster, client: GroupClient) -> None:
    with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
        member.commit(of(member, 1))
        eventually(lambda: in_sync(cluster), WAIT_S)
        broker_id = client.find().broker_id
        cluster.stop_broker(broker_id)
        check_goes_on(client, member, 1)
        assert client.find().broker_id != broker_id
        cluster.restart_broker(broker_id)
        eventually(lambda: broker_id in cluster.groups and cluster.groups[broker_id].ready.is_set(), WAIT_S)
        check_goes_on(client, member, 2)


def test_the_whole_cluster_is_stopped_and_started(tmp_path: Path) -> None:
    with InProcessCluster(tmp_path, config={"offsets.topic.num.partitions": 2}) as cluster:
        client = GroupClient(cluster.bootstrap_servers, GROUP)
        with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            admin.create_topic("clicks", partitions=PARTITIONS)
        with TestMember(client, ["clicks"]).settle(PARTITIONS) as member:
            member.commit(of(member, 1))
            cluster.stop()
            shutil.rmtree(tmp_path / "0" / "locks")
            cluster.start()
            check_goes_on(client, member, 1)


def test_while_too_few_are_in_sync_it_is_said_why(
    cluster: InProcessCluster, client: GroupClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under way has no known outcome; once that is given up, the next fence is refused."""
    monkeypatch.setattr(group_log, "SILENCE_MS", 500)
    assert client.commit({partition_of(cluster): 1}) == [""]
    others = [broker_id for broker_id in range(3) if broker_id != client.find().broker_id]
    for broker_id in others:
        cluster.stop_replica(broker_id)
    request = OffsetFetchRequest(GROUP, None)

    def said() -> str:
        try:
            client.once("offset_fetch", request, OffsetFetchResponse)
        except RayQueueError as error:
            assert error.retriable
            return str(error)
        return ""

    eventually(lambda: "min.insync.replicas is 2" in said(), WAIT_S)
    for broker_id in others:
        cluster.start_replica(broker_id)
    assert list(client.committed().values()) == [1]


@pytest.mark.parametrize("seed", [1, 2])
def test_what_was_committed_never_goes_back(cluster: InProcessCluster, client: GroupClient, seed: int) -> None:
    """Offsets are committed one after the other while parts of the cluster end and come back."""
    partition = partition_of(cluster)
    acked, over, problems = [0], threading.Event(), []

    def commit() -> None:
        try:
            while not over.is_set():
                offset = acked[0] + 1
                assert client.commit({partition: offset}) == [""]
                acked[0] = offset
        except BaseException as error:
            problems.append(error)

    def check() -> None:
        before = acked[0]
        seen = client.committed().get(partition, -1)
        assert seen >= before, f"{before} was committed, {seen} is read"

    assert client.commit({partition: 0}) == [""]
    eventually(lambda: len(cluster.groups) == 3, WAIT_S)
    thread = threading.Thread(target=commit)
    thread.start()
    rng = random.Random(seed)
    try:
        for _ in range(6):
            broker_id = rng.randrange(3) if rng.random() < 0.3 else retried(client.find).broker_id
            what = rng.choice(["groups", "replica", "both", "broker"])
            if what == "broker":
                cluster.stop_broker(broker_id)
                check()
                cluster.restart_broker(broker_id)
            if what in ("groups", "both"):
                cluster.stop_groups(broker_id)
            if what in ("replica", "both"):
                cluster.stop_replica(broker_id)
                check()
                cluster.start_replica(broker_id)
            if what in ("groups", "both"):
                cluster.start_groups(broker_id)
            check()
            before = acked[0]
            eventually(lambda before=before: acked[0] > before or problems, WAIT_S)  # type: ignore[misc]
            eventually(lambda: in_sync(cluster), WAIT_S)
    finally:
        over.set()
        thread.join(WAIT_S)
    assert not problems
    check()
