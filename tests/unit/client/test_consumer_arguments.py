"""The spellings a consumer takes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from rayqueue.client.deserializers import deserializer
from rayqueue.client.fetching.arguments import column_names, positive, split_arguments, timeout_of
from rayqueue.client.fetching.assignment import start_of, topic_partition
from rayqueue.client.fetching.offset_queries import timestamp_ms
from rayqueue.errors import ConfigError, OffsetOutOfRange
from rayqueue.types import NO_OFFSET, OFFSET_BEGINNING, OFFSET_END, TopicPartition


def test_topics_and_settings_in_any_order() -> None:
    topics, settings = split_arguments(("a", ["b", "^c"], {"linger": 1}), {"group_id": None, "x": 2})
    assert topics == ["a", "b", "^c"] and settings == {"linger": 1, "x": 2}
    with pytest.raises(ConfigError, match="twice"):
        split_arguments(({"client.id": "a"},), {"client_id": "b"})
    with pytest.raises(ConfigError, match="names"):
        split_arguments((5,), {})


def test_timeouts() -> None:
    assert [timeout_of(t) for t in (None, -1, 0, 1.5)] == [None, None, 0.0, 1.5]
    for bad in ("1", True, float("nan")):
        with pytest.raises(ConfigError):
            timeout_of(bad)  # type: ignore[arg-type]


def test_where_a_partition_starts() -> None:
    starts = [start_of(TopicPartition("t", 0, o)) for o in (None, NO_OFFSET, 0, 7, OFFSET_BEGINNING, OFFSET_END)]
    assert starts == [None, None, 0, 7, "earliest", "latest"]
    with pytest.raises(OffsetOutOfRange):
        start_of(TopicPartition("t", 0, -5))
    for bad in ("7", 7.0, True):
        with pytest.raises(ConfigError):
            start_of(TopicPartition("t", 0, bad))  # type: ignore[arg-type]


def test_partitions_may_be_pairs() -> None:
    assert topic_partition(("t", 3)) == TopicPartition("t", 3)
    assert topic_partition(("t", 3, 9)).offset == 9
    for bad in ("t", ("t",), (3, "t"), None):
        with pytest.raises(ConfigError):
            topic_partition(bad)


def test_times() -> None:
    assert timestamp_ms(datetime(2026, 1, 1, tzinfo=timezone.utc)) == 1_767_225_600_000
    assert timestamp_ms(5) == 5
    for bad in (-1, 1.5, "2026-01-01", True):
        with pytest.raises(ConfigError):
            timestamp_ms(bad)


@pytest.mark.parametrize("bad", [[], ["a", "a"], [1]])
def test_columns(bad: Any) -> None:
    assert column_names(None) is None and column_names("a") == ("a",) and column_names(["b", "a"]) == ("b", "a")
    with pytest.raises(ConfigError):
        column_names(bad)


def test_positive_numbers() -> None:
    assert positive(3, "n") == 3
    for bad in (0, -1, 1.0, True, "1"):
        with pytest.raises(ConfigError, match="n is a whole number"):
            positive(bad, "n")


def test_deserializers_by_name_or_function() -> None:
    made = deserializer("json", "value")
    assert made is not None and made(b'{"a": [1]}') == {"a": [1]}
    assert deserializer(None, "key") is None and deserializer(len, "key") is len
    with pytest.raises(ConfigError, match=r"key\.deserializer"):
        deserializer("avro", "key")
