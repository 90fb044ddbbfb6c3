"""What a consumer wants to read, pure: topics by name, by pattern, or partitions one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rayqueue.errors import ConfigError
from rayqueue.protocol.messages import TopicInfo


class Subscription:
    """The topics asked for. Every partition of them is read: without a group nobody shares them.

    Attributes:
        names: topics by name. patterns: compiled patterns, matched from the start of the name.
    """

    __slots__ = ("names", "patterns")

    def __init__(self, topics: Iterable[str | re.Pattern[str]]) -> None:
        """Takes names, "^patterns" and compiled patterns.

        Raises:
            ConfigError: a pattern is not a regular expression, or an item is neither.
        """
        names: list[str] = []
        self.patterns: list[re.Pattern[str]] = []
        for topic in topics:
            if isinstance(topic, re.Pattern):
                self.patterns.append(topic)
            elif not isinstance(topic, str) or not topic:
                raise ConfigError(f"a topic is a name or a '^pattern', not {topic!r}")
            elif topic.startswith("^"):
                self.patterns.append(_compiled(topic))
            else:
                names.append(topic)
        self.names = tuple(dict.fromkeys(names))
        if not self.names and not self.patterns:
            raise ConfigError("subscribe to at least one topic; unsubscribe() ends a subscription")

    def asks(self) -> list[str] | None:
        """The topics whose metadata is needed; None: of all."""
        return None if self.patterns else list(self.names)

    def matches(self, name: str) -> bool:
        """Whether a topic is wanted. Internal topics (`__...`) only match a pattern that names the underscores."""
        if name in self.names:
            return True
        return any(p.match(name) for p in self.patterns if not name.startswith("__") or "__" in p.pattern)

    def partitions(self, topics: Iterable[TopicInfo]) -> dict[tuple[str, int], bytes]:
        """Topic ids by (topic, partition) of everything wanted that exists."""
        return {
            (topic.name, partition.partition): topic.topic_id
            for topic in topics
            if self.matches(topic.name)
            for partition in topic.partitions
        }


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is not a regular expression: {error}") from None


def difference(
    now: Mapping[tuple[str, int], bytes], wanted: Mapping[tuple[str, int], bytes]
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """What to add and what to drop to get from one assignment to another, each in order.

    A topic deleted and created again has another id: its partitions are both dropped and added.
    """
    added = sorted(key for key, topic_id in wanted.items() if now.get(key) != topic_id)
    dropped = sorted(key for key, topic_id in now.items() if wanted.get(key) != topic_id)
    return added, dropped
