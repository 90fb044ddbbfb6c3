"""Arrow tables out of opened batches, without copying a value."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rayqueue.client.fetching.chunk import Run
from rayqueue.client.fetching.layout import TopicLayout

_TOPIC_ROWS = 1024


class TableBuilder:
    """Makes tables of runs of batches.

    The columns of the log keep their memory. `topic` is a slice of a column kept from call to call, `partition` and
    `offset` are made: 12 bytes a record.
    """

    def __init__(self) -> None:
        self._topics: dict[str, pa.Array] = {}

    def table(
        self, layout: TopicLayout, partition: int, run: Run, start: int, stop: int, columns: tuple[str, ...] | None
    ) -> pa.Table:
        """Rows [start, stop) of a run as a table."""
        projection = layout.project(columns)
        stored: pa.Table | None = None
        if projection.stored:
            stored = pa.Table.from_batches(run.batches)
            if start or stop - start != stored.num_rows:
                stored = stored.slice(start, stop - start)
        count = stop - start
        arrays = []
        for name in projection.schema.names:
            if name == "offset":
                first = run.base_offset + start
                arrays.append(pa.array(np.arange(first, first + count, dtype=np.int64)))
            elif name == "topic":
                arrays.append(self._topic(layout.topic, count))
            elif name == "partition":
                arrays.append(pa.array(np.full(count, partition, np.int32)))
            else:
                assert stored is not None
                arrays.append(stored.column(name))
        return pa.Table.from_arrays(arrays, schema=projection.schema)

    def _topic(self, topic: str, count: int) -> pa.Array:
        array = self._topics.get(topic)
        if array is None or len(array) < count:
            array = self._topics[topic] = pa.repeat(pa.scalar(topic, pa.string()), max(count, _TOPIC_ROWS))
        return array.slice(0, count)

    def forget(self) -> None:
        """Lets go of the topic columns kept (another assignment has other topics)."""
        self._topics.clear()
