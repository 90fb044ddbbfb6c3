"""What is closed and not yet encoded. Tables wait here while their topic's batches could not be sent anyway.

So memory that was just sent can take the next batch, and tables that have piled up are sent together: a batch costs
much the same whatever its size. What cannot be sent together is better encoded while there is time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rayqueue.client.accumulator import Chunk
from rayqueue.client.io.producer_batches import TablePiece
from rayqueue.client.io.topics import ProducerTopic

Work = Chunk | TablePiece

# Pieces that are looked at for more of the same partition: a bound for topics of many.
_LOOK_AHEAD = 256


class Backlog:
    """Chunks and pieces of tables, each topic's in order. One thread at a time."""

    def __init__(self) -> None:
        self._topics: dict[ProducerTopic, deque[Work]] = {}

    def __bool__(self) -> bool:
        return bool(self._topics)

    def extend(self, work: Iterable[Work]) -> None:
        """Takes more, behind what is there."""
        for item in work:
            queue = self._topics.get(item.topic)
            if queue is None:
                queue = self._topics[item.topic] = deque()
            queue.append(item)

    def take(self, roomy: Callable[[Any], bool], limit: int) -> list[Work]:
        """What is to be encoded next: one item, or pieces of tables for one partition that can be one batch.

        Args:
            roomy: whether batches of this topic could be sent now.
            limit: bytes of a batch.

        Returns:
            Empty when there is nothing, or no room for what is first.
        """
        for topic, queue in self._topics.items():
            if _partition(queue[0]) is None or roomy(topic):
                run = _run(queue, limit)
                del self._topics[topic]
                if queue:
                    self._topics[topic] = queue  # behind the others: each topic gets its turn
                return run
        return []

    def drain(self) -> Iterator[Work]:
        """Everything, without looking for room."""
        while self._topics:
            topic = next(iter(self._topics))
            yield from self._topics.pop(topic)


def _run(queue: deque[Work], limit: int) -> list[Work]:
    first = queue.popleft()
    run: list[Work] = [first]
    partition = _partition(first)
    if partition is None or not isinstance(first, TablePiece):
        return run
    size = first.reserved
    passed: list[Work] = []
    while queue and len(passed) < _LOOK_AHEAD:
        piece = queue[0]
        its = _partition(piece)
        if its is None or not isinstance(piece, TablePiece):
            break  # it may have rows for our partition
        if its == partition:
            size += piece.reserved
            if size > limit:
                break
            run.append(queue.popleft())
        else:
            passed.append(queue.popleft())
    queue.extendleft(reversed(passed))
    return run


def _partition(item: Work) -> int | None:
    """Where all rows of a piece go, if they stay together."""
    if not isinstance(item, TablePiece) or item.batch is None:
        return None
    topic = item.topic
    if topic.partitions == 1:
        return 0
    if item.whole is None:
        return None
    if not item.whole:
        item.whole.append(topic.partitioner.whole(topic.partitions, topic.available))
    return item.whole[0]
