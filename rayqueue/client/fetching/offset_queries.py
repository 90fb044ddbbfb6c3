"""Offsets asked for by the user, at once: watermarks, and offsets by time."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.errors import ConfigError, NotLeaderOrFollower, RayQueueError, UnknownTopicOrPartition, from_wire
from rayqueue.protocol.messages import ListOffsetsRequest, ListOffsetsResponse, OffsetAnswer, OffsetQuery

Question = tuple[str, int, int]  # topic, partition, timestamp in ms (or EARLIEST_TIMESTAMP, LATEST_TIMESTAMP)


def query_offsets(client: ClusterClient, questions: list[Question], timeout_s: float | None) -> list[OffsetAnswer]:
    """Answers from the partitions' leaders, in the order of the questions.

    Raises:
        UnknownTopicOrPartition: there is no such topic or partition.
        RayQueueError: a leader could not be reached within the timeout (seconds; None: `request.timeout.ms`).
    """
    for topic, partition, _ in questions:
        client.partition(topic, partition)
    return client.retry(lambda left: _ask(client, questions, left), timeout_s)


def _ask(client: ClusterClient, questions: list[Question], timeout_s: float) -> list[OffsetAnswer]:
    by_leader: dict[tuple[str, int], list[int]] = {}
    for index, (topic, partition, _) in enumerate(questions):
        info = client.partition(topic, partition)
        if info.leader < 0 or not info.host:
            client.topic(topic, refresh=True)
            raise NotLeaderOrFollower(f"{topic}-{partition} has no leader now; is its broker up (`rayqueue status`)?")
        by_leader.setdefault((info.host, info.port), []).append(index)
    answers: dict[int, OffsetAnswer] = {}
    for (host, port), indices in by_leader.items():
        try:
            _ask_one(client, host, port, [(i, questions[i]) for i in indices], answers, timeout_s)
        except RayQueueError:
            for topic in {questions[i][0] for i in indices}:
                client.topic(topic, refresh=True)
            raise
    return [answers[index] for index in range(len(questions))]


def _ask_one(
    client: ClusterClient,
    host: str,
    port: int,
    numbered: list[tuple[int, Question]],
    answers: dict[int, OffsetAnswer],
    timeout_s: float,
) -> None:
    queries = [OffsetQuery(client.topic(topic).topic_id, part, when) for _, (topic, part, when) in numbered]
    reply = client.data_channel(host, port).call(
        "list_offsets", ListOffsetsRequest(queries), ListOffsetsResponse, timeout_s
    )
    for (index, (topic, part, _)), answer in zip(numbered, reply.answers, strict=True):
        if answer.error:
            error = from_wire(answer.error, answer.message)
            if isinstance(error, UnknownTopicOrPartition):
                # Metadata has the partition, so it has moved or is about to come up there: worth another try.
                raise NotLeaderOrFollower(f"{topic}-{part} is not at {host}:{port}: {error}")
            raise error
        answers[index] = answer


def timestamp_ms(when: Any) -> int:
    """A time given as ms since the epoch or as a datetime (a naive one is local time).

    Raises:
        ConfigError: it is neither, or before the epoch.
    """
    if isinstance(when, datetime):
        when = round(when.astimezone(timezone.utc).timestamp() * 1000)
    if isinstance(when, bool) or not isinstance(when, int) or when < 0:
        raise ConfigError(f"a time is a datetime or whole ms since the epoch, not {when!r}")
    return when
