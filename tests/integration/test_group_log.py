"""A shard's log is taken over by one owner after the other, and what an older one still says is refused."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from rayqueue.actors import group_log
from rayqueue.actors.driver import boot_ms
from rayqueue.actors.group_batches import Encoded, Latest
from rayqueue.actors.group_log import OWNER, Answered, ShardLog
from rayqueue.actors.group_reading import Place
from rayqueue.config.names import GROUPS_TOPIC
from rayqueue.errors import NotGroupCoordinator
from rayqueue.groups.records import BARRIER, decode_record, encode_record, owner_record
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.group_client import GroupClient
from tests.integration.waiting import eventually

WAIT_S = 20.0
BARRIER_KEY = encode_record(BARRIER)[0]

_names = count(1)


@pytest.fixture
def cluster(tmp_path: Any) -> Iterator[InProcessCluster]:
    """A cluster whose topic of groups nobody serves."""
    with InProcessCluster(tmp_path, config={"offsets.topic.num.partitions": 1}) as one:
        GroupClient(one.bootstrap_servers, "g").committed()
        one.stop_groups(0)
        yield one


def place(cluster: InProcessCluster, epoch: int | None = None) -> Place:
    def look(state: Any, index: int, coordinator_epoch: int) -> Place:
        partition = state.topics[GROUPS_TOPIC].partitions[0]
        actor = state.leader_actor(partition)
        leader_epoch = partition.leader_epoch if epoch is None else epoch
        where = actor.host, actor.port, actor.incarnation
        return Place(partition.topic_id, 0, leader_epoch, actor.broker_id, *where)

    return cluster.brokers[0]._follower.read(look)


class Owner:
    """Owns the shard's log, or tries to; stands for the loop of a group coordinator."""

    def __init__(self, cluster: InProcessCluster, keep: bool = False, epoch: int | None = None) -> None:
        self.latest: Latest = {}
        self.owned = threading.Event()
        self.reasons: list[str] = []
        self.answers: queue.Queue[Answered] = queue.Queue()
        self._keep = keep  # what was taken over is not given up, as by a process that has not heard of it
        self.log = ShardLog(
            place(cluster, epoch),
            incarnation=f"process{next(_names)}",
            cluster_id=cluster._cluster_id,
            token=None,
            took_over=self._took_over,
            post=self.answers.put,
            lost=self._lost,
        )
        self.log.start()

    def _took_over(self, log: ShardLog, latest: Latest) -> None:
        self.latest = dict(latest)
        self.owned.set()

    def _lost(self, log: ShardLog, reason: str) -> None:
        self.reasons.append(reason)
        if not self._keep:
            log.forget()

    def own(self) -> Owner:
        assert self.owned.wait(WAIT_S), self.reasons
        return self

    @property
    def number(self) -> int:
        return decode_record(OWNER, self.latest[OWNER][0])[1].number  # type: ignore[union-attr]

    def append(self, *records: Encoded) -> str:
        """Appends, and waits for the answer; gives the error."""
        self.log.append(1, list(records))
        self.log.flush(boot_ms())
        result = self.answers.get(timeout=WAIT_S).result
        if self.log.reign:
            self.log.answered(boot_ms())
        return result.error

    def stop(self) -> None:
        self.log.stop()
        self.log.join(WAIT_S)


def values(owner: Owner) -> dict[bytes, bytes | None]:
    return {key: value for key, (value, _) in owner.latest.items() if key not in (OWNER, BARRIER_KEY)}


def test_the_next_owner_reads_what_the_one_before_wrote(cluster: InProcessCluster) -> None:
    first = Owner(cluster).own()
    assert first.append((b"a", b"1"), (b"b", b"2")) == "" and first.append((b"a", None)) == ""
    large = [(b"%d" % n, b"v" * 100) for n in range(5_000)]
    assert first.append(*large) == ""
    first.stop()
    second = Owner(cluster).own()
    assert values(second) == {b"a": None, b"b": b"2", **dict(large)}
    assert second.number == first.number + 1
    assert second.append((b"b", b"3")) == ""
    second.stop()


def test_an_older_owner_is_refused(cluster: InProcessCluster) -> None:
    zombie = Owner(cluster, keep=True).own()
    assert zombie.append((b"a", b"1")) == ""
    owner = Owner(cluster).own()
    assert zombie.append((b"a", b"late")) == "ProducerFenced"
    assert owner.append((b"b", b"2")) == ""
    zombie.stop()
    owner.stop()
    third = Owner(cluster).own()
    assert values(third) == {b"a": b"1", b"b": b"2"}
    third.stop()


def test_producer_epochs_that_run_out_leave_nobody_unfenced(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_log, "EPOCHS", 3)
    owners = [Owner(cluster, keep=True).own()]
    for _ in range(8):
        owners.append(Owner(cluster, keep=True).own())
        assert owners[-2].append((b"a", b"late")) == "ProducerFenced", owners[-2].number
        assert owners[-1].append((b"a", b"%d" % owners[-1].number)) == ""
    assert [one.number for one in owners] == list(range(owners[0].number, owners[0].number + 9))
    for one in owners:
        one.stop()


def test_a_number_that_another_one_took_meanwhile_is_not_ours(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fence was in a socket while we read the log: ours passes for a duplicate of it."""
    append_fence, before = ShardLog._append_fence, []

    def late(log: ShardLog, exchange: Any, number: int, fence: Encoded) -> int:
        if not before:
            before.append(number)
            append_fence(log, exchange, number, owner_record(number, 0, "another", log.place.leader_epoch))
        return append_fence(log, exchange, number, fence)

    monkeypatch.setattr(ShardLog, "_append_fence", late)
    owner = Owner(cluster).own()
    assert any("another owner took number" in reason for reason in owner.reasons)
    assert [owner.number - 1] == before
    assert owner.append((b"a", b"1")) == ""
    owner.stop()


def test_who_led_under_an_older_epoch_is_refused(cluster: InProcessCluster) -> None:
    old = place(cluster)
    cluster.stop_replica(0)
    cluster.start_replica(0)
    eventually(lambda: place(cluster).leader_epoch > old.leader_epoch, WAIT_S)
    late = Owner(cluster, epoch=old.leader_epoch)
    eventually(lambda: any("leads in" in reason for reason in late.reasons), WAIT_S)
    assert not late.owned.is_set()
    late.stop()


def test_a_broken_connection_is_taken_over_anew(cluster: InProcessCluster) -> None:
    owner = Owner(cluster).own()
    number = owner.number
    assert owner.append((b"a", b"1")) == ""
    owner.owned.clear()
    owner.log.again()
    owner.own()
    assert owner.number == number + 1 and values(owner) == {b"a": b"1"}
    assert owner.append((b"a", b"2")) == ""
    owner.stop()


def test_one_that_is_not_wanted_any_more_ends(cluster: InProcessCluster) -> None:
    class Unwanted(Owner):
        def _took_over(self, log: ShardLog, latest: Latest) -> None:
            self.owned.set()
            raise NotGroupCoordinator("led elsewhere")

    unwanted = Unwanted(cluster).own()
    eventually(lambda: "led elsewhere" in unwanted.reasons, WAIT_S)
    unwanted.stop()
    assert not unwanted.log._thread.is_alive()


def test_appends_wait_together_while_enough_are_under_way(
    cluster: InProcessCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    request = ShardLog._request

    def counted(log: ShardLog, records: list[Encoded], *producer: Any) -> Any:
        sent.append(len(records))
        return request(log, records, *producer)

    monkeypatch.setattr(ShardLog, "_request", counted)
    owner = Owner(cluster).own()
    sent.clear()
    for number in range(1, 101):
        owner.log.append(number, [(b"%d" % number, b"x")])
        if number <= group_log.IN_FLIGHT_MAX:
            owner.log.flush(boot_ms())
    owner.log.flush(boot_ms())
    answered = 0
    while answered < 100:
        assert owner.answers.get(timeout=WAIT_S).result.error == ""
        answered = owner.log.answered(boot_ms())
        owner.log.flush(boot_ms())
    assert sent == [1] * group_log.IN_FLIGHT_MAX + [100 - group_log.IN_FLIGHT_MAX]
    owner.stop()
