"""Images of the metadata log: a snapshot stands for the log that made it."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from rayqueue.coordination.image import COORDINATOR, GROUPS, MetadataImage, state_records
from rayqueue.coordination.records import Record, decode_record
from rayqueue.errors import ClusterMismatch, CorruptRecord
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    AlterConfigRequest,
    ControlledShutdownRequest,
    CreatePartitionsRequest,
    DeleteTopicsRequest,
    Reassignment,
    ReassignPartitionsRequest,
    RegisterCoordinator,
    RegisterGroupActor,
    TopicsResponse,
)
from tests.unit.coordination.harness import Harness, create, dump, spec


def topics(harness: Harness, request: object) -> None:
    """A command on topics, which waits for replica actors, some of which may be away."""
    call = harness.send(request)
    harness.apply_all()
    harness.advance(60_000 if call in harness.unanswered else 0)
    assert isinstance(harness.answers[call], TopicsResponse)


def lively(seed: int, steps: int = 40) -> Harness:
    """A cluster to which everything has happened that leaves a record."""
    rng = random.Random(seed)
    harness = Harness()
    for broker_id in range(3):
        harness.broker(broker_id)
        harness.call(RegisterCoordinator(broker_id, f"d{broker_id}", f"c{broker_id}", "h", 1, "n"))
    for number in range(1, steps):
        names = list(harness.state.topics)
        match rng.randrange(10):
            case 0:
                harness.broker(rng.randrange(3), generation=number)
            case 1 | 2:
                one = spec(f"t{number}", rng.randint(1, 3), rng.randint(1, 3), {"retention.ms": "77"})
                topics(harness, create(one))
            case 3:
                harness.call(RegisterGroupActor(rng.randrange(3), f"g{number}", "h", 1))
                harness.call(AllocateProducerIds(0))
            case 4 if names:
                topics(harness, DeleteTopicsRequest([rng.choice(names)]))
            case 5 if names:
                value = rng.choice([None, str(number)])
                topics(harness, AlterConfigRequest(rng.choice(names), {"retention.ms": value}))
            case 6 if names:
                topic = harness.state.topics[rng.choice(names)]
                topics(harness, CreatePartitionsRequest(topic.name, len(topic.partitions) + 1))
            case 7 if names:
                topic = harness.state.topics[rng.choice(names)]
                change = Reassignment(topic.topic_id, 0, rng.sample(range(3), rng.randint(1, 3)))
                harness.call(ReassignPartitionsRequest([change], rng.choice([0, 1_000])))
            case 8:
                broker = rng.choice(list(harness.state.brokers.values()))
                harness.send(ControlledShutdownRequest(broker.broker_id, broker.incarnation, 0))
            case _:
                watching = [
                    process
                    for process in [*harness.state.replica_actors.values(), *harness.state.brokers.values()]
                    if harness.machine.is_watching(process.incarnation)
                ]
                if watching:
                    harness.stop(rng.choice(watching).incarnation)
                    harness.advance(rng.choice([50, 500, 10_000]))
    return harness


@pytest.mark.parametrize("seed", range(25))
def test_a_snapshot_gives_the_same_image_and_the_same_future(seed: int) -> None:
    harness = lively(seed)
    whole = MetadataImage(harness.config.topic_defaults)
    for data in harness.log:
        whole.replay(decode_record(data))
    short = MetadataImage.load(whole.dump(), harness.config.topic_defaults)
    assert dump(short.state) == dump(whole.state) == dump(harness.state)
    short.state.validate()
    assert (short.end, short.registered) == (whole.end, whole.registered)
    assert len(whole.records()) <= len(harness.log)
    for broker_id in range(3):
        for generation in range(40):
            process, incarnation = (broker_id, -1), f"b{broker_id}.{generation}"
            assert short.is_superseded(process, incarnation) == whole.is_superseded(process, incarnation)
            process, incarnation = (broker_id, GROUPS), f"g{generation}"
            assert short.is_superseded(process, incarnation) == whole.is_superseded(process, incarnation)
    seen = len(harness.log)
    harness.broker(9)
    for data in harness.log[seen:]:
        short.replay(decode_record(data))
    assert dump(short.state) == dump(harness.state) and short.end == len(harness.log)


def test_a_snapshot_may_need_every_kind_of_record() -> None:
    kinds: set[type] = set()
    for seed in range(25):
        kinds |= {type(record) for record in state_records(lively(seed).state)}
    replaced = {"RemoveTopicRecord"}  # what it does is to leave something out
    assert {kind.__name__ for kind in get_args(Record)} - replaced == {kind.__name__ for kind in kinds}


def test_nothing_is_an_empty_image_and_other_bytes_are_none() -> None:
    assert MetadataImage.load(b"").end == 0
    for data in (b"?", MetadataImage().dump()[:-1], b"\x94\x01\x91\xc4\x01?\x90\x90"):
        with pytest.raises(CorruptRecord, match="snapshot"):
            MetadataImage.load(data)


def test_a_coordinator_that_was_replaced_does_not_take_its_number_back() -> None:
    harness = Harness()
    for incarnation, directory in (("old", "d0"), ("new", "d1")):
        harness.call(RegisterCoordinator(0, directory, incarnation, "h", 1, "n"))
    for state in (harness.machine.image, MetadataImage.load(harness.machine.image.dump())):
        assert state.is_superseded((0, COORDINATOR), "old") and not state.is_superseded((0, COORDINATOR), "new")
    with pytest.raises(ClusterMismatch, match="successor"):
        harness.call(RegisterCoordinator(0, "d0", "old", "h", 1, "n"))
    assert harness.state.coordinators[0].directory_id == "d1"
