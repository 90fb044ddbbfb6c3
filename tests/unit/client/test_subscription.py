"""What a subscription wants, and what changes when metadata does."""

from __future__ import annotations

import re

import pytest

from rayqueue.client.subscription import Subscription, difference
from rayqueue.errors import ConfigError
from tests.unit.client.fake_chunks import topic_info


def test_names_ask_for_their_own_metadata_only() -> None:
    wanted = Subscription(["b", "a", "b"])
    assert wanted.asks() == ["b", "a"]
    topics = [topic_info("a", 2), topic_info("c", 1)]
    assert sorted(wanted.partitions(topics)) == [("a", 0), ("a", 1)]


def test_pattern_matches_from_the_start_and_leaves_internal_topics_out() -> None:
    wanted = Subscription(["^flights"])
    assert wanted.asks() is None
    assert wanted.matches("flights-2013") and not wanted.matches("my-flights")
    assert not Subscription(["^.*"]).matches("__consumer_offsets")
    assert Subscription(["^__consumer"]).matches("__consumer_offsets")
    assert Subscription([re.compile("a|b"), "c"]).matches("b")


@pytest.mark.parametrize("bad", [[], ["^("], [7], [""], [None]])
def test_bad_topics_are_refused(bad: list[object]) -> None:
    with pytest.raises(ConfigError):
        Subscription(bad)  # type: ignore[arg-type]


def test_difference_adds_and_drops_and_sees_a_topic_made_again() -> None:
    now = {("a", 0): b"1", ("b", 0): b"2", ("c", 0): b"3"}
    wanted = {("a", 0): b"1", ("a", 1): b"1", ("b", 0): b"9"}
    assert difference(now, wanted) == ([("a", 1), ("b", 0)], [("b", 0), ("c", 0)])
    assert difference(wanted, wanted) == ([], [])
