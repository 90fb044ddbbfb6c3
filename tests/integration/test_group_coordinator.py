"""Group coordinators of an in-process cluster: found, joined, committed to; what is internal is hidden and refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayqueue import AdminClient, Producer, errors
from rayqueue.client.connection import Channel
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.protocol.group_messages import (
    DeleteGroupRequest,
    DescribeGroupRequest,
    DescribeGroupResponse,
    FindGroupCoordinator,
    GroupCoordinatorAddress,
    GroupPartition,
    ListGroupsRequest,
    ListGroupsResponse,
)
from rayqueue.protocol.messages import Empty
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.group_client import GroupClient, TestMember
from tests.integration.waiting import eventually

WAIT_S = 20.0
PARTITIONS = 6


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcessCluster]:
    config = {"offsets.topic.num.partitions": 4, "group.disconnect.grace.ms": 100}
    with InProcessCluster(tmp_path_factory.mktemp("groups"), config=config, replicas=2) as one:
        with AdminClient(bootstrap_servers=one.bootstrap_servers) as admin:
            admin.create_topic("clicks", partitions=PARTITIONS)
        yield one


@pytest.fixture
def admin(cluster: InProcessCluster) -> Iterator[AdminClient]:
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as one:
        yield one


def client(cluster: InProcessCluster, group_id: str) -> GroupClient:
    return GroupClient(cluster.bootstrap_servers, group_id)


def test_there_is_no_group_coordinator_before_there_is_a_group(tmp_path_factory: pytest.TempPathFactory) -> None:
    with InProcessCluster(tmp_path_factory.mktemp("new")) as new:
        assert not new.groups
        with AdminClient(bootstrap_servers=new.bootstrap_servers) as admin:
            assert admin.list_topics(internal=True) == []
            assert client(new, "g").committed() == {}
            assert admin.list_topics() == [] and admin.list_topics(internal=True) == [GROUPS_TOPIC]
            settings = admin.describe_topic_config(GROUPS_TOPIC)
            assert settings["retention.ms"].value == "-1"
        assert list(new.groups) == [0]


def test_a_member_joins_is_given_all_and_commits(cluster: InProcessCluster, admin: AdminClient) -> None:
    one = client(cluster, "alone")
    with TestMember(one, ["clicks"], host="here", client_id="c1").settle(PARTITIONS) as member:
        assert member.holds == {
            GroupPartition(bytes.fromhex(admin.describe_topic("clicks").topic_id), n) for n in range(PARTITIONS)
        }
        offsets = {partition: 10 + partition.partition for partition in member.holds}
        assert member.commit(offsets) == [""] * PARTITIONS
        assert one.committed() == offsets
        seen = one.describe()
        assert (seen.state, seen.coordinator) == ("Stable", 0)
        assert [(m.member_id, m.host, m.client_id) for m in seen.members] == [(member.member_id, "here", "c1")]
        listed = one.ask("list_groups", ListGroupsRequest(), ListGroupsResponse)
        assert "alone" in [group.group_id for group in listed.groups]


def test_two_members_share_and_are_told_unasked(cluster: InProcessCluster) -> None:
    one = client(cluster, "two")
    with TestMember(one, ["clicks"]).settle(PARTITIONS) as first, TestMember(one, ["clicks"]) as second:
        second.beat()
        told = first.hear(WAIT_S)
        assert told.assignment is not None and len(first.holds) == PARTITIONS // 2, "it was told without asking"
        first.beat()
        second.settle(PARTITIONS // 2)
        assert not first.holds & second.holds
        first.disconnect()
        second.settle(PARTITIONS)


def test_what_is_wrong_is_said(cluster: InProcessCluster, admin: AdminClient) -> None:
    one = client(cluster, "wrong")
    with pytest.raises(errors.GroupNotFound):
        one.describe()
    partition = GroupPartition(bytes.fromhex(admin.describe_topic("clicks").topic_id), 0)
    with TestMember(one, ["clicks"]).settle(PARTITIONS) as member:
        with pytest.raises(errors.UnknownMember):
            one.commit({partition: 1}, member_id="nobody", member_epoch=1)
        with pytest.raises(errors.GroupNotEmpty):
            one.ask("delete_group", DeleteGroupRequest("wrong"), Empty)
        stranger = TestMember(one, ["clicks"])
        assert stranger.beat(7).error == "UnknownMember"
        stranger.disconnect()
        assert member.beat(-1).error == ""
    one.ask("delete_group", DeleteGroupRequest("wrong"), Empty)
    with pytest.raises(errors.GroupNotFound):
        one.ask("describe_group", DescribeGroupRequest("wrong"), DescribeGroupResponse)


def test_every_shard_can_be_found(cluster: InProcessCluster) -> None:
    client(cluster, "any").committed()
    channel = Channel("127.0.0.1", cluster.brokers[0].port)
    try:
        for shard in range(4):
            found = channel.call(
                "find_group_coordinator", FindGroupCoordinator("", shard=shard), GroupCoordinatorAddress, 5
            )
            assert (found.shard, found.port) == (shard, cluster.groups[0].port)
        with pytest.raises(errors.GroupCoordinatorNotAvailable, match="4 shards"):
            channel.call("find_group_coordinator", FindGroupCoordinator("", shard=4), GroupCoordinatorAddress, WAIT_S)
    finally:
        channel.close()


def test_the_topic_of_groups_is_not_the_users(cluster: InProcessCluster, admin: AdminClient) -> None:
    client(cluster, "any").committed()
    with pytest.raises(errors.InvalidTopic):
        admin.delete_topic(GROUPS_TOPIC)
    with pytest.raises(errors.InvalidTopic):
        admin.create_partitions(GROUPS_TOPIC, 8)
    with Producer(bootstrap_servers=cluster.bootstrap_servers) as producer, pytest.raises(errors.InvalidTopic):
        producer.produce(GROUPS_TOPIC, b"x", partition=0).result(WAIT_S)


def test_a_group_coordinator_that_ends_is_started_again(cluster: InProcessCluster) -> None:
    one = client(cluster, "again")
    with TestMember(one, ["clicks"]).settle(PARTITIONS) as member:
        offsets = dict.fromkeys(member.holds, 3)
        member.commit(offsets)
        before = cluster.groups.pop(0)
        before.stop()  # its broker starts another one
        assert one.committed() == offsets
        after = cluster.groups[0]
        assert after is not before and after.port == before.port
        assert member.beat().error == "" and len(member.holds) == PARTITIONS, "it goes on under its epoch"
    eventually(lambda: not one.describe().members, WAIT_S, "the end of the member without a connection")
