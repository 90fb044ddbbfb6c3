"""The partitions that a replica actor leads, brought in line with the metadata log.

`apply` compares what the cluster's state says with what is hosted, and opens, fences, configures or deletes: told the
same state twice, it does nothing the second time. Runs on the actor's loop; `find` may be called from any thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.actors.produce_stream import not_here
from rayqueue.coordination.records import (
    ConfigRecord,
    PartitionRecord,
    Record,
    RemoveTopicRecord,
    ReplicaActorRecord,
    TopicRecord,
)
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.errors import NotLeaderOrFollower, RayQueueError, StorageError
from rayqueue.protocol.schemas import deserialize_schema
from rayqueue.replication import events as ev
from rayqueue.storage.files import OsFiles

log = logging.getLogger(__name__)

Key = tuple[bytes, int]
NAME_MAX = 150


def partition_directory(root: Path, topic: str, topic_id: bytes, partition: int) -> Path:
    """Where a replica lies: the topic's id keeps a topic created again apart from the one deleted.

    The name is there for people; a file name has room for 255 bytes, and a topic's name may have 249.
    """
    return root / "partitions" / f"{topic[:NAME_MAX]}-{topic_id.hex()}-{partition}"


class PartitionTable:
    """What one replica actor hosts.

    Args:
        files: the file system. root: the broker's directory.
        broker_id, slot, incarnation: which actor, and which process of it.
        reply, request_flush: handed to every partition.
    """

    def __init__(
        self,
        files: OsFiles,
        root: Path,
        broker_id: int,
        slot: int,
        incarnation: str,
        reply: Callable[[ev.Reply], None],
        request_flush: Callable[[HostedPartition], None],
    ) -> None:
        self._files = files
        self._root = root
        self._broker_id = broker_id
        self._slot = slot
        self._incarnation = incarnation
        self._reply = reply
        self._request_flush = request_flush
        self._hosted: dict[Key, HostedPartition] = {}
        self._failed: dict[Key, str] = {}  # could not be opened: why
        self._registered = False

    def __iter__(self) -> Iterator[HostedPartition]:
        return iter(list(self._hosted.values()))

    def __len__(self) -> int:
        return len(self._hosted)

    def find(self, topic_id: bytes, partition: int) -> HostedPartition:
        """The partition led here.

        Raises:
            StorageError: its log could not be opened.
            NotLeaderOrFollower: this process has not read yet what it leads.
            UnknownTopicOrPartition: it is not here.
        """
        hosted = self._hosted.get((topic_id, partition))
        if hosted is not None:
            return hosted
        if (topic_id, partition) in self._failed:
            raise StorageError(self._failed[topic_id, partition])
        if not self._registered:
            raise NotLeaderOrFollower("this replica actor has just started and does not lead yet: try again")
        raise not_here(topic_id, partition)

    # --- following the metadata log ----------------------------------------------------------------------------------

    def apply(self, state: ClusterState, records: Iterable[Record], wall_ms: int) -> None:
        """Acts on records that `state` has replayed already."""
        mine = state.replica_actors.get((self._broker_id, self._slot))
        if mine is None or mine.incarnation != self._incarnation:
            # Epochs committed for an earlier process of this actor are not ours to lead under.
            return
        if not self._registered:
            self._registered = True
            for topic, record in state.partitions_on(self._broker_id, self._slot):
                self._host(state, topic, record, wall_ms)
            return
        for record in records:
            self._apply(state, record, wall_ms)

    def _apply(self, state: ClusterState, record: Record, wall_ms: int) -> None:
        match record:
            case PartitionRecord():
                topic = state.topics_by_id.get(record.topic_id)
                if topic is not None:
                    self._host(state, topic, topic.partitions[record.partition], wall_ms)
            case ConfigRecord():
                topic = state.topics_by_id.get(record.topic_id)
                if topic is not None:
                    self._configure(state, topic)
            case RemoveTopicRecord():
                self._remove(record.topic_id)
            case ReplicaActorRecord() | TopicRecord():
                pass  # what follows from them stands in the partition records of the same commit
            case _:
                pass  # brokers, producer ids: not about this actor's partitions

    def _host(self, state: ClusterState, topic: Topic, record: PartitionRecord, wall_ms: int) -> None:
        key = (record.topic_id, record.partition)
        leads = record.leader == self._broker_id and state.slot_of(record, self._broker_id) == self._slot
        hosted = self._hosted.get(key)
        if not leads:
            if hosted is not None:
                del self._hosted[key]
                hosted.resign("NotLeaderOrFollower", "the partition is led by another replica now", delete=False)
        elif hosted is not None:
            if record.leader_epoch > hosted.leader.leader_epoch:
                hosted.lead(record.leader_epoch)
        else:
            self._open(state, topic, record, wall_ms)

    def _open(self, state: ClusterState, topic: Topic, record: PartitionRecord, wall_ms: int) -> None:
        key = (record.topic_id, record.partition)
        directory = partition_directory(self._root, topic.name, topic.topic_id, record.partition)
        try:
            self._hosted[key] = HostedPartition(
                self._files,
                directory,
                topic=topic.name,
                topic_id=topic.topic_id,
                partition=record.partition,
                schema=deserialize_schema(topic.schema),
                config=state.topic_config(topic),
                leader_epoch=record.leader_epoch,
                wall_ms=wall_ms,
                reply=self._reply,
                request_flush=self._request_flush,
            )
            self._failed.pop(key, None)
        except (RayQueueError, OSError) as error:
            # One bad directory does not take the others with it; clients of this partition are told.
            log.error("%s-%d cannot be opened: %s", topic.name, record.partition, error)
            self._failed[key] = f"the log in {directory} cannot be opened: {error}"

    def _configure(self, state: ClusterState, topic: Topic) -> None:
        config = state.topic_config(topic)
        for record in topic.partitions:
            hosted = self._hosted.get((topic.topic_id, record.partition))
            if hosted is not None and hosted.config != config:
                hosted.configure(config)

    def _remove(self, topic_id: bytes) -> None:
        for key in [key for key in self._hosted if key[0] == topic_id]:
            hosted = self._hosted.pop(key)
            hosted.resign("UnknownTopicOrPartition", f"topic {hosted.topic} has been deleted", delete=True)
        for key in [key for key in self._failed if key[0] == topic_id]:
            del self._failed[key]

    def close(self) -> None:
        """Closes every log, cleanly: the next start needs no recovery."""
        for hosted in self._hosted.values():
            hosted.resign("NotLeaderOrFollower", "this replica actor is shutting down", delete=False)
        self._hosted.clear()
        self._registered = False
