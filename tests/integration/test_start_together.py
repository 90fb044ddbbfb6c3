"""Several start the same cluster at once, as processes of a job do: one creates it, the others join, none ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ray

import rayqueue
from rayqueue.actors import handles, lifecycle
from rayqueue.cluster import Cluster, shutdown, start, status
from rayqueue.errors import ClusterNotRunning, ConfigError, RequestTimeout

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

NO_STANDBY = {"num.standby.replica.actors": 0}  # it starts later, and would move what is counted here
TOGETHER_S = 60.0


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except rayqueue.RayQueueError as error:
        return error


def start_together(monkeypatch: pytest.MonkeyPatch, *calls: Callable[[], Cluster]) -> list[Any]:
    """What calls of `start` give or raise that have all found no coordinator before the first one creates it."""
    prepare, all_here = lifecycle._prepare, threading.Barrier(len(calls))

    def meet(*args: Any) -> Any:
        all_here.wait(TOGETHER_S)
        return prepare(*args)

    monkeypatch.setattr(lifecycle, "_prepare", meet)
    with ThreadPoolExecutor(len(calls)) as threads:
        found = list(threads.map(outcome, calls))
    monkeypatch.undo()
    return found


def test_two_who_start_a_cluster_at_once_get_the_same(
    one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one() -> Cluster:
        return start("both", brokers=1, data_dir=tmp_path, config={"num.replica.actors": 1})

    first, second = start_together(monkeypatch, one, one)
    try:
        assert (first.cluster_id, first.bootstrap_servers) == (second.cluster_id, second.bootstrap_servers)
        assert first.cluster_id and status("both").healthy
    finally:
        shutdown("both")


def test_of_two_who_start_different_clusters_at_once_one_is_told_and_the_other_has_its_own(
    one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(replicas: int) -> Callable[[], Cluster]:
        return lambda: start(
            "either", brokers=1, data_dir=tmp_path, config={"num.replica.actors": replicas, **NO_STANDBY}
        )

    found = start_together(monkeypatch, one(1), one(2))
    try:
        (refused,) = [it for it in found if isinstance(it, Exception)]
        assert isinstance(refused, ConfigError) and "other settings" in str(refused)
        seen = status("either")
        assert seen.healthy and len(seen.processes) == 2 + (2 if refused is found[0] else 1)
    finally:
        shutdown("either")


def test_a_start_that_joined_another_and_gives_up_leaves_the_cluster_alone(
    one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = handles.find
    with start("joined", brokers=1, data_dir=tmp_path, config={"num.replica.actors": 1, **NO_STANDBY}) as running:
        before = [p.pid for p in running.status().processes]
        for ends in (KeyboardInterrupt(), RequestTimeout("not complete")):
            looks = count()

            def give_up(*_: Any, ends: BaseException = ends) -> Any:
                raise ends

            def found(name: str, looks: Iterator[int] = looks) -> Any:
                return find(name) if next(looks) else None

            with monkeypatch.context() as patch:  # as if the coordinator came up just after this call had looked for it
                patch.setattr(handles, "find", found)
                patch.setattr(lifecycle, "_wait_ready", give_up)
                with pytest.raises(type(ends)):
                    start("joined", brokers=1, data_dir=tmp_path)
            assert [p.pid for p in running.status().processes] == before and running.status().healthy


def test_a_start_whose_cluster_is_taken_down_by_another_says_so(
    one_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "start_coordinator", lambda *_: None)  # there was one, and it is gone again
    with pytest.raises(ClusterNotRunning, match="taken down while"):
        start("short", data_dir=tmp_path)
