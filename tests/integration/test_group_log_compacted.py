"""A shard's log is compacted while its group goes on, and says all the same afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rayqueue import AdminClient
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.coordination import commands_topics
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.group_client import GroupClient, TestMember
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WAIT_S = 60.0
COMMITS = 300
SETTINGS = {"log.retention.check.interval.ms": 100, "offsets.topic.num.partitions": 1, "num.replica.actors": 1}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InProcessCluster]:
    small = {"segment.bytes": "8192", "min.cleanable.dirty.ratio": "0.01"}
    monkeypatch.setattr(commands_topics, "GROUPS_TOPIC_SETTINGS", {**commands_topics.GROUPS_TOPIC_SETTINGS, **small})
    with InProcessCluster(tmp_path, brokers=2, config=SETTINGS) as one:
        yield one


def test_a_group_is_resumed_from_a_compacted_log(cluster: InProcessCluster) -> None:
    with AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
        admin.create_topic("clicks", partitions=2)

        def size() -> int:
            (partition,) = admin.describe_topic(GROUPS_TOPIC).partitions
            return partition.size or 0

        client = GroupClient(cluster.bootstrap_servers, "g")
        with TestMember(client, ["clicks"]).settle(2) as member:
            before = size()
            assert member.commit(dict.fromkeys(sorted(member.holds), 1)) == ["", ""]
            all_of_it = COMMITS * (size() - before)
            for offset in range(2, COMMITS + 1):
                assert member.commit(dict.fromkeys(sorted(member.holds), offset)) == ["", ""]
            eventually(lambda: size() < all_of_it / 5, WAIT_S, "a compacted log")
            broker_id = client.find().broker_id
            cluster.stop_groups(broker_id)
            cluster.start_groups(broker_id)
            assert client.committed() == dict.fromkeys(sorted(member.holds), COMMITS)
            epoch = member.epoch
            assert member.beat().error == "" and member.epoch == epoch
            assert member.commit(dict.fromkeys(sorted(member.holds), COMMITS + 1)) == ["", ""]
    assert len(client.describe().offsets) == 2
