"""Questions to the leaders of partitions: grouped by replica actor, asked again when a leader has moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.data_channel import DataChannel
from rayqueue.client.fetching.assignment import topic_partition
from rayqueue.errors import (
    ConfigError,
    NotLeaderOrFollower,
    OffsetOutOfRange,
    RayQueueError,
    UnknownTopicOrPartition,
    from_wire,
)
from rayqueue.protocol.messages import (
    DeleteRecordsRequest,
    DescribeLogsResponse,
    Empty,
    ListOffsetsResponse,
    LogDescription,
    OffsetAnswer,
    PartitionInfo,
    TopicInfo,
    TruncateQuery,
)
from rayqueue.types import OFFSET_END, TopicPartition

Q = TypeVar("Q")
A = TypeVar("A", bound="Answer")


class Answer(Protocol):
    """Anything that says by name what went wrong; error == "" is success."""

    @property
    def error(self) -> str: ...

    @property
    def message(self) -> str: ...


class Question(NamedTuple):
    """A query for the leader of one partition."""

    where: TopicPartition
    topic_id: bytes
    query: Any


Ask = Callable[[DataChannel, Sequence[Question], float], Sequence[A]]


def ask_leaders(
    client: ClusterClient, queries: dict[TopicPartition, Any], ask: Ask[A], timeout_s: float
) -> tuple[dict[TopicPartition, A], dict[TopicPartition, RayQueueError]]:
    """Asks the leader of each partition; retriable failures are tried again, with fresh metadata, until the timeout.

    Args:
        client: where metadata and channels come from.
        queries: what to ask, by partition.
        ask: asks one replica actor some questions (channel, questions, timeout in s), answers in their order.
        timeout_s: for all of it.

    Returns:
        The answers, and the last error of each partition that has none. Together they have every partition.

    Raises:
        UnknownTopicOrPartition: a topic or partition does not exist.
    """
    deadline = time.monotonic() + timeout_s
    answers: dict[TopicPartition, A] = {}
    failures: dict[TopicPartition, RayQueueError] = {}
    pending = dict(queries)
    attempt = 0
    while pending:
        groups = _by_leader(client, pending, failures, refresh=attempt > 0)
        for (host, port), questions in groups.items():
            left = max(0.05, deadline - time.monotonic())
            try:
                replies = ask(client.data_channel(host, port), questions, left)
            except RayQueueError as error:
                failures.update({question.where: error for question in questions})
                continue
            for question, reply in zip(questions, replies, strict=True):
                if reply.error:
                    failures[question.where] = from_wire(reply.error, reply.message)
                else:
                    answers[question.where] = reply
                    failures.pop(question.where, None)
        pending = {tp: q for tp, q in pending.items() if tp in failures and failures[tp].retriable}
        wait = client.backoff(attempt)
        if not pending or time.monotonic() + wait >= deadline:
            break
        time.sleep(wait)
        attempt += 1
    return answers, failures


def _by_leader(
    client: ClusterClient,
    queries: dict[TopicPartition, Any],
    failures: dict[TopicPartition, RayQueueError],
    *,
    refresh: bool,
) -> dict[tuple[str, int], list[Question]]:
    """Questions by the address of the replica actor that leads; leaderless partitions are noted as failures."""
    topics = {name: client.topic(name, refresh=refresh) for name in {tp.topic for tp in queries}}
    groups: dict[tuple[str, int], list[Question]] = {}
    for tp, query in queries.items():
        info = partition_of(topics[tp.topic], tp.partition)
        if info.leader < 0 or not info.port:
            failures[tp] = NotLeaderOrFollower(
                f"partition {tp.partition} of topic {tp.topic!r} has no leader now; "
                f"`rayqueue status` says which brokers are down"
            )
            continue
        groups.setdefault((info.host, info.port), []).append(Question(tp, topics[tp.topic].topic_id, query))
    return groups


def partition_of(topic: TopicInfo, partition: int) -> PartitionInfo:
    """The partition of that number.

    Raises:
        UnknownTopicOrPartition: the topic has no such partition.
    """
    for info in topic.partitions:
        if info.partition == partition:
            return info
    raise UnknownTopicOrPartition(
        f"topic {topic.name!r} has partitions 0 to {len(topic.partitions) - 1}, not {partition!r}; "
        f"add partitions with: rayqueue topic add-partitions {topic.name} N"
    )


def first_failure(failures: dict[TopicPartition, RayQueueError], of: Iterable[TopicPartition]) -> RayQueueError | None:
    """The first of these partitions' errors, naming the partition and how many others failed."""
    failed = [tp for tp in of if tp in failures]
    if not failed:
        return None
    error = failures[failed[0]]
    others = f" (and {len(failed) - 1} other partitions failed)" if len(failed) > 1 else ""
    return type(error)(f"{failed[0].topic}-{failed[0].partition}: {error}{others}")


class LogAnswer(msgspec.Struct):
    """A leader's word on one log, with the error fields that `ask_leaders` looks at."""

    description: LogDescription | None
    error: str = ""
    message: str = ""


def ask_logs(channel: DataChannel, questions: Sequence[Question], timeout_s: float) -> list[LogAnswer]:
    """Where logs begin and end, how large they are, where they lie."""
    logs = channel.call("describe_logs", Empty(), DescribeLogsResponse, timeout_s).logs
    found = {(entry.topic_id, entry.partition): entry for entry in logs}
    answers = []
    for question in questions:
        entry = found.get((question.topic_id, question.where.partition))
        if entry is None:
            where = f"{question.where.topic}-{question.where.partition}"
            answers.append(LogAnswer(None, "NotLeaderOrFollower", f"{channel.where} does not hold {where} (yet)"))
        else:
            answers.append(LogAnswer(entry))
    return answers


def ask_delete(channel: DataChannel, questions: Sequence[Question], timeout_s: float) -> list[OffsetAnswer]:
    """Deletes the records before each question's offset."""
    queries = [TruncateQuery(q.topic_id, q.where.partition, q.query) for q in questions]
    return channel.call("delete_records", DeleteRecordsRequest(queries), ListOffsetsResponse, timeout_s).answers


def truncations(offsets: Any) -> dict[TopicPartition, int]:
    """What `delete_records` was given, as {partition: offset}. Partitions may be tuples, as in `Consumer.assign`.

    Raises:
        ConfigError: it is neither a dict nor a list of partitions.
        OffsetOutOfRange: an offset is missing, or none that a log can have.
    """
    given: list[tuple[TopicPartition, Any]]
    if isinstance(offsets, Mapping):
        given = [(topic_partition(key), offset) for key, offset in offsets.items()]
    elif isinstance(offsets, Iterable) and not isinstance(offsets, (str, bytes, TopicPartition)):
        given = [(tp, tp.offset) for tp in map(topic_partition, offsets)]
    else:
        raise ConfigError(
            f"delete_records takes {{TopicPartition(topic, partition): offset}} or a list of TopicPartitions with "
            f"their offsets, not {offsets!r}"
        )
    wanted: dict[TopicPartition, int] = {}
    for tp, offset in given:
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < OFFSET_END:
            raise OffsetOutOfRange(
                f"{tp.topic}-{tp.partition}: delete_records takes an offset of at least 0, or -1 for all records, "
                f"not {offset!r}"
            )
        wanted[tp] = offset
    return wanted
