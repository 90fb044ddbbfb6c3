"""Chunks without content, for the pure parts of the consumer: batches of known offsets and sizes."""

from __future__ import annotations

from rayqueue.protocol.messages import PartitionInfo, ReplicaAddress, TopicInfo

TOPIC_ID = b"t" * 16


class FakeChunk:
    """Batches of `batch` records and `batch * 10` bytes from `base_offset` up to `next_offset`."""

    def __init__(self, base_offset: int, next_offset: int, batch: int = 1) -> None:
        self.base_offset = base_offset
        self.next_offset = next_offset
        self.size = (next_offset - base_offset) * 10
        self._batch = batch

    def size_before(self, offset: int) -> int:
        """Bytes of the whole batches before `offset`."""
        done = max(0, min(offset, self.next_offset) - self.base_offset)
        return done // self._batch * self._batch * 10


def topic_info(
    name: str = "t",
    partitions: int = 1,
    topic_id: bytes = TOPIC_ID,
    epoch: int = 0,
    port: int = 1000,
    leader: int = 0,
    followers: tuple[tuple[int, str, int], ...] = (),
) -> TopicInfo:
    """Metadata of a topic all of whose partitions are led by one replica actor. followers: (broker, host, port)."""
    beside = [ReplicaAddress(broker_id, host, at, f"incarnation-{at}") for broker_id, host, at in followers]
    incarnation = f"incarnation-{port}"
    parts = [PartitionInfo(i, leader, epoch, [0], [0], "h", port, incarnation, beside) for i in range(partitions)]
    return TopicInfo(name, topic_id, b"", False, "", {}, parts)
