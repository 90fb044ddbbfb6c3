"""Questions to a replica actor about its logs: offsets by time, what lies on disk, and deleting records."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rayqueue.actors.hosted_partition import HostedPartition
from rayqueue.errors import FencedLeaderEpoch, NotLeaderOrFollower, OffsetOutOfRange, RayQueueError
from rayqueue.protocol.messages import (
    EARLIEST_TIMESTAMP,
    LATEST_TIMESTAMP,
    DeleteRecordsRequest,
    ListOffsetsRequest,
    ListOffsetsResponse,
    LogDescription,
    OffsetAnswer,
    OffsetQuery,
    TruncateQuery,
)

Find = Callable[[bytes, int], HostedPartition]


def describe_log(hosted: HostedPartition) -> LogDescription:
    """What of it lies on disk."""
    log, epoch = hosted.log, hosted.replica.leader_epoch
    size = log.size_bytes, log.segment_count
    ends = log.log_start_offset, log.log_end_offset, hosted.high_watermark
    return LogDescription(hosted.topic_id, hosted.partition, str(hosted.directory), *size, *ends, epoch)


def list_offsets(find: Find, request: ListOffsetsRequest) -> ListOffsetsResponse:
    """Offsets by timestamp, each query answered or refused by itself."""
    return ListOffsetsResponse([_answer(partial(_offset, find, query)) for query in request.queries])


def _answer(ask: Callable[[], OffsetAnswer]) -> OffsetAnswer:
    try:
        return ask()
    except RayQueueError as error:
        return OffsetAnswer(-1, -1, type(error).__name__, str(error))


def _led(find: Find, query: OffsetQuery | TruncateQuery) -> HostedPartition:
    """The partition, led here. Only its leader knows where it ends, and that only once all that it took over is
    committed (KIP-207): else the end could go back."""
    hosted = find(query.topic_id, query.partition)
    if not hosted.replica.committed_in_epoch:
        raise NotLeaderOrFollower(f"{hosted!r} does not lead, or does not know yet what is committed: try again")
    return hosted


def _offset(find: Find, query: OffsetQuery) -> OffsetAnswer:
    hosted = _led(find, query)
    if query.leader_epoch > hosted.replica.leader_epoch:
        raise FencedLeaderEpoch(f"the client has seen epoch {query.leader_epoch}, a newer leader's")
    if query.timestamp == EARLIEST_TIMESTAMP:
        return OffsetAnswer(hosted.log.log_start_offset, -1)
    if query.timestamp == LATEST_TIMESTAMP:
        return OffsetAnswer(hosted.high_watermark, -1)
    found = hosted.log.offset_for_timestamp(query.timestamp, hosted.high_watermark)
    return OffsetAnswer(-1, -1) if found is None else OffsetAnswer(*found)


def delete_records(find: Find, request: DeleteRecordsRequest, now_ms: int, wall_ms: int) -> ListOffsetsResponse:
    """Moves log starts up; answers with the new ones. Runs on the actor's loop."""
    return ListOffsetsResponse([_answer(partial(_delete, find, query, now_ms, wall_ms)) for query in request.queries])


def _delete(find: Find, query: TruncateQuery, now_ms: int, wall_ms: int) -> OffsetAnswer:
    hosted = _led(find, query)
    offset = hosted.high_watermark if query.offset == -1 else query.offset
    if not 0 <= offset <= hosted.high_watermark:
        raise OffsetOutOfRange(
            f"records can be deleted before offsets 0 to {hosted.high_watermark}, not {offset}; -1 deletes all"
        )
    return OffsetAnswer(hosted.delete_before(offset, now_ms, wall_ms), -1)
