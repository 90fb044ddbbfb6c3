"""The part of a consumer that is about offsets: where it stands, where it could stand, and moving there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from rayqueue.client.cursor import Cursor
from rayqueue.client.fetching.arguments import timeout_of
from rayqueue.client.fetching.assignment import start_of, topic_partition
from rayqueue.client.fetching.engine import Engine
from rayqueue.client.fetching.guard import Guard
from rayqueue.client.fetching.offset_queries import query_offsets, timestamp_ms
from rayqueue.client.fetching.reader import Reader
from rayqueue.errors import ConfigError, RequestTimeout, UnknownTopicOrPartition
from rayqueue.protocol.messages import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP
from rayqueue.types import OFFSET_BEGINNING, OFFSET_END, TopicPartition, Watermarks

Partition = TopicPartition | tuple[str, int]


class OffsetAndTimestamp(NamedTuple):
    """A record found by time: its offset, and its timestamp in ms."""

    offset: int
    timestamp: int


class Positions:
    """Positions of the partitions that a consumer reads."""

    _guard: Guard
    _engine: Engine
    _reader: Reader
    _timeout_s: float

    # --- moving ------------------------------------------------------------------------------------------------

    def seek(self, partition: Partition, offset: int | None = None) -> None:
        """Goes on at an offset: `seek(tp, offset)` or `seek(TopicPartition(topic, partition, offset))`.

        An offset outside the log is treated as `auto.offset.reset` says when it is read. An error that held the
        partition up is forgotten.

        Raises:
            UnknownTopicOrPartition: the partition is not assigned.
            OffsetOutOfRange: the offset is negative, and not OFFSET_BEGINNING or OFFSET_END.
        """
        with self._guard:
            tp = topic_partition(partition)
            start = start_of(TopicPartition(tp.topic, tp.partition, tp.offset if offset is None else offset))
            if start is None:
                raise ConfigError(f"seek needs an offset: seek({tp!r}, offset)")
            cursor = self._cursor(tp)
            self._reader.let_go()
            self._engine.machine.seek(cursor, start)
            self._fix_latest()

    def seek_to_beginning(self, *partitions: Any) -> None:
        """Goes to the first record of these partitions; of all when none is given."""
        self._seek_all(partitions, OFFSET_BEGINNING)

    def seek_to_end(self, *partitions: Any) -> None:
        """Goes to the end, as of now, of these partitions; of all when none is given."""
        self._seek_all(partitions, OFFSET_END)

    def _seek_all(self, partitions: tuple[Any, ...], offset: int) -> None:
        with self._guard:
            for cursor in self._cursors(partitions):
                self._reader.let_go()
                self._engine.machine.seek(cursor, "earliest" if offset == OFFSET_BEGINNING else "latest")
            self._fix_latest()

    def _fix_latest(self, *also: str) -> None:
        """The end is the end as of this call, not as of the next poll: so it is looked up now. also: other resets
        that may come to that."""
        waiting = [c.key for c in self._engine.machine.cursors.values() if c.reset in ("latest", *also)]
        if waiting:
            self._reader.await_positions(self._timeout_s, waiting)
        else:
            self._engine.perform()

    def pause(self, *partitions: Any) -> None:
        """Hands out nothing of these partitions until `resume`; of all when none is given. Nothing is lost."""
        with self._guard:
            for cursor in self._cursors(partitions):
                self._reader.let_go()
                self._engine.machine.pause(cursor)
            self._engine.perform()

    def resume(self, *partitions: Any) -> None:
        """Goes on with paused partitions; with all when none is given."""
        with self._guard:
            for cursor in self._cursors(partitions):
                self._engine.machine.resume(cursor)
            self._engine.perform()

    def paused(self) -> list[TopicPartition]:
        """The partitions that are paused, in order."""
        with self._guard:
            return [TopicPartition(*c.key) for _, c in sorted(self._engine.machine.cursors.items()) if c.paused]

    # --- asking ------------------------------------------------------------------------------------------------

    def position(self, partition: Partition, timeout: float | None = None) -> int:
        """The offset of the next record to be handed out.

        Args:
            timeout: seconds to wait for it, if it has yet to be looked up; None: `request.timeout.ms`.

        Raises:
            UnknownTopicOrPartition: the partition is not assigned.
            RequestTimeout: it could not be looked up in time.
            OffsetOutOfRange: there is none, and auto.offset.reset is none.
        """
        with self._guard:
            cursor = self._cursor(topic_partition(partition))
            if cursor.position is None:
                wait = timeout_of(timeout)
                self._reader.await_positions(self._timeout_s if wait is None else wait, [cursor.key])
            if cursor.position is not None:
                return cursor.position
            error = cursor.error or self._engine.machine.fatal
            if error is not None:
                raise type(error)(*error.args)
            raise RequestTimeout(f"the position in {cursor.topic}-{cursor.partition} is not known yet: try again")

    def get_watermark_offsets(self, partition: Partition, timeout: float | None = None) -> Watermarks:
        """(low, high): the first offset there is, and the one after the last. No assignment is needed.

        Args:
            timeout: seconds; None: `request.timeout.ms`.

        Raises:
            UnknownTopicOrPartition: there is no such topic or partition.
        """
        with self._guard:
            topic, number = topic_partition(partition)
            questions = [(topic, number, EARLIEST_TIMESTAMP), (topic, number, LATEST_TIMESTAMP)]
            low, high = query_offsets(self._engine.client, questions, timeout_of(timeout))
            return Watermarks(low.offset, high.offset)

    def offsets_for_times(
        self, times: Mapping[Partition, int | datetime] | Iterable[TopicPartition], timeout: float | None = None
    ) -> Any:
        """The first record at or after a time, in each partition.

        Args:
            times: {partition: time}, or TopicPartitions with the time as their offset. A time is ms since the epoch
                or a datetime (a naive one is local time).
            timeout: seconds; None: `request.timeout.ms`.

        Returns:
            For a dict: {TopicPartition: OffsetAndTimestamp, or None where no record is that new}. For a list: as many
            TopicPartitions with the offset found (OFFSET_END where no record is that new), ready for `seek`.
        """
        with self._guard:
            if isinstance(times, Mapping):
                asked = [(topic_partition(p), timestamp_ms(when)) for p, when in times.items()]
            else:
                asked = [(topic_partition(p), timestamp_ms(topic_partition(p).offset)) for p in times]
            questions = [(tp.topic, tp.partition, when) for tp, when in asked]
            answers = query_offsets(self._engine.client, questions, timeout_of(timeout))
            found = [OffsetAndTimestamp(a.offset, a.timestamp) if a.offset >= 0 else None for a in answers]
            places = [TopicPartition(tp.topic, tp.partition) for tp, _ in asked]
            if isinstance(times, Mapping):
                return dict(zip(places, found, strict=True))
            for place, one in zip(places, found, strict=True):
                place.offset = OFFSET_END if one is None else one.offset
            return places

    def lag(self) -> dict[TopicPartition, int]:
        """Records between the position and the end, by partition. It asks the leaders."""
        with self._guard:
            keys = sorted(self._engine.machine.cursors)
            ends = self._ends(keys)
            return {TopicPartition(*key): max(0, ends[key] - self.position(TopicPartition(*key))) for key in keys}

    def _ends(self, keys: list[tuple[str, int]]) -> dict[tuple[str, int], int]:
        answers = query_offsets(self._engine.client, [(*key, LATEST_TIMESTAMP) for key in keys], None) if keys else []
        return {key: answer.offset for key, answer in zip(keys, answers, strict=True)}

    # --- which partitions --------------------------------------------------------------------------------------

    def _cursor(self, tp: TopicPartition) -> Cursor:
        cursor = self._engine.machine.cursors.get((tp.topic, tp.partition))
        if cursor is None:
            raise UnknownTopicOrPartition(
                f"{tp.topic}-{tp.partition} is not read by this consumer: assign it, or subscribe to its topic first"
            )
        return cursor

    def _cursors(self, given: tuple[Any, ...]) -> list[Cursor]:
        """Partitions given one by one, as a list, or not at all (then all)."""
        if not given:
            return list(self._engine.machine.cursors.values())
        flat: list[Any] = []
        for item in given:
            flat += item if isinstance(item, (list, set, frozenset)) else [item]
        return [self._cursor(topic_partition(item)) for item in flat]
