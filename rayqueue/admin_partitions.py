"""What an AdminClient asks about partitions as such: who leads them, and which brokers hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rayqueue.admin_descriptions import PartitionReassignment
from rayqueue.admin_leaders import partition_of
from rayqueue.errors import ConfigError, InvalidReplicaAssignment, RayQueueError, from_wire
from rayqueue.protocol.messages import (
    ElectLeadersRequest,
    ElectLeadersResponse,
    MetadataResponse,
    NamedError,
    Reassignment,
    ReassignPartitionsRequest,
    TopicInfo,
)
from rayqueue.types import TopicPartition

Find = Callable[[str], TopicInfo]
# Partitions as people name them.
Named = TopicPartition | tuple[str, int]
UNLIMITED = 0


def pair(partition: Any) -> tuple[str, int]:
    """(topic, number) of a partition however it is named.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(partition, TopicPartition):
        return partition.topic, partition.partition
    if isinstance(partition, tuple) and len(partition) == 2 and isinstance(partition[0], str):
        return partition
    raise ConfigError(f"a partition is a TopicPartition or (topic, number), not {partition!r}")


class Election(NamedTuple):
    """Leaders to be elected. named: the partitions that were named, None: all."""

    request: ElectLeadersRequest
    named: list[tuple[str, int]] | None

    @classmethod
    def of(cls, partitions: Iterable[Named] | None, unclean: bool, find: Find) -> Election:
        """Raises UnknownTopicOrPartition; ConfigError: unclean, but no partition is named."""
        if partitions is None:
            if unclean:
                raise ConfigError(
                    "elect_leaders(unclean=True) gives up acked records, so name the partitions: elect_leaders([...])"
                )
            return cls(ElectLeadersRequest(None), None)
        named = [pair(one) for one in partitions]
        topics = {name: find(name) for name in dict.fromkeys(name for name, _ in named)}
        keys = [(topics[name].topic_id, partition_of(topics[name], number).partition) for name, number in named]
        return cls(ElectLeadersRequest(keys, unclean=unclean), named)

    def check(self, response: ElectLeadersResponse) -> None:
        """Raises what went wrong with the first partition that was named and has not the leader asked for."""
        if self.named is None or not any(response.errors):
            return
        error, (topic, number) = next((e, tp) for e, tp in zip(response.errors, self.named, strict=True) if e)
        if self.request.unclean:
            raise from_wire(error, f"no replica of {topic}-{number} is there: start one of its brokers")
        raise from_wire(error, f"the preferred leader of {topic}-{number} is not in sync, or away: wait for it")


def reassign_request(
    assignment: Mapping[Any, Sequence[int] | None], throttle: int | None, find: Find
) -> ReassignPartitionsRequest:
    """What the coordinator is asked.

    Raises:
        UnknownTopicOrPartition. InvalidReplicaAssignment, ConfigError: it is not written as it should be.
    """
    if not isinstance(assignment, Mapping):
        raise ConfigError(f"an assignment is {{(topic, partition): [broker ids] or None}}, not {assignment!r}")
    if throttle is not None and (isinstance(throttle, bool) or not isinstance(throttle, int) or throttle < 1):
        raise ConfigError(f"throttle is a whole number of bytes a second, or None for no limit, not {throttle!r}")
    wanted = {pair(key): replicas for key, replicas in assignment.items()}
    topics = {name: find(name) for name, _ in wanted}
    changes = []
    for (name, number), replicas in wanted.items():
        partition = partition_of(topics[name], number).partition
        brokers = None if replicas is None else _broker_ids(replicas, name, number)
        changes.append(Reassignment(topics[name].topic_id, partition, brokers))
    return ReassignPartitionsRequest(changes, throttle or UNLIMITED)


def _broker_ids(replicas: Any, topic: str, number: int) -> list[int]:
    ids = list(replicas) if isinstance(replicas, (list, tuple)) else []
    if not ids or not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        raise InvalidReplicaAssignment(
            f"the replicas of {topic}-{number} are a list of broker ids, the preferred leader first, or None to "
            f"cancel, not {replicas!r}"
        )
    return ids


def reassignments(metadata: MetadataResponse) -> dict[TopicPartition, PartitionReassignment]:
    """Those that are under way."""
    return {
        TopicPartition(topic.name, info.partition): PartitionReassignment(
            list(info.replicas), list(info.adding), list(info.removing), list(info.isr)
        )
        for topic in metadata.topics
        for info in topic.partitions
        if info.adding or info.removing
    }


def first_error(failed: list[NamedError], done: list[str], verb: str) -> RayQueueError:
    """The first failure; with more than one name, the message says what became of each."""
    first = failed[0]
    if len(failed) + len(done) == 1:
        return from_wire(first.error, first.message)
    failures = "; ".join(f"{result.name!r}: {result.message}" for result in failed)
    succeeded = f"{verb} {', '.join(map(repr, done))}" if done else f"{verb} none"
    return from_wire(first.error, f"{succeeded}; not {verb} {failures}")
