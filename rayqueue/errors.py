"""The exception tree. Every error a user can see is a `RayQueueError`; `retriable` says whether trying again can help.

Names follow Kafka's error codes. Errors travel between processes as (class name, message), so they are picklable and
made from one string.
"""

from __future__ import annotations

from typing import ClassVar


class RayQueueError(Exception):
    """Root of all errors.

    Attributes:
        retriable: whether the same call may succeed later without any change.
    """

    retriable: ClassVar[bool] = False


class ConfigError(RayQueueError, ValueError):
    """A setting is unknown, malformed, contradicts another, or is not built yet."""


class ClusterNotRunning(RayQueueError):
    """There is no rayqueue cluster of that name in reach."""


class ClusterMismatch(RayQueueError):
    """An address or a data directory belongs to another cluster, broker or incarnation."""


class ProcessReplaced(ClusterMismatch):
    """Another process is registered in the place of this one, which must end: nothing of it is taken any more."""


class AuthenticationError(RayQueueError):
    """The token is missing or wrong."""


class ProtocolError(RayQueueError):
    """The peer speaks another version, or sent bytes that are not a message of ours."""


class UnknownTopicOrPartition(RayQueueError):
    """No such topic, or the topic has no such partition."""


class TopicAlreadyExists(RayQueueError):
    """A topic of that name exists."""


class InvalidTopic(RayQueueError, ValueError):
    """The name is not `[a-zA-Z0-9._-]{1,249}`, is `.` or `..`, or is reserved."""


class InvalidPartitions(RayQueueError, ValueError):
    """The number of partitions is below one, below the present one, or above the limit."""


class InvalidReplicationFactor(RayQueueError, ValueError):
    """The replication factor is below one or above the number of brokers."""


class InvalidReplicaAssignment(RayQueueError, ValueError):
    """The replicas asked for are no brokers, stand twice, or are not alive."""


class NoReassignmentInProgress(RayQueueError):
    """The partition is not being given other replicas, so there is nothing to cancel."""


class RecordTooLarge(RayQueueError, ValueError):
    """A record is larger than the topic's `max.message.bytes`."""


class InvalidRecord(RayQueueError, ValueError):
    """A record cannot stand in this topic: one without a key, where the topic is compacted."""


class SchemaMismatch(RayQueueError, ValueError):
    """The data does not fit the topic's Arrow schema."""


class SerializationError(RayQueueError, TypeError):
    """A key or value is neither bytes nor str, and no serializer takes it."""


class CorruptRecord(RayQueueError):
    """Bytes do not match their CRC32C, or are not an Arrow record batch."""


class OffsetOutOfRange(RayQueueError):
    """The offset is before the log start or after the log end."""


class NotEnoughReplicas(RayQueueError):
    """Fewer replicas are in sync than `min.insync.replicas` asks."""

    retriable = True


class NotLeaderOrFollower(RayQueueError):
    """The replica asked does not lead the partition (now)."""

    retriable = True


class FencedLeaderEpoch(RayQueueError):
    """The caller's leader epoch is older than the partition's."""

    retriable = True


class UnknownMember(RayQueueError):
    """The consumer group does not know this member."""


class StaleMemberEpoch(RayQueueError):
    """The member epoch is not the group's present one."""


class FencedInstance(RayQueueError):
    """Another member has joined under this `group.instance.id`; the newer one has it."""


class PartitionNotOwned(RayQueueError):
    """A commit for a partition that the member does not hold, or no longer."""


class UnsupportedAssignor(RayQueueError, ValueError):
    """No such assignor of partitions, or another one than the group's other members have."""


class InvalidGroup(RayQueueError, ValueError):
    """The group id is empty, or too long."""


class GroupNotFound(RayQueueError):
    """There is no group of that name: nobody ever joined it or committed in it."""


class GroupNotEmpty(RayQueueError):
    """The group has members, so its offsets can not be changed or removed from outside."""


class GroupCoordinatorNotAvailable(RayQueueError):
    """Nobody serves this group at the moment."""

    retriable = True


class NotGroupCoordinator(RayQueueError):
    """This process does not serve that group, or not yet."""

    retriable = True


class OutOfOrderSequence(RayQueueError):
    """A producer's sequence number does not follow the last one of its partition."""


class ProducerFenced(RayQueueError):
    """A newer epoch of the same producer id has written."""


class DeliveryTimeout(RayQueueError, TimeoutError):
    """No ack came within `delivery.timeout.ms`; whether the records were written is not known."""


class RequestTimeout(RayQueueError, TimeoutError):
    """A request was not answered in time."""

    retriable = True


class BufferFull(RayQueueError):
    """The producer's `buffer.memory` stayed full for `max.block.ms`."""

    retriable = True


class BrokerNotAvailable(RayQueueError):
    """No broker of the cluster can be reached."""

    retriable = True


class NotController(BrokerNotAvailable):
    """The coordinator that was asked is not the active one; nothing was done."""


class StorageError(RayQueueError):
    """The disk failed, is full, or is locked by another process."""


def _tree(root: type[RayQueueError]) -> dict[str, type[RayQueueError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


BY_NAME: dict[str, type[RayQueueError]] = _tree(RayQueueError)


def from_wire(name: str, message: str) -> RayQueueError:
    """The error that a peer sent by class name; one this version does not know becomes a plain `RayQueueError`."""
    kind = BY_NAME.get(name)
    return kind(message) if kind else RayQueueError(f"{name}: {message}")
