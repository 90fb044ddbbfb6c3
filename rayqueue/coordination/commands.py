"""What a command's handler gives back, and what handlers may know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rayqueue.config.broker import BrokerConfig
from rayqueue.coordination.records import Record
from rayqueue.coordination.topic_rules import Schemas
from rayqueue.protocol.messages import (
    AllocateProducerIds,
    AlterConfigRequest,
    AlterPartitionsRequest,
    ControlledShutdownRequest,
    CreateGroupsTopic,
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    ElectLeadersRequest,
    ReassignPartitionsRequest,
    RegisterBroker,
    RegisterCoordinator,
    RegisterGroupActor,
    RegisterReplicaActor,
    ReportLogEnds,
    ResignLeaderRequest,
)

# What the coordinator can be asked to do, by the name of the action.
COMMANDS: dict[str, type] = {
    "create_topics": CreateTopicsRequest,
    "create_groups_topic": CreateGroupsTopic,
    "delete_topics": DeleteTopicsRequest,
    "create_partitions": CreatePartitionsRequest,
    "alter_config": AlterConfigRequest,
    "alter_partitions": AlterPartitionsRequest,
    "resign_leader": ResignLeaderRequest,
    "elect_leaders": ElectLeadersRequest,
    "reassign_partitions": ReassignPartitionsRequest,
    "controlled_shutdown": ControlledShutdownRequest,
    "register_coordinator": RegisterCoordinator,
    "register_broker": RegisterBroker,
    "register_replica_actor": RegisterReplicaActor,
    "register_group_actor": RegisterGroupActor,
    "report_log_ends": ReportLogEnds,
    "allocate_producer_ids": AllocateProducerIds,
}

# The replica actors by (broker id, slot) that a response waits for.
Actors = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Result:
    """A handler changes nothing: the machine replays the records, and answers once they are committed.

    Attributes:
        records: to append as one batch; none when nothing changes.
        response: to send; its `index`, where it has one, is filled in by the machine.
        waits_for: the response also waits until these replica actors have applied the records.
        dead_too: True: also for those whose process is away at present (it will be back), until the timeout.
        timeout_ms: how long to wait for them.
    """

    records: list[Record]
    response: Any
    waits_for: Actors = field(default_factory=frozenset)
    dead_too: bool = False
    timeout_ms: int = 30_000


@dataclass(frozen=True)
class Surroundings:
    """What handlers need besides the state.

    Attributes:
        config: of the brokers. schemas: knowledge of Arrow schemas. new_topic_id: makes the 16 bytes of a random UUID.
    """

    config: BrokerConfig
    schemas: Schemas
    new_topic_id: Callable[[], bytes]
