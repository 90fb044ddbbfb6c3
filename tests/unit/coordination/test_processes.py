"""Registration, leader epochs, who counts as alive, producer ids, and how the log is followed."""

from __future__ import annotations

import pytest

from rayqueue.coordination.events import Applied, WatchStarted
from rayqueue.coordination.machine import METADATA_WAIT_MS, FormatCluster
from rayqueue.coordination.sessions import BROKER_SESSION_MS
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, ConfigError, ProcessReplaced, ProtocolError
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    AlterConfigRequest,
    DeleteTopicsRequest,
    Empty,
    MetadataRequest,
    NamedError,
    RegisterBroker,
    RegisterReplicaActor,
)
from tests.unit.coordination.harness import Harness, create, dump, spec


@pytest.fixture
def cluster() -> Harness:
    harness = Harness({"default.replication.factor": 1})
    harness.broker(0)
    harness.broker(1)
    return harness


def register(broker_id: int, incarnation: str, directory: str = "", pool: int = 2) -> RegisterBroker:
    return RegisterBroker(broker_id, directory or f"dir{broker_id}", incarnation, "127.0.0.1", 9100, "n", pool)


# --- formatting -----------------------------------------------------------------------------------------------------


def test_before_it_is_formatted_nothing_is_served() -> None:
    cluster = Harness(formatted=False)
    with pytest.raises(BrokerNotAvailable):
        cluster.call(MetadataRequest(None))
    assert cluster.call(FormatCluster("c1")) == Empty()
    assert cluster.call(MetadataRequest(None)).cluster_id == "c1"


def test_formatting_again_does_nothing_and_never_makes_another_cluster(cluster: Harness) -> None:
    end = len(cluster.log)
    cluster.call(FormatCluster("c1"))
    cluster.call(FormatCluster("c2", must_match=False))
    assert len(cluster.log) == end and cluster.call(MetadataRequest(None)).cluster_id == "c1"
    with pytest.raises(ClusterMismatch):
        cluster.call(FormatCluster("c2"))


def test_a_request_that_is_none_of_ours_is_refused(cluster: Harness) -> None:
    with pytest.raises(ProtocolError):
        cluster.call(NamedError("x"))


# --- leader epochs --------------------------------------------------------------------------------------------------


def test_a_process_start_leads_only_under_a_new_epoch(cluster: Harness) -> None:
    cluster.create("a", 4)
    before = {(p.leader, cluster.state.slot_of(p, p.leader)): p for _, p in cluster.state.partitions()}
    assert len(before) == 4, "each replica actor leads one"
    cluster.actor(1, 0, generation=1)
    for key, old in before.items():
        new = cluster.state.topics["a"].partitions[old.partition]
        risen = 1 if key == (1, 0) else 0
        assert (new.leader_epoch, new.partition_epoch) == (old.leader_epoch + risen, old.partition_epoch + risen)
        assert new.leader == old.leader and new.replicas == old.replicas


def test_the_same_process_may_register_again(cluster: Harness) -> None:
    cluster.create("a", 4)
    end = len(cluster.log)
    cluster.actor(0, 0)
    cluster.broker(0, actors=False)
    assert len(cluster.log) == end


def test_a_late_registration_of_a_dead_process_is_refused(cluster: Harness) -> None:
    cluster.actor(0, 0, generation=1)
    cluster.broker(1, generation=1)
    for _ in range(2):
        with pytest.raises(ClusterMismatch):
            cluster.actor(0, 0, generation=0)
        with pytest.raises(ClusterMismatch):
            cluster.call(register(1, "b1.0"))
        cluster.restart()  # the log alone remembers it


def test_a_late_registration_never_heard_before_is_taken_and_who_it_replaced_must_end(cluster: Harness) -> None:
    """Seed 1111 of the simulated partitions: nothing tells such a request from one of a new process."""
    cluster.create("t")
    cluster.actor(0, 0, generation=2)
    late = RegisterReplicaActor(0, 0, "a0/0.1", "127.0.0.1", 9200)  # killed before anybody had heard of it
    cluster.call(late)
    with pytest.raises(ProcessReplaced):
        cluster.actor(0, 0, generation=2)
    cluster.actor(0, 0, generation=3)
    with pytest.raises(ProcessReplaced):
        cluster.call(late)
    assert cluster.state.replica_actors[0, 0].incarnation == "a0/0.3" and (0, 0) not in cluster.state.lost


def test_a_broker_id_stays_with_its_directory(cluster: Harness) -> None:
    with pytest.raises(ClusterMismatch, match="new id"):
        cluster.call(register(0, "b0.1", directory="other"))
    cluster.call(register(0, "b0.1"))


@pytest.mark.parametrize(("broker_id", "pool"), [(-1, 2), (5, 0), (5, 257)])
def test_a_malformed_registration_is_refused(cluster: Harness, broker_id: int, pool: int) -> None:
    with pytest.raises(ConfigError):
        cluster.call(register(broker_id, "x", pool=pool))


def test_a_replica_actor_needs_its_broker_and_its_slot(cluster: Harness) -> None:
    with pytest.raises(BrokerNotAvailable):
        cluster.call(RegisterReplicaActor(7, 0, "x", "127.0.0.1", 1))
    for slot in (-1, 2):
        with pytest.raises(ClusterMismatch):
            cluster.call(RegisterReplicaActor(0, slot, "x", "127.0.0.1", 1))


def test_a_smaller_pool_moves_partitions_to_the_slots_that_are_left(cluster: Harness) -> None:
    cluster.create("a", 4)
    cluster.call(register(0, "b0.1", pool=1))
    cluster.actor(0, 0, generation=1)
    led = [(t, p) for t, p in cluster.state.partitions_on(0, 0) if p.leader == 0]
    assert len(led) == 2 and all(p.leader_epoch == 1 for _, p in led)
    assert (0, 1) not in cluster.state.replica_actors


# --- what a response waits for --------------------------------------------------------------------------------------


def test_a_response_waits_until_its_records_are_durable(cluster: Harness) -> None:
    cluster.hold = True
    call = cluster.send(AllocateProducerIds(0))
    read = cluster.send(MetadataRequest(None))
    assert call not in cluster.answers and read not in cluster.answers, "a read must not show what may be lost"
    assert cluster.published < len(cluster.log)
    cluster.commit()
    assert cluster.answers[call].first == 0 and cluster.answers[read].index == len(cluster.log) == cluster.published


def test_creation_waits_for_each_leader_and_for_nobody_else(cluster: Harness) -> None:
    call = cluster.send(create(spec("a", 2)))
    end = len(cluster.log)
    cluster.step(Applied("a0/0.0", end - 1))
    cluster.step(Applied("a1/0.0", end))
    assert call not in cluster.answers, "broker 0's replica actor has not applied the last record"
    cluster.step(Applied("a0/0.0", end))
    assert cluster.answers[call].results == [NamedError("a")]


def test_creation_waits_for_a_leader_that_is_away_and_comes_back(cluster: Harness) -> None:
    cluster.stop("a0/0.0")
    call = cluster.send(create(spec("a", 1)))
    cluster.advance(1_000)
    assert call not in cluster.answers
    cluster.actor(0, 0, generation=1)
    assert call not in cluster.answers
    cluster.step(Applied("a0/0.1", len(cluster.log)))
    assert cluster.answers[call].results == [NamedError("a")]


def test_creation_that_no_leader_takes_up_says_so_at_its_timeout(cluster: Harness) -> None:
    call = cluster.send(create(spec("a", 2), spec("bad name"), timeout_ms=500))
    cluster.step(Applied("a1/0.0", len(cluster.log)))
    cluster.advance(499)
    assert call not in cluster.answers
    cluster.advance(1)
    first, second = cluster.answers[call].results
    assert first.error == "RequestTimeout" and "broker 0 slot 0" in first.message
    assert second.error == "InvalidTopic", "its own error stays"
    assert "a" in cluster.state.topics


@pytest.mark.parametrize("request_", [AlterConfigRequest("a", {"retention.ms": "5"}), DeleteTopicsRequest(["a"])])
def test_deletion_and_settings_do_not_wait_for_the_dead(cluster: Harness, request_: object) -> None:
    cluster.create("a", 4)
    cluster.stop("a0/0.0")
    call = cluster.send(request_)
    for incarnation in ("a0/1.0", "a1/0.0"):
        cluster.step(Applied(incarnation, len(cluster.log)))
    assert call not in cluster.answers
    cluster.stop("a1/1.0")  # dies while it is waited for
    assert cluster.answers[call].results == [NamedError("a")]


def test_a_metadata_request_waits_shortly_for_its_index(cluster: Harness) -> None:
    call = cluster.send(MetadataRequest(None, len(cluster.log) + 1))
    assert call not in cluster.answers
    cluster.call(AllocateProducerIds(0))
    assert cluster.answers[call].index == len(cluster.log)
    call = cluster.send(MetadataRequest(None, len(cluster.log) + 1))
    cluster.advance(METADATA_WAIT_MS)
    assert cluster.answers[call].index == len(cluster.log), "an index of nobody's log is not waited for for ever"


def test_when_the_disk_does_not_answer_the_caller_is_told_that_nothing_is_known(cluster: Harness) -> None:
    cluster.hold = True
    call = cluster.send(AllocateProducerIds(0))
    cluster.advance(60_000)
    assert type(cluster.answers[call]).__name__ == "RequestTimeout"
    cluster.commit()


# --- who is alive ---------------------------------------------------------------------------------------------------


def test_a_broker_without_a_stream_stops_counting_and_counts_again_when_it_is_back(cluster: Harness) -> None:
    cluster.stop("b1.0")
    cluster.advance(BROKER_SESSION_MS - 1)
    assert [b.broker_id for b in cluster.state.alive_brokers()] == [0, 1]
    cluster.advance(1)
    assert [b.broker_id for b in cluster.state.alive_brokers()] == [0]
    cluster.create("a", 2)
    assert {p.leader for _, p in cluster.state.partitions()} == {0}
    cluster.broker(1, actors=False)
    assert [b.broker_id for b in cluster.state.alive_brokers()] == [0, 1]


def test_a_new_coordinator_gives_brokers_time_to_come(cluster: Harness) -> None:
    cluster.advance(10_000)
    cluster.restart()
    cluster.broker(0, actors=False)
    cluster.advance(BROKER_SESSION_MS)
    assert [b.broker_id for b in cluster.state.alive_brokers()] == [0]


def test_a_stream_that_is_opened_before_the_old_one_ends_keeps_the_broker_alive(cluster: Harness) -> None:
    cluster.broker(1, actors=False)  # a second stream of the same process
    cluster.stop("b1.0")
    cluster.advance(2 * BROKER_SESSION_MS)
    assert [b.broker_id for b in cluster.state.alive_brokers()] == [0, 1]


# --- producer ids and recovery --------------------------------------------------------------------------------------


def test_blocks_of_producer_ids_never_overlap_also_across_a_restart(cluster: Harness) -> None:
    blocks = []
    for _ in range(3):
        blocks += [cluster.call(AllocateProducerIds(0)), cluster.call(AllocateProducerIds(1))]
        cluster.restart()
    ids = [n for block in blocks for n in range(block.first, block.first + block.count)]
    assert len(ids) == len(set(ids)) == 6_000


def test_recovery_is_replay(cluster: Harness) -> None:
    cluster.create("a", 4, **{"retention.ms": "5"})
    cluster.create("b", 1)
    cluster.change(DeleteTopicsRequest(["b"]))
    cluster.actor(0, 1, generation=1)
    before, end, epoch = dump(cluster.state), cluster.machine.end, cluster.machine.epoch
    cluster.restart()
    assert dump(cluster.state) == before and cluster.machine.end == end
    assert cluster.machine.epoch == epoch + 1


# --- who leads ------------------------------------------------------------------------------------------------------


def test_an_actor_leads_once_it_has_applied_its_own_registration(cluster: Harness) -> None:
    """`start` waits for this: between watching and leading lies the opening of all logs."""
    cluster.create("t", 2)
    actor = cluster.state.replica_actors[0, 1]
    assert cluster.machine.leads(actor)
    before = len(cluster.log)
    cluster.actor(0, 1, generation=1)
    successor = cluster.state.replica_actors[0, 1]
    cluster.step(Applied(successor.incarnation, before))
    assert not cluster.machine.leads(successor) and not cluster.machine.leads(actor)
    cluster.step(Applied(successor.incarnation, len(cluster.log)))
    assert cluster.machine.leads(successor)
    cluster.stop(successor.incarnation)
    assert not cluster.machine.leads(successor)


def test_after_a_restart_of_the_coordinator_an_actor_leads_when_it_says_so_again(cluster: Harness) -> None:
    cluster.apply_all()
    actor = cluster.state.replica_actors[1, 0]
    assert cluster.machine.leads(actor)
    cluster.restart()
    assert not cluster.machine.leads(actor)
    cluster.step(WatchStarted(actor.incarnation))
    cluster.step(Applied(actor.incarnation, len(cluster.log)))
    assert cluster.machine.leads(actor)
