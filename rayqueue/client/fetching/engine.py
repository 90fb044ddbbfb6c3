"""The loop around the fetch machine: drain the inbox, plan, perform. It runs in the user's thread, inside `poll`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple, NoReturn
from weakref import WeakMethod

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.cursor import Cursor
from rayqueue.client.fetch_state import Limits
from rayqueue.client.fetcher import Fetcher
from rayqueue.client.fetching.ahead import Ahead
from rayqueue.client.fetching.background import ask_metadata, ask_offsets
from rayqueue.client.fetching.chunk import LogChunk, Run
from rayqueue.client.fetching.fetch_stream import FetchStream
from rayqueue.client.fetching.inbox import (
    Closed,
    CommittedCame,
    Event,
    GroupNews,
    Inbox,
    MetadataCame,
    OffsetsCame,
    Opened,
    Received,
)
from rayqueue.client.fetching.layout import TopicLayout
from rayqueue.client.fetching.nearness import may_be_here
from rayqueue.client.io.interrupts import Uninterrupted
from rayqueue.client.readiness import Readiness
from rayqueue.client.streams import Close, DropMapping, Effect, Endpoint, LookUp, Open, Refresh, Send, Warn
from rayqueue.config.clients import ConsumerConfig
from rayqueue.errors import CorruptRecord, OffsetOutOfRange, RayQueueError, StorageError
from rayqueue.protocol.group_messages import CommittedOffset
from rayqueue.protocol.messages import TopicInfo
from rayqueue.storage.index import unpack_entries
from rayqueue.storage.mapped import MappedLog

log = logging.getLogger("rayqueue.consumer")

_CLOSE_TIMEOUT_S = 2.0
# Who reads so much at once reads on at full speed.
_BULK_BYTES = 1 << 20


def assert_never(value: NoReturn) -> NoReturn:
    """Closes a match: the type checker proves that nothing gets here (`typing.assert_never` needs Python 3.11)."""
    raise AssertionError(f"not handled: {value!r}")


class Turn(NamedTuple):
    """Opened records of the partition whose turn it is: rows [start, stop) of the run."""

    cursor: Cursor
    layout: TopicLayout
    run: Run
    start: int
    stop: int


class Engine:
    """Owns streams, mappings and the machine of one consumer. One thread at a time."""

    def __init__(self, client: ClusterClient, config: ConsumerConfig) -> None:
        self.client = client
        self.config = config
        self.inbox = Inbox()
        self.machine = Fetcher(
            Limits(
                stream_bytes=config.fetch_max_bytes,
                partition_bytes=config.max_partition_fetch_bytes,
                reset=config.auto_offset_reset,
                mapped=config.mapped_reads,
                metadata_max_age_ms=config.metadata_max_age_ms,
                backoff_ms=lambda attempt: int(client.backoff(attempt) * 1000),
                near=may_be_here,
                wall_ms=lambda: time.time_ns() // 1_000_000,
            )
        )
        # Weak: whoever keeps the engine must not keep the callbacks of a consumer that is forgotten.
        self.on_committed: WeakMethod[Callable[[int, list[CommittedOffset] | RayQueueError], None]] | None = None
        self.readiness = Readiness(config.fetch_min_bytes, config.fetch_max_wait_ms)
        self._cluster_id = ""
        self._timeout_s = config.request_timeout_ms / 1000
        self._streams: dict[Endpoint, FetchStream] = {}
        self._mapped: dict[Cursor, MappedLog] = {}
        self._layouts: dict[bytes, TopicLayout] = {}
        self._ahead = Ahead()

    # --- the loop ----------------------------------------------------------------------------------------------

    @staticmethod
    def now_ms() -> int:
        """The clock of all deadlines."""
        return time.monotonic_ns() // 1_000_000

    def turn(self) -> None:
        """Takes in what has happened, and does what follows from it. Never waits."""
        with Uninterrupted():  # an event that was taken and not handled, an effect not performed would be lost
            for event in self.inbox.take():
                self._handle(event)
            self._perform_all()

    def perform(self) -> None:
        """Does what the machine's state asks for."""
        with Uninterrupted():
            self._perform_all()

    def _perform_all(self) -> None:
        for effect in self.machine.plan(self.now_ms()):
            self._perform(effect)

    def wait(self, timeout_s: float | None) -> None:
        """Sleeps until something happens, a deadline of the machine's comes, or time is out."""
        deadlines = [d for d in (self.machine.next_deadline_ms(), self.readiness.deadline_ms()) if d is not None]
        if deadlines:
            soonest = max(0.001, (min(deadlines) - self.now_ms()) / 1000)
            timeout_s = soonest if timeout_s is None else min(timeout_s, soonest)
        self.inbox.wait(timeout_s)

    def _handle(self, event: Event) -> None:
        now = self.now_ms()
        match event:
            case Received(stream, endpoint, response, rows):
                if self._streams.get(endpoint) is stream:
                    for index, part in enumerate(response.parts):
                        data = rows[index] if index < len(rows) and part.entries else None
                        if data is None:
                            self.machine.on_part(endpoint, part, None, 0, now)
                        else:
                            chunk = LogChunk(data, unpack_entries(part.entries), self.config.check_crcs)
                            self.machine.on_part(endpoint, part, chunk, data.size, now)
            case Opened(stream, endpoint, local):
                if self._streams.get(endpoint) is stream:
                    self.inbox.watch(stream)
                    self.machine.on_opened(endpoint, local)
            case Closed(stream, endpoint, error):
                if self._streams.get(endpoint) is stream:
                    del self._streams[endpoint]
                    self.machine.on_closed(endpoint, error, now)
            case MetadataCame(asked, answer):
                if isinstance(answer, RayQueueError):
                    self.machine.on_refresh_failed(answer, now)
                else:
                    self._cluster_id = answer.cluster_id
                    self.learn(answer.topics, asked, answer.index)
            case OffsetsCame(number, answer):
                self.machine.on_offsets(number, answer if isinstance(answer, RayQueueError) else answer.answers)
            case CommittedCame(number, committed):
                handler = None if self.on_committed is None else self.on_committed()
                if handler is not None:
                    handler(number, committed)
            case GroupNews():
                pass  # that somebody looks is all
            case _:
                assert_never(event)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(endpoint, request):
                self._streams[endpoint].send(request)
            case Open(endpoint):
                self._streams[endpoint] = FetchStream(
                    self.client, endpoint, self.inbox, self.config.client_id, self._cluster_id, self._timeout_s
                )
            case Close(endpoint):
                self._streams.pop(endpoint).close()
            case Refresh():
                ask_metadata(self.client, effect, self.inbox)
            case LookUp():
                ask_offsets(self.client, effect, self.inbox, self._timeout_s)
            case DropMapping(cursor):
                mapped = self._mapped.pop(cursor, None)
                if mapped is not None:
                    mapped.close()
            case Warn(text):
                log.warning("%s", text)
            case _:
                assert_never(effect)

    # --- topics ------------------------------------------------------------------------------------------------

    def learn(self, topics: list[TopicInfo], asked: list[str] | None, index: int) -> None:
        """Takes in metadata of the topics `asked` for (None: all)."""
        self.machine.on_metadata(topics, asked, index, self.now_ms())

    def layout(self, cursor: Cursor) -> TopicLayout:
        """The columns of a cursor's topic."""
        found = self._layouts.get(cursor.topic_id)
        if found is None:
            info = self.machine.leaders.topics.get(cursor.topic)
            if info is None or info.topic_id != cursor.topic_id:
                info = self.client.topic(cursor.topic)
            found = self._layouts[cursor.topic_id] = TopicLayout(info)
        return found

    # --- records -----------------------------------------------------------------------------------------------

    def anything(self) -> bool:
        """Whether records may be handed out now (`fetch.min.bytes`)."""
        if self.readiness.passive:
            return bool(self.machine.ring)
        ready = self.machine.ring.ready()
        for cursor in ready:
            while cursor.mapping is not None and cursor.fetch_offset < cursor.high_watermark:
                if cursor.buffered >= self.readiness.min_bytes or self._read_mapped(cursor) is None:
                    break
        buffered = sum(cursor.buffered for cursor in ready)
        return self.readiness.check(buffered, self.now_ms())

    def next_turn(
        self,
        stored: Callable[[TopicLayout], tuple[str, ...] | None],
        max_bytes: int,
        accept: Callable[[Cursor], bool] | None = None,
        records: bool = False,
    ) -> Turn | None:
        """Opens the next records, of the partition whose turn it is.

        Args:
            stored: the columns to read of a topic; None for all.
            max_bytes: of messages to open, one batch at least.
            accept: leaves partitions out.
            records: records will do, no Arrow is needed.

        Raises:
            CorruptRecord: the next batch of the partition is damaged; it stays so until the user seeks.
        """
        ring = self.machine.ring
        while (cursor := ring.next(accept)) is not None:
            chunk = cursor.buffer[0] if cursor.buffer else self._read_mapped(cursor)
            if chunk is None or cursor.position is None:
                continue
            assert isinstance(chunk, LogChunk)
            layout = self.layout(cursor)
            try:
                plain = records and layout.plain
                run = chunk.run_at(cursor.position, layout.log_schema, stored(layout), max_bytes, plain)
            except CorruptRecord as error:
                after = chunk.after_batch(cursor.position)
                told = CorruptRecord(
                    f"{cursor.topic}-{cursor.partition} cannot be read at offset {cursor.position}: {error}. To go on "
                    f"after it: consumer.seek(TopicPartition({cursor.topic!r}, {cursor.partition}, {after}))"
                )
                self.machine.fail(cursor, told)
                raise told from error
            if isinstance(run, int):
                self.machine.advance(cursor, run)
                continue
            if not records:
                self._read_ahead(cursor, chunk)
            end = run.next_offset if cursor.limit is None else min(run.next_offset, cursor.limit)
            start, stop = run.row_at(cursor.position), run.row_at(end)
            if start == stop:  # what was there has been compacted away
                self.machine.advance(cursor, end)
                continue
            return Turn(cursor, layout, run, start, stop)
        return None

    def _read_ahead(self, cursor: Cursor, chunk: LogChunk) -> None:
        """While the caller works on a large mapped chunk, a thread checks the next one.

        Not for messages: their readers hold the interpreter's lock nearly all the time, so there is nothing to gain.
        """
        if chunk.size < _BULK_BYTES or len(cursor.buffer) > 1 or cursor.fetch_offset >= cursor.high_watermark:
            return
        following = self._read_mapped(cursor)
        if following is not None:
            self._ahead.check(following)

    def _read_mapped(self, cursor: Cursor) -> LogChunk | None:
        """Reads on in the mapped segments, up to the high watermark told; what fails goes on over the stream."""
        if cursor.mapping is None:
            return None
        mapped = self._mapped.get(cursor)
        if mapped is None:
            mapped = self._mapped[cursor] = MappedLog(*cursor.mapping)
        try:
            found = mapped.read(cursor.fetch_offset, self.config.max_partition_fetch_bytes, cursor.high_watermark)
        except OffsetOutOfRange:
            self.machine.out_of_range(cursor)
            return None
        except (StorageError, CorruptRecord) as error:
            log.warning("reading on over the stream: %s", error)
            self.machine.unmap(cursor)
            return None
        if found is None:
            self.machine.unmap(cursor)
            return None
        chunk = LogChunk(found.data, found.entries, self.config.check_crcs, entries_checked=True)
        cursor.accept(chunk, charged=False)
        return chunk

    def close(self) -> None:
        """Ends streams, mappings and connections."""
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.close()
        for stream in streams:
            stream.join(_CLOSE_TIMEOUT_S)
        mapped, self._mapped = list(self._mapped.values()), {}
        for one in mapped:
            one.close()
        self._ahead.close()
        self.inbox.close()
        self.client.close()
