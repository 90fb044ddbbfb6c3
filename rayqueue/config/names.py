"""What a topic may be called."""

from __future__ import annotations

import re

from rayqueue.errors import InvalidTopic

MAX_NAME_LENGTH = 249
# Offsets and members of the consumer groups. Partition k is the log of shard k of the groups.
GROUPS_TOPIC = "__consumer_offsets"
# The cluster's own: made, and written to, by nobody else.
INTERNAL_TOPICS = frozenset({GROUPS_TOPIC, "__transaction_state"})

_NAME = re.compile(rf"[a-zA-Z0-9._-]{{1,{MAX_NAME_LENGTH}}}")


def check_topic_name(name: str) -> None:
    """Raises InvalidTopic unless the name can be a topic's (Kafka's rule)."""
    if not isinstance(name, str):
        raise InvalidTopic(f"a topic's name is a str, not {type(name).__name__}")
    if name in (".", ".."):
        raise InvalidTopic(f"a topic cannot be called {name!r}: choose another name")
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise InvalidTopic(
            f"the topic name {shown!r} is not 1 to {MAX_NAME_LENGTH} characters from a-z, A-Z, 0-9, '.', '_', '-': "
            "choose another name"
        )
