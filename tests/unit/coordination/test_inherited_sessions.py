"""A coordinator that becomes active knows, from beats that it heard as a standby, since when processes are silent."""

from __future__ import annotations

import pytest

from rayqueue.coordination.events import WatchStarted
from rayqueue.coordination.sessions import ACTOR_SESSION_MS, INHERITED_GRACE_MS
from tests.unit.coordination.test_leadership import Cluster


def expired_after(silent_ms: int) -> int:
    """How long after the takeover the leader counts as gone when it had been silent so long, ms."""
    cluster = Cluster()
    first, second, third = cluster.partition.replicas
    cluster.restart({cluster.incarnation(first): silent_ms})
    for other in (second, third):
        cluster.step(WatchStarted(cluster.incarnation(other)))
    waited = 0
    while cluster.now[0] == first:
        cluster.advance(1)
        waited += 1
        assert waited <= ACTOR_SESSION_MS
    assert cluster.now[0] == second
    return waited


@pytest.mark.parametrize(
    ("silent_ms", "after_ms"),
    [
        (0, ACTOR_SESSION_MS),
        (400, ACTOR_SESSION_MS - 400),
        (ACTOR_SESSION_MS - INHERITED_GRACE_MS, INHERITED_GRACE_MS),
        (ACTOR_SESSION_MS, INHERITED_GRACE_MS),
        (50_000, INHERITED_GRACE_MS),
    ],
)
def test_a_silent_process_has_a_session_from_when_it_was_last_heard(silent_ms: int, after_ms: int) -> None:
    assert expired_after(silent_ms) == after_ms


def test_one_that_comes_in_time_stays_and_strangers_do_not_matter() -> None:
    cluster = Cluster()
    before = cluster.now
    first, second, third = cluster.partition.replicas
    cluster.restart({cluster.incarnation(first): 10_000, "another": 10_000})
    cluster.advance(INHERITED_GRACE_MS - 1)
    for one in (first, second, third):
        cluster.step(WatchStarted(cluster.incarnation(one)))
    cluster.advance(10 * ACTOR_SESSION_MS)
    assert cluster.now == before


def test_one_that_was_not_heard_of_has_the_whole_time() -> None:
    cluster = Cluster()
    before = cluster.now
    _, second, third = cluster.partition.replicas
    cluster.restart({cluster.incarnation(second): 0})
    for other in (second, third):
        cluster.step(WatchStarted(cluster.incarnation(other)))
    cluster.advance(ACTOR_SESSION_MS - 1)
    assert cluster.now == before
    cluster.advance(1)
    assert cluster.now[0] == second
