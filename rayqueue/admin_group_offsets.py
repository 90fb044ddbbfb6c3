"""Where committed offsets are beside the ends of the logs, and where a reset is to move them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rayqueue.admin_group_descriptions import GroupOffset
from rayqueue.admin_leaders import LogAnswer, ask_leaders, ask_logs, partition_of
from rayqueue.admin_partitions import pair
from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.fetching.offset_queries import query_offsets, timestamp_ms
from rayqueue.errors import ConfigError, OffsetOutOfRange, RayQueueError
from rayqueue.protocol.group_messages import NO_OFFSET, AssignedTopic, CommittedOffset, DescribeGroupResponse
from rayqueue.protocol.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicInfo
from rayqueue.types import TopicPartition

LOGS_TIMEOUT_S = 3.0  # a leader that is away holds up a description no longer; what is missing is then said

Place = tuple[str, int]  # topic, partition


def describe_offsets(client: ClusterClient, told: DescribeGroupResponse, timeout_s: float) -> list[GroupOffset]:
    """Every partition that is committed, held, or in a topic that a member is subscribed to, by topic and number."""
    topics: dict[bytes, TopicInfo] = {topic.topic_id: topic for topic in client.metadata().topics}
    committed = {(topics[c.topic_id].name, c.partition): c for c in told.offsets if c.topic_id in topics}
    owners = {tp: m.member_id for m in told.members for held in (m.revoking, m.holds) for tp in places(held)}
    subscribed = {name for member in told.members for name in member.topics}
    there = {(topic.name, p.partition) for topic in topics.values() for p in topic.partitions}
    of_topics = {tp for tp in there if tp[0] in subscribed}
    wanted = sorted((committed.keys() | owners.keys() | of_topics) & there)
    queries = {TopicPartition(*tp): None for tp in wanted}
    answers, failures = ask_leaders(client, queries, ask_logs, min(LOGS_TIMEOUT_S, timeout_s))
    return [
        _offset(tp, committed.get(tp), owners.get(tp, ""), answers.get(TopicPartition(*tp)), failures) for tp in wanted
    ]


def _offset(
    tp: Place,
    committed: CommittedOffset | None,
    owner: str,
    log: LogAnswer | None,
    failures: Mapping[TopicPartition, RayQueueError],
) -> GroupOffset:
    known = committed if committed is not None and committed.offset != NO_OFFSET else None
    found = log.description if log else None
    return GroupOffset(
        *tp,
        known.offset if known else None,
        found.log_start if found else None,
        found.high_watermark if found else None,
        owner,
        known.metadata if known else "",
        known.commit_ms if known else 0,
        str(failures.get(TopicPartition(*tp), "")),
    )


def places(assigned: list[AssignedTopic]) -> list[Place]:
    """Partitions one by one."""
    return [(one.topic, number) for one in assigned for number in one.partitions]


def reset_targets(
    client: ClusterClient, to: Any, committed: Iterable[Place], topics: Iterable[str] | None, timeout_s: float
) -> dict[Place, int]:
    """The offset that each partition is to have; see `AdminClient.reset_group_offsets`.

    Args:
        committed: the partitions that the group has committed.
    """
    if isinstance(to, Mapping):
        if topics is not None:
            raise ConfigError("reset_group_offsets takes topics= beside a place, not beside {partition: offset}")
        return _checked(client, {pair(key): offset for key, offset in to.items()}, timeout_s)
    when = _when(to)
    wanted = list(committed)
    if topics is not None:
        named = [client.topic(name, refresh=True) for name in dict.fromkeys(topics)]
        wanted = [(topic.name, p.partition) for topic in named for p in topic.partitions]
    answers = query_offsets(client, [(*tp, when) for tp in wanted], timeout_s)
    found = {tp: answer.offset for tp, answer in zip(wanted, answers, strict=True)}
    late = [tp for tp, offset in found.items() if offset < 0]  # nothing is that new: what comes next is
    ends = query_offsets(client, [(*tp, LATEST_TIMESTAMP) for tp in late], timeout_s)
    return found | {tp: end.offset for tp, end in zip(late, ends, strict=True)}


def _checked(client: ClusterClient, wanted: dict[Place, Any], timeout_s: float) -> dict[Place, int]:
    for name, number in wanted:
        partition_of(client.topic(name, refresh=True), number)
    questions = [(*tp, which) for tp in wanted for which in (EARLIEST_TIMESTAMP, LATEST_TIMESTAMP)]
    answers = query_offsets(client, questions, timeout_s)
    for (tp, offset), low, high in zip(wanted.items(), answers[::2], answers[1::2], strict=True):
        if isinstance(offset, bool) or not isinstance(offset, int) or not low.offset <= offset <= high.offset:
            raise OffsetOutOfRange(f"{tp[0]}-{tp[1]} has offsets {low.offset} to {high.offset}, not {offset!r}")
    return wanted


def _when(to: Any) -> int:
    """What to ask the logs for: a time in ms, or one of the two ends."""
    if to == "earliest":
        return EARLIEST_TIMESTAMP
    if to == "latest":
        return LATEST_TIMESTAMP
    if isinstance(to, (datetime, int)) and not isinstance(to, bool):
        return timestamp_ms(to)
    raise ConfigError(
        "offsets are reset to 'earliest', 'latest', a datetime, ms since the epoch, or {partition: offset}, "
        f"not {to!r}"
    )
