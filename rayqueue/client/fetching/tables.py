"""Arrow tables out of opened batches, without copying a value."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayqueue.client.fetching.chunk import Run
from rayqueue.client.fetching.layout import TopicLayout
from rayqueue.protocol.sparse import Offsets

_TOPIC_ROWS = 1024


class Stretch:
    """Consecutive records of one partition, out of one run or more: what is made for each table is made once for all.

    Attributes:
        layout, partition: where they stand. first: the first one's offset. end: the offset after the last one.
        batches: they, cut to size. count: how many. offsets: theirs, where they are not consecutive.
    """

    __slots__ = ("batches", "count", "end", "first", "layout", "offsets", "partition")

    def __init__(self, layout: TopicLayout, partition: int, first: int) -> None:
        self.layout, self.partition = layout, partition
        self.first = self.end = first
        self.count = 0
        self.offsets: Offsets | None = None
        self.batches: list[pa.RecordBatch] = []

    def goes_on_with(self, layout: TopicLayout, partition: int, run: Run, first: int) -> bool:
        """Whether the rows of `run` from offset `first` on can be taken in."""
        follows = (self.layout, self.partition, self.end) == (layout, partition, first)
        return follows and self.offsets is None and run.offsets is None

    def add(self, run: Run, start: int, stop: int) -> None:
        """Takes in rows [start, stop) of a run, which follow what is there."""
        self.end = run.after_row(stop)
        self.count += stop - start
        if run.offsets is not None:
            self.offsets = run.offsets[start:stop]
        if start or self.end < run.next_offset:
            self.batches += pa.Table.from_batches(run.batches).slice(start, stop - start).to_batches()
        else:
            self.batches += run.batches


def _array(offsets: Offsets) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(offsets), [None, pa.py_buffer(offsets)])


class TableBuilder:
    """Makes tables of runs of batches.

    The columns of the log keep their memory. `topic` and, while one partition is read, `partition` are slices of
    columns kept from call to call; `offset` is made: 8 bytes a record.
    """

    def __init__(self) -> None:
        self._topics: dict[str, pa.Array] = {}
        self._last_partition = -1, pa.array([], pa.int32())
        self._counted = np.arange(0, dtype=np.int64)

    def table(self, stretch: Stretch, columns: tuple[str, ...] | None) -> pa.Table:
        """A stretch as a table."""
        layout, count = stretch.layout, stretch.count
        projection = layout.project(columns)
        stored = pa.Table.from_batches(stretch.batches) if projection.stored != () else None
        arrays = []
        for name in projection.schema.names:
            if name == "offset":
                arrays.append(
                    self._offsets(stretch.first, count) if stretch.offsets is None else _array(stretch.offsets)
                )
            elif name == "topic":
                arrays.append(self._topic(layout.topic, count))
            elif name == "partition":
                arrays.append(self._partition(stretch.partition, count))
            else:
                assert stored is not None
                arrays.append(stored.column(name))
        return pa.Table.from_arrays(arrays, schema=projection.schema)

    def _offsets(self, first: int, count: int) -> pa.Array:
        # In Arrow's memory, which is kept when it is given back: the system's would have to be zeroed page by page.
        if count > len(self._counted):
            self._counted = np.arange(max(count, _TOPIC_ROWS), dtype=np.int64)
        memory = pa.allocate_buffer(8 * count)
        np.add(self._counted[:count], first, out=np.frombuffer(memory, np.int64))
        return pa.Array.from_buffers(pa.int64(), count, [None, memory])

    def _partition(self, partition: int, count: int) -> pa.Array:
        number, array = self._last_partition
        if number != partition or len(array) < count:
            array = pa.array(np.full(max(count, _TOPIC_ROWS), partition, np.int32))
            self._last_partition = partition, array
        return array.slice(0, count)

    def _topic(self, topic: str, count: int) -> pa.Array:
        array = self._topics.get(topic)
        if array is None or len(array) < count:
            array = self._topics[topic] = pa.repeat(pa.scalar(topic, pa.string()), max(count, _TOPIC_ROWS))
        return array.slice(0, count)

    def forget(self) -> None:
        """Lets go of the topic columns kept (another assignment has other topics)."""
        self._topics.clear()
