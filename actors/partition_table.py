"""The partitions that a replica actor hosts, brought in line with the metadata log.

`apply` compares what the cluster's state says with what is hosted, and opens, fences, configures or deletes: told the
same state twice, it does nothing the second time. `find` may be called from any thread.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from rayqueue.actors.driver import boot_ms, wall_ms
from rayqueue.actors.hands import Hands
from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.actors.leader_link import LeaderProcess
from rayqueue.actors.partition_locks import PartitionInUse, PartitionLocks
from rayqueue.actors.produce_stream import not_here
from rayqueue.config.topic import TopicConfig
from rayqueue.coordination.records import (
    ConfigRecord,
    PartitionRecord,
    Record,
    RemoveTopicRecord,
    ReplicaActorRecord,
    UncleanReplica,
)
from rayqueue.coordination.state import ClusterState, Topic
from rayqueue.coordination.unclean import awaits_logs
from rayqueue.errors import NotLeaderOrFollower, RayQueueError, StorageError
from rayqueue.protocol.schemas import deserialize_schema
from rayqueue.replication import events as ev
from rayqueue.replication.limits import Limits
from rayqueue.storage.compaction.reading import key_columns
from rayqueue.storage.files import OsFiles

log = logging.getLogger(__name__)

Key = tuple[bytes, int]
Inside = Callable[[Callable[[], None]], None]
NAME_MAX = 150
# Opened logs are handed to the loop together: to wait for the loop after each would take longer than to open it. When
# a log takes long to recover, only those opened so shortly before it wait with it.
HAND_OVER_S = 0.01
# How long the process is waited for that has a log open which is ours now: it reads the same metadata, and then closes.
IN_USE_S = 10.0
IN_USE_RETRY_S = 0.05

_DIRECTORY = re.compile(r".+-(?P<topic_id>[0-9a-f]{32})-(?P<number>\d+)(?P<deleted>\.deleted)?")


def partition_directory(root: Path, topic: str, topic_id: bytes, partition: int) -> Path:
    """Where a replica lies: the topic's id keeps a topic created again apart from the one deleted.

    The name is there for people; a file name has room for 255 bytes, and a topic's name may have 249.
    """
    return root / "partitions" / f"{topic[:NAME_MAX]}-{topic_id.hex()}-{partition}"


class _Facts:
    """What all partitions of a topic share, looked up once for all of them."""

    def __init__(self, state: ClusterState, topic: Topic) -> None:
        self.topic = topic
        self.schema: pa.Schema = deserialize_schema(topic.schema)
        self.config = state.topic_config(topic)


class _Told(NamedTuple):
    """What the metadata log says of a partition, for its machine and for its hands."""

    assignment: ev.Assignment
    leader_process: LeaderProcess | None


def assignment_of(state: ClusterState, record: PartitionRecord, me: int) -> ev.Assignment:
    """What the metadata log says of a partition to its replica on broker `me`."""
    incarnations: dict[int, str] = {}
    for broker_id in record.replicas:
        slot = state.slot_of(record, broker_id)
        actor = None if slot is None else state.replica_actors.get((broker_id, slot))
        if actor is not None:
            incarnations[broker_id] = actor.incarnation
    return ev.Assignment(
        record.leader,
        record.leader_epoch,
        record.partition_epoch,
        record.replicas,
        record.isr,
        incarnations,
        report=awaits_logs(record) and UncleanReplica(me) in record.unclean,
    )


def _told(state: ClusterState, record: PartitionRecord, me: int) -> _Told:
    leader = state.leader_actor(record)
    return _Told(
        assignment_of(state, record, me),
        None if leader is None else LeaderProcess(leader.host, leader.port, leader.broker_id, leader.incarnation),
    )


class PartitionTable:
    """What one replica actor hosts.

    Args:
        files: the file system. root: the broker's directory.
        broker_id, slot, incarnation: which actor, and which process of it.
        max_batch_bytes: largest batch taken, decompressed.
        hands, limits: handed to every partition.

    Attributes:
        closed_cleanly: `close` has flushed all logs that there are here.
    """

    def __init__(
        self,
        files: OsFiles,
        root: Path,
        broker_id: int,
        slot: int,
        incarnation: str,
        max_batch_bytes: int,
        hands: Hands,
        limits: Limits,
    ) -> None:
        self._files = files
        self._root = root
        self._broker_id = broker_id
        self._slot = slot
        self._incarnation = incarnation
        self._max_batch_bytes = max_batch_bytes
        self._hands = hands
        self._limits = limits
        self._hosted: dict[Key, HostedPartition] = {}
        self._failed: dict[Key, str] = {}  # could not be opened: why
        self._opened: dict[Key, tuple[HostedPartition, _Told]] = {}  # by the follower's thread, not in the loop yet
        self._opened_s = 0.0  # when the first of them was
        self._registered = False
        self._state: ClusterState | None = None
        self._locks = PartitionLocks(root)
        self._closing = threading.Event()
        self.closed_cleanly = False
        self._closed = False  # set inside the loop, for good: what is opened after it is closed at once

    def __iter__(self) -> Iterator[HostedPartition]:
        return iter(list(self._hosted.values()))

    def __len__(self) -> int:
        return len(self._hosted)

    def find(self, topic_id: bytes, partition: int) -> HostedPartition:
        """The partition hosted here.

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

    # --- following the metadata log ---------------------------------------------------------------------------------

    def apply(self, state: ClusterState, records: Iterable[Record], wall_ms: int, inside: Inside) -> None:
        """Brings what is hosted in line with `state`, which has replayed `records` already.

        Runs on the follower's thread. Logs are opened there, because a recovery may take long and those that are open
        must be served meanwhile; what touches a hosted partition runs inside the loop.

        Args:
            inside: runs a function inside the actor's loop and waits for it.
        """
        mine = state.replica_actors.get((self._broker_id, self._slot))
        if mine is None or mine.incarnation != self._incarnation:
            # Epochs committed for an earlier process of this actor are not ours to lead under.
            return
        facts: dict[bytes, _Facts] = {}
        # Those that are open first: what is ours no more another process waits for, perhaps one that we wait for.
        keys = sorted(self._touched(state, records), key=lambda key: key not in self._hosted)
        try:
            in_use = self._settle_all(state, keys, facts, wall_ms, inside)
            give_up = time.monotonic() + IN_USE_S
            while in_use and time.monotonic() < give_up and not self._closing.wait(IN_USE_RETRY_S):
                in_use = self._settle_all(state, in_use, facts, wall_ms, inside)
        finally:
            # Whatever happened: a log that is open here and hosted nowhere would be opened a second time.
            if self._opened:
                inside(self._host)
        if not self._registered and not self._closed:
            self._registered = True
            if self._slot == 0:
                self._sweep(state)

    def _settle_all(
        self, state: ClusterState, keys: list[Key], facts: dict[bytes, _Facts], wall_ms: int, inside: Inside
    ) -> list[Key]:
        """Settles partitions; those that another process still has open are given back."""
        in_use = []
        for key in keys:
            if self._closed:
                break
            if self._opened and time.monotonic() - self._opened_s > HAND_OVER_S:
                inside(self._host)
            try:
                self._settle(state, key, facts, wall_ms, inside)
            except (RayQueueError, OSError) as error:
                if isinstance(error, PartitionInUse):
                    in_use.append(key)
                # One bad directory does not take the others with it; clients of this partition are told.
                if key not in self._failed:
                    log.error("partition %d of topic %s does not fit the metadata: %s", key[1], key[0].hex(), error)
                self._failed[key] = f"the log of partition {key[1]} cannot be opened: {error}"
        return in_use

    def _touched(self, state: ClusterState, records: Iterable[Record]) -> list[Key]:
        """The partitions to look at: of the first state all, later those that records speak of; and what failed."""
        if not self._registered or state is not self._state:  # another one: the log has begun anew, with a snapshot
            self._state = state
            return list(dict.fromkeys([*self._here(state), *self._hosted, *self._failed]))
        keys: dict[Key, None] = dict.fromkeys(self._failed)
        topics: set[bytes] = set()
        for record in records:
            if isinstance(record, PartitionRecord):
                keys[record.topic_id, record.partition] = None
            elif isinstance(record, (ConfigRecord, RemoveTopicRecord)):
                topics.add(record.topic_id)
            elif isinstance(record, ReplicaActorRecord):  # a follower's process, or a leader's, is another one now
                there = state.partitions_on(record.broker_id, record.slot)
                keys.update(dict.fromkeys(key for t, p in there if (key := (t.topic_id, p.partition)) in self._hosted))
        if topics:
            keys.update(dict.fromkeys(key for key in [*self._here(state), *self._hosted] if key[0] in topics))
        return list(keys)

    def _here(self, state: ClusterState) -> list[Key]:
        return [(t.topic_id, p.partition) for t, p in state.partitions_on(self._broker_id, self._slot)]

    def _settle(self, state: ClusterState, key: Key, facts: dict[bytes, _Facts], wall_ms: int, inside: Inside) -> None:
        """One partition: opened, dropped, fenced or configured, or left as it is."""
        topic = state.topics_by_id.get(key[0])
        hosted = self._hosted.get(key)
        if topic is None:
            self._failed.pop(key, None)
            if hosted is not None:
                inside(lambda: self._drop(key, "UnknownTopicOrPartition", "the topic has been deleted", delete=True))
            return
        record = topic.partitions[key[1]]
        if self._broker_id not in record.replicas:
            self._leave(topic, key, inside)
            return
        if state.slot_of(record, self._broker_id) != self._slot:
            self._failed.pop(key, None)
            if hosted is not None:
                inside(lambda: self._drop(key, "NotLeaderOrFollower", "other replicas hold it now", delete=False))
            return
        known = facts.get(key[0])
        if known is None:
            known = facts[key[0]] = _Facts(state, topic)
        told = _told(state, record, self._broker_id)
        if hosted is None:
            opened = self._open(known, record, wall_ms)
            if not self._opened:
                self._opened_s = time.monotonic()
            self._opened[key] = opened, told
        else:
            inside(lambda: self._update(hosted, told, known.config, wall_ms))

    def _leave(self, topic: Topic, key: Key, inside: Inside) -> None:
        """The partition has been given to other brokers: its log here goes, as the metadata log has committed that
        those it was given to hold it."""
        if key in self._hosted:
            inside(lambda: self._drop(key, "NotLeaderOrFollower", "other replicas hold it now", delete=True))
        elif self._failed.pop(key, None) is not None:
            self._remove(partition_directory(self._root, topic.name, topic.topic_id, key[1]), key)

    def _open(self, facts: _Facts, record: PartitionRecord, wall_ms: int) -> HostedPartition:
        topic = facts.topic
        key = topic.topic_id, record.partition
        self._locks.take(key)
        try:
            return self._opened_log(facts, record, wall_ms)
        except BaseException:
            self._locks.release(key)
            raise

    def _opened_log(self, facts: _Facts, record: PartitionRecord, wall_ms: int) -> HostedPartition:
        topic = facts.topic
        return HostedPartition(
            self._files,
            partition_directory(self._root, topic.name, topic.topic_id, record.partition),
            topic=topic.name,
            topic_id=topic.topic_id,
            partition=record.partition,
            schema=facts.schema,
            columns=key_columns(facts.schema, topic.typed, topic.key_column),
            config=facts.config,
            broker_id=self._broker_id,
            alone=len(record.replicas) == 1,
            limits=self._limits,
            wall_ms=wall_ms,
            max_batch_bytes=self._max_batch_bytes,
            hands=self._hands,
        )

    def _host(self) -> None:
        """What was opened is served from now on. Inside the loop, while the follower's thread waits."""
        opened, self._opened = self._opened, {}
        for key, (partition, told) in opened.items():
            if self._closed:
                partition.log.close()
                self._locks.release(key)
            else:
                self._hosted[key] = partition
                self._failed.pop(key, None)
                partition.assign(told.assignment, told.leader_process, boot_ms(), wall_ms())

    @staticmethod
    def _update(hosted: HostedPartition, told: _Told, config: TopicConfig, wall_ms: int) -> None:
        # First the settings: under a raised min.insync.replicas a smaller ISR must not move the high watermark any
        # more, for whoever left it counts as eligible to lead.
        if hosted.config != config:
            hosted.configure(config)
        hosted.assign(told.assignment, told.leader_process, boot_ms(), wall_ms)

    def _drop(self, key: Key, error: str, message: str, delete: bool) -> None:
        hosted = self._hosted.pop(key, None)
        if hosted is not None:  # else the actor has been closed meanwhile
            try:
                hosted.resign(error, message, delete)
            finally:
                self._locks.release(key)

    def unlock(self) -> None:
        """Gives back the locks on logs, once nothing is opened any more."""
        self._locks.close()

    def _sweep(self, state: ClusterState) -> None:
        """Removes what belongs to topics that were deleted, and to partitions that were given to other brokers, while
        no process of this broker was there to do it."""
        parent = self._root / "partitions"
        for path in sorted(parent.iterdir()) if parent.is_dir() else []:
            found = _DIRECTORY.fullmatch(path.name)
            if found is None:
                continue
            key = bytes.fromhex(found["topic_id"]), int(found["number"])
            topic = state.topics_by_id.get(key[0])
            if topic is not None and not found["deleted"] and not self._given_away(topic, key[1]):
                continue
            try:
                if topic is None or found["deleted"]:
                    self._files.remove_tree(str(path))
                    log.info("%s is removed, its topic was deleted", path)
                else:
                    self._remove(path, key)
            except (StorageError, OSError) as error:
                log.warning("%s cannot be removed: %s", path, error)

    def _given_away(self, topic: Topic, number: int) -> bool:
        return number < len(topic.partitions) and self._broker_id not in topic.partitions[number].replicas

    def _remove(self, path: Path, key: Key) -> None:
        """Removes a log that is open nowhere on this broker, because other brokers hold the partition now.

        Raises:
            PartitionInUse: another process has it open: it may have read already that it is to be here again.
        """
        self._locks.take(key)
        try:
            self._files.remove_tree(str(path))
            log.info("%s is removed: other brokers hold it now", path)
        finally:
            self._locks.release(key)

    def close(self) -> None:
        """Closes every log, cleanly: the next start needs no recovery. Inside the loop."""
        self._closed = True
        self._closing.set()
        self.closed_cleanly = self._registered and not self._failed
        for key, hosted in self._hosted.items():
            try:
                hosted.resign("NotLeaderOrFollower", "this replica actor is shutting down", delete=False)
            except (RayQueueError, OSError) as error:
                log.error("%r is not closed cleanly: %s", hosted, error)
                self.closed_cleanly = False
            self.closed_cleanly &= hosted.log.sound
            self._locks.release(key)
        self._hosted.clear()
        self._registered = False
