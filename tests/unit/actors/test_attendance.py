"""Processes that say to every coordinator that they live, and coordinators that say which of them is active."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rayqueue.actors import attending
from rayqueue.actors.attendance import Attendance
from rayqueue.actors.attending import Attending
from rayqueue.actors.coordinator_addresses import Address, CoordinatorAddresses
from rayqueue.actors.data_server import DataServer
from rayqueue.actors.exchange import Exchange
from rayqueue.actors.metadata_follower import MetadataFollower
from rayqueue.coordination.sessions import ACTOR_SESSION_MS
from rayqueue.errors import NotController
from rayqueue.protocol import codec
from rayqueue.protocol.messages import PROTOCOL_VERSION, Identity, MetadataBatch
from tests.integration.waiting import eventually

WAIT_S = 20.0
HOST = "127.0.0.1"


class Coordinator:
    """What processes see of one: whom it hears, and, while it is active, an empty log.

    Attributes:
        silent: it says nothing on the streams of its log, as one that hangs.
    """

    def __init__(self) -> None:
        self.attendance = Attendance()
        self.epoch = -1
        self.silent = False
        self.streams = 0
        self._end = threading.Event()
        identity = Identity(PROTOCOL_VERSION, "c1", "coordinator", -1, "i", 0)
        exchanges = {"attend": self.attendance.serve, "watch": self._watch}
        self.server = DataServer(HOST, 0, identity=identity, exchanges=exchanges)
        self.address = HOST, self.server.port

    def _watch(self, exchange: Exchange) -> None:
        if self.epoch < 0:
            raise NotController("not active")
        self.streams += 1
        while not self.silent and exchange.receive() is not None:
            exchange.send(codec.encode(MetadataBatch(0, 0, self.epoch, [])))
        self._end.wait(WAIT_S)

    def become_active(self, epoch: int) -> None:
        self.epoch = epoch
        self.attendance.announce(epoch)

    def close(self) -> None:
        self._end.set()
        self.server.shutdown()


@pytest.fixture
def two() -> Iterator[tuple[Coordinator, Coordinator]]:
    made = Coordinator(), Coordinator()
    yield made
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attending, "INTERVAL_S", 0.02)


def silent(coordinator: Coordinator, watcher: str = "w") -> int:
    return coordinator.attendance.silent_ms().get(watcher, 10**9)


def test_all_hear_a_process_from_its_start_until_it_ends(two: tuple[Coordinator, Coordinator]) -> None:
    addresses = CoordinatorAddresses([two[0].address])
    told: list[tuple[Address, int]] = []
    mine = Attending(addresses, "c1", None, "w", lambda *what: told.append(what))
    other = Attending(addresses, "c1", None, "other", lambda *what: None)
    mine.look()
    other.look()
    eventually(lambda: silent(two[0]) < ACTOR_SESSION_MS, WAIT_S)
    addresses.learn([two[0].address, two[1].address])
    for one in (mine, other):
        one.look()
        one.look()  # once more changes nothing
    eventually(lambda: silent(two[1]) < ACTOR_SESSION_MS, WAIT_S)
    two[1].become_active(7)
    eventually(lambda: told, WAIT_S)
    assert told == [(two[1].address, 7)]
    mine.stop()
    for one in two:
        eventually(lambda one=one: silent(one) >= ACTOR_SESSION_MS, WAIT_S, "its end counts as a silence")
        assert silent(one, "other") < ACTOR_SESSION_MS
    other.stop()


def test_a_coordinator_that_hears_nobody_blames_nobody(two: tuple[Coordinator, Coordinator]) -> None:
    """It may have stood still itself."""
    mine = Attending(CoordinatorAddresses([two[0].address]), "c1", None, "w", lambda *what: None)
    mine.look()
    eventually(lambda: silent(two[0]) < ACTOR_SESSION_MS, WAIT_S)
    assert two[0].attendance.silent_ms().keys() == {"w"}
    mine.stop()
    eventually(lambda: not two[0].attendance.silent_ms(), WAIT_S)


def test_who_comes_later_is_told_too_and_not_by_one_that_has_retired(two: tuple[Coordinator, Coordinator]) -> None:
    told: list[tuple[Address, int]] = []
    two[0].become_active(1)
    two[0].attendance.retire()
    two[1].become_active(2)
    addresses = CoordinatorAddresses([one.address for one in two])
    mine = Attending(addresses, "c1", None, "w", lambda *what: told.append(what))
    mine.look()
    eventually(lambda: told and all(silent(one) < ACTOR_SESSION_MS for one in two), WAIT_S)
    assert told == [(two[1].address, 2)]
    mine.stop()


def test_a_follower_leaves_one_that_hangs_as_soon_as_another_is_active(two: tuple[Coordinator, Coordinator]) -> None:
    """Not when it has been silent for as long as the follower would wait: here that is for ever."""
    first, second = two
    first.become_active(1)
    addresses = CoordinatorAddresses([first.address, second.address])
    follower = MetadataFollower(addresses, "c1", None, "w", lambda *what: None, timeout_s=100 * WAIT_S)
    follower.start()
    eventually(lambda: follower.coordinator_epoch == 1 and silent(second) < ACTOR_SESSION_MS, WAIT_S)
    first.silent = True
    second.become_active(2)
    eventually(lambda: follower.coordinator_epoch == 2, WAIT_S)
    first.attendance.announce(1)  # says so late: it was stopped, say
    eventually(lambda: silent(first) < ACTOR_SESSION_MS, WAIT_S)
    assert second.streams == 1 and follower.coordinator_epoch == 2
    assert follower.stop(WAIT_S)
