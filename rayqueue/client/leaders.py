"""What metadata says: topics, who leads which partition, and when to ask again. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from rayqueue.client.streams import Endpoint
from rayqueue.protocol.messages import TopicInfo


class Leaders:
    """The newest metadata of each topic looked at.

    Attributes:
        topics: by name. image: counts changes of `topics`. index: newest metadata index seen; older images are not
            asked for.
        asks: whose metadata to refresh; None: all.
        due_ms: when to ask again. asking: an answer is on its way.
        failures: failed tries to ask, in a row.
    """

    def __init__(self, max_age_ms: int) -> None:
        self.topics: dict[str, TopicInfo] = {}
        self.image = 0
        self.index = -1
        self.asks: list[str] | None = []
        self.due_ms: int | None = None
        self.asking = False
        self.failures = 0
        self._max_age_ms = max_age_ms
        self._by_partition: dict[tuple[bytes, int], tuple[Endpoint, int]] = {}
        self._followers: dict[tuple[bytes, int], list[Endpoint]] = {}

    def replace(self, topics: Iterable[TopicInfo], asked: list[str] | None, index: int, now_ms: int) -> None:
        """Takes in an answer: what was `asked` for (None: all) and is missing does not exist."""
        self.asking = False
        self.failures = 0
        self.due_ms = now_ms + self._max_age_ms
        self.index = max(self.index, index)
        self.image += 1
        found = {topic.name: topic for topic in topics}
        for name in list(self.topics) if asked is None else asked:
            if name not in found:
                self.topics.pop(name, None)
        self.topics.update(found)
        for topic in found.values():
            for part in topic.partitions:
                key = (topic.topic_id, part.partition)
                self._by_partition.pop(key, None)
                self._followers[key] = [Endpoint(r.host, r.port, r.broker_id, r.incarnation) for r in part.followers]
                if part.leader >= 0 and part.host:
                    endpoint = Endpoint(part.host, part.port, part.leader, part.incarnation)
                    self._by_partition[key] = (endpoint, part.leader_epoch)

    def exists(self, topic: str, topic_id: bytes, partition: int) -> bool:
        """Whether there is this very topic (a name can be used again) with such a partition."""
        info = self.topics.get(topic)
        return info is not None and info.topic_id == topic_id and partition < len(info.partitions)

    def exists_now(self, topic: str, partition: int) -> bool:
        """Whether a topic of this name has such a partition."""
        info = self.topics.get(topic)
        return info is not None and partition < len(info.partitions)

    def of(self, topic_id: bytes, partition: int) -> tuple[Endpoint | None, int]:
        """The leader and its epoch; (None, -1) while unknown."""
        return self._by_partition.get((topic_id, partition), (None, -1))

    def followers(self, topic_id: bytes, partition: int) -> list[Endpoint]:
        """The followers that were in sync."""
        return self._followers.get((topic_id, partition), [])

    def forget(self, topic_id: bytes, partition: int) -> None:
        """The leader known has proved wrong."""
        self._by_partition.pop((topic_id, partition), None)
        self._followers.pop((topic_id, partition), None)

    def ask_by(self, at_ms: int) -> None:
        """Ask again at the latest at `at_ms`."""
        if self.due_ms is None or at_ms < self.due_ms:
            self.due_ms = at_ms

    def next_deadline_ms(self) -> int | None:
        """When to ask, unless an answer is on its way."""
        return None if self.asking else self.due_ms
