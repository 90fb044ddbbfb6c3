"""Three coordinators on real disks and sockets: one may go, also with its disk, and no more than one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

import rayqueue
from rayqueue.actors import coordinator as coordinator_module
from rayqueue.actors import rolling
from rayqueue.actors.broker import Broker
from rayqueue.actors.coordinator import Coordinator
from rayqueue.actors.options import CoordinatorOptions
from rayqueue.actors.partition_replica import PartitionReplica
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.errors import BrokerNotAvailable, NotController, RecordTooLarge
from rayqueue.protocol.messages import AllocateProducerIds, CreateTopicsRequest, ProducerIdBlock, TopicSpec
from rayqueue.testing.inprocess import HOST, InProcessCluster
from tests.integration.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WAIT_S = 30.0


def voters(cluster: InProcessCluster) -> list[int]:
    return sorted(voter.broker_id for voter in cluster.coordinator.quorum.membership.voters)


def wait_active(cluster: InProcessCluster, but: int = -1) -> int:
    """Waits for an active coordinator that is not this one; its id."""

    def found() -> list[int]:
        return [i for i, one in cluster.coordinators.items() if one.active and i != but]

    return int(eventually(found, WAIT_S, "an active coordinator")[0])


def wait_level(cluster: InProcessCluster) -> None:
    """Waits until every coordinator has all that is committed."""
    eventually(
        lambda: len({one.quorum.commit for one in cluster.coordinators.values()}) == 1, WAIT_S, "level coordinators"
    )


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[InProcessCluster]:
    with InProcessCluster(tmp_path, brokers=3, coordinators=3) as made:
        eventually(lambda: voters(made) == [0, 1, 2], WAIT_S, "three voters")
        yield made


def names(admin: rayqueue.AdminClient) -> set[str]:
    return set(admin.list_topics())


def test_each_coordinator_can_be_the_next(cluster: InProcessCluster, admin: rayqueue.AdminClient) -> None:
    admin.create_topic("t", partitions=3, replication_factor=3)
    made = {"t"}
    epochs = [cluster.coordinator.quorum.epoch]
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for number in range(3):
            gone = cluster.stop_coordinator()
            assert producer.produce("t", b"%d" % number).result(WAIT_S).offset >= 0
            wait_active(cluster, gone)
            admin.create_topic(f"after-{number}")
            made.add(f"after-{number}")
            epochs.append(cluster.coordinator.quorum.epoch)
            cluster.start_coordinator(gone)
            wait_level(cluster)
    assert names(admin) == made
    assert epochs == sorted(set(epochs)), "every one is active in an epoch of its own"
    described = admin.describe_topic("t")
    assert {tuple(sorted(p.isr)) for p in described.partitions} == {(0, 1, 2)}, "no replica counted as lost meanwhile"
    images = [one.look_committed(lambda state: sorted(state.topics)) for one in cluster.coordinators.values()]
    assert images == [sorted(made)] * 3


def test_a_standby_takes_no_commands(cluster: InProcessCluster) -> None:
    standby = next(one for one in cluster.coordinators.values() if not one.active)
    assert standby.report().standing == "standby"
    with pytest.raises(NotController, match="is the active one"):
        standby.ask(AllocateProducerIds(0))


def test_without_a_majority_nothing_is_changed_and_data_flows(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    admin.create_topic("t", replication_factor=3)
    active = cluster.coordinator.options.coordinator_id
    rest = [i for i in cluster.coordinators if i != active]
    for one in rest:
        cluster.stop_coordinator(one)
    eventually(lambda: not cluster.coordinators[active].active, WAIT_S, "the last one steps down")
    with pytest.raises(BrokerNotAvailable):
        cluster.coordinators[active].ask(AllocateProducerIds(0))
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        assert producer.produce("t", b"x").result(WAIT_S).offset == 0
    cluster.start_coordinator(rest[0])
    wait_active(cluster)
    admin.create_topic("again")
    assert names(admin) == {"t", "again"}


def test_a_copy_that_was_lost_with_its_disk_joins_anew_as_another_one(
    cluster: InProcessCluster, admin: rayqueue.AdminClient, tmp_path: Path
) -> None:
    admin.create_topic("t")
    lost = cluster.stop_coordinator()
    before = {voter for one in cluster.coordinators.values() if one.active for voter in one.quorum.membership.voters}
    shutil.rmtree(tmp_path / f"coordinator-{lost}")
    wait_active(cluster, lost)
    cluster.start_coordinator(lost)
    eventually(
        lambda: voters(cluster) == [0, 1, 2] and set(cluster.coordinator.quorum.membership.voters) != before,
        WAIT_S,
        "the new copy votes",
    )
    admin.create_topic("u")
    wait_level(cluster)
    new = cluster.coordinators[lost]
    assert new.look_committed(lambda state: sorted(state.topics)) == ["t", "u"]


def test_a_founder_that_lost_its_disk_joins_when_it_is_told_the_cluster_while_it_already_listens(
    cluster: InProcessCluster, tmp_path: Path
) -> None:
    """It is started as it was at first, and so does not know that there is a cluster."""
    wait_level(cluster)
    founder = cluster.stop_coordinator(0)
    shutil.rmtree(tmp_path / f"coordinator-{founder}")
    others = {i: (HOST, one.port) for i, one in cluster.coordinators.items() if i != founder}
    active = wait_active(cluster, founder)
    options = CoordinatorOptions("inprocess", str(tmp_path), HOST, HOST, cluster.config, node_id="node-0")
    new = cluster.coordinators[founder] = Coordinator(options)
    eventually(lambda: new.report().state == "running" and new.standing == "empty", WAIT_S, "an empty coordinator")
    new.join(cluster.coordinators[active].cluster_id, others)
    eventually(lambda: voters(cluster) == [0, 1, 2] and new.standing == "standby", WAIT_S, "the new copy votes")
    wait_level(cluster)
    assert new.cluster_id == cluster.coordinators[active].cluster_id


def test_a_rolling_restart_waits_for_a_coordinator_that_is_away(cluster: InProcessCluster) -> None:
    """It would stop another one, and with that one the majority would be gone."""
    assert eventually(lambda: rolling._missing(cluster.coordinator.overview(), -1, "") == "", WAIT_S)
    away = next(i for i, one in cluster.coordinators.items() if not one.active)
    cluster.stop_coordinator(away)
    said = eventually(lambda: rolling._missing(cluster.coordinator.overview(), -1, ""), WAIT_S)
    assert said.startswith(f"coordinator {away} has not been heard for ")
    cluster.start_coordinator(away)
    eventually(lambda: rolling._missing(cluster.coordinator.overview(), -1, "") == "", WAIT_S)


def test_ids_are_never_handed_out_twice_whoever_is_active(cluster: InProcessCluster) -> None:
    blocks: list[ProducerIdBlock] = []
    for _ in range(3):
        blocks += [cluster.coordinator.ask(AllocateProducerIds(0)) for _ in range(3)]
        gone = cluster.stop_coordinator()
        wait_active(cluster, gone)
        blocks += [cluster.coordinator.ask(AllocateProducerIds(0)) for _ in range(3)]
        cluster.start_coordinator(gone)
        wait_level(cluster)
    firsts = [block.first for block in blocks]
    assert firsts == sorted(set(firsts))


def test_a_cluster_that_was_stopped_is_there_again_with_all_its_voters(tmp_path: Path) -> None:
    for number in range(2):
        with InProcessCluster(tmp_path, brokers=2, coordinators=3) as cluster:
            eventually(lambda cluster=cluster: voters(cluster) == [0, 1, 2], WAIT_S, "three voters")
            with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
                assert len(names(admin)) == number
                admin.create_topic(f"t{number}")


def test_a_snapshot_takes_the_place_of_a_long_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was away longer than the log reaches back gets the snapshot, and so do brokers."""
    short = QuorumConfig(snapshot_after_entries=20, kept_entries=5)
    monkeypatch.setattr(coordinator_module, "QUORUM", short)
    with InProcessCluster(tmp_path, brokers=1, coordinators=3) as cluster:
        eventually(lambda: voters(cluster) == [0, 1, 2], WAIT_S, "three voters")
        with rayqueue.AdminClient(bootstrap_servers=cluster.bootstrap_servers) as admin:
            admin.create_topic("first", partitions=2)
            away = next(i for i, one in cluster.coordinators.items() if not one.active)
            cluster.stop_coordinator(away)
            for _ in range(60):
                cluster.coordinator.ask(AllocateProducerIds(0))
            admin.create_topic("second")
            cluster.start_coordinator(away)
            wait_level(cluster)
            back = cluster.coordinators[away].look_committed(
                lambda state: (sorted(state.topics), state.next_producer_id)
            )
            assert back == (["first", "second"], 61_000)
            assert (tmp_path / f"coordinator-{away}" / "metadata" / "snapshot").exists()
            with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
                assert producer.produce("first", b"x", partition=1).result(WAIT_S).offset == 0
                cluster.stop_replica(0)
                cluster.start_replica(0)  # follows the log from its start: from the snapshot
                assert producer.produce("first", b"x", partition=1).result(WAIT_S).offset == 1
    with InProcessCluster(tmp_path, brokers=1, coordinators=3) as again:
        eventually(lambda: voters(again) == [0, 1, 2], WAIT_S, "three voters")
        assert sorted(again.coordinator.look(lambda state, _: list(state.topics))) == ["first", "second"]


def test_one_that_cannot_hear_a_majority_answers_nothing_it_may_be_wrong_about(
    cluster: InProcessCluster, admin: rayqueue.AdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off, but not yet aware of it: another one may be active, and may have deleted what it still has."""
    admin.create_topic("t")
    cut_off = cluster.coordinator
    deaf = "rayqueue.actors.quorum_links.QuorumLink.send"
    monkeypatch.setattr(deaf, lambda link, message: None)
    again = CreateTopicsRequest([TopicSpec("t", 1, -1, {}, b"", "")], 100)
    with pytest.raises(BrokerNotAvailable):
        cut_off.ask(again)  # it would say that there is such a topic
    monkeypatch.undo()
    wait_active(cluster)
    assert names(admin) == {"t"}


def test_processes_that_were_started_with_one_address_find_the_others_after_a_restart(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    """Ray starts a process again with the arguments of its first start."""
    admin.create_topic("t", partitions=3)
    gone = 0  # the one whose address all of them were started with
    broker = cluster.brokers[1]
    known = cluster.coordinators[gone].options.advertised_host, cluster.coordinators[gone].port
    options = msgspec.structs.replace(broker.options, coordinators=(known,))
    eventually(lambda: (Path(options.directory) / "coordinators.json").exists(), WAIT_S, "what was learned is kept")
    cluster.stop_coordinator(gone)
    wait_active(cluster, gone)
    cluster.stop_replica(1)
    broker.stop()
    again = Broker(options, lambda slot: None, lambda: None)
    replica = PartitionReplica(options, 0)
    try:
        assert again.ready.wait(WAIT_S), again.report()
        assert replica.ready.wait(WAIT_S), replica.report()
    finally:
        again.stop()
        replica.stop()
        del cluster.brokers[1]


def test_coordinators_that_have_all_moved_find_each_other_when_they_are_told(tmp_path: Path) -> None:
    """Each knows where the others were; a new address would come by the log, and there is none without a majority."""
    with InProcessCluster(tmp_path, brokers=1, coordinators=3) as cluster:
        eventually(lambda: voters(cluster) == [0, 1, 2], WAIT_S, "three voters")
        wait_level(cluster)
        old = {i: one.port for i, one in cluster.coordinators.items()}
        cluster_id, config = cluster.coordinator.cluster_id, cluster.config
    made = []
    for i in old:
        (tmp_path / f"coordinator-{i}" / "ports" / "coordinator").unlink()
        options = CoordinatorOptions("c", str(tmp_path), HOST, HOST, config, coordinator_id=i, cluster_id=cluster_id)
        made.append(Coordinator(options))
    try:
        eventually(lambda: all(one.report().state == "waiting" for one in made), WAIT_S, "coordinators that wait")
        assert not set(old.values()) & {one.port for one in made}
        for one in made:
            one.meet({other.options.coordinator_id: (HOST, other.port) for other in made})
        eventually(lambda: any(one.active for one in made), WAIT_S, "an active one")
        now = {one.options.coordinator_id: (HOST, one.port) for one in made}
        eventually(lambda: all(one.known == now for one in made), WAIT_S, "what the log says of addresses")
    finally:
        for one in made:
            one.stop()


def test_a_command_that_would_not_fit_into_a_message_is_refused_and_nothing_else_happens(
    cluster: InProcessCluster, admin: rayqueue.AdminClient
) -> None:
    epoch = cluster.coordinator.quorum.epoch
    wide = pa.schema([pa.field("x" * (13 << 20), pa.int64())])
    with pytest.raises(RecordTooLarge, match="smaller schema"):
        admin.create_topic("wide", schema=wide)
    admin.create_topic("t")
    assert names(admin) == {"t"} and cluster.coordinator.quorum.epoch == epoch
