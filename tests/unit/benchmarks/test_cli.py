"""The command line: options that make no sense, and what the others lead to."""

from __future__ import annotations

import shutil
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cli
from benchmarks.harness import suite
from benchmarks.harness.suite import Plan
from benchmarks.peers import PEERS
from benchmarks.workloads import WORKLOADS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Plan]:
    """Instead of a run: its plan."""
    plans: list[Plan] = []

    class Report:
        status = 7

    def run(plan: Plan, console: Any) -> Report:
        plans.append(plan)
        return Report()

    monkeypatch.setattr(suite, "run", run)
    monkeypatch.chdir(tmp_path)
    return plans


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "w1,w77"], "There is no workload w77; there are ceilings, w1, "),
        (["--peers", "kafka,rabbit"], "There is no peer rabbit; there are "),
        (["--dir", "nowhere"], "--dir nowhere: there is no such directory"),
        (["--out", "file/results"], "is no directory that can be written"),
        (["--cache", "file"], "is no directory that can be written"),
        (["--cache", "/proc/x"], "/proc is no directory that can be written"),
        (["--address", "auto", "--brokers", "2"], "leave one out"),
    ],
)
def test_options_that_make_no_sense_are_told_in_a_line(
    planned: list[Plan], capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    Path("file").touch()
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1
    assert planned == []


@pytest.mark.parametrize(
    "arguments", [["--seconds", "0"], ["--repeats", "x"], ["--only", ","], ["--megabytes", "-1"], ["--seconds", "nan"]]
)
def test_values_that_make_no_sense_are_usage_errors(
    planned: list[Plan], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
    assert planned == []


def test_without_options_everything_runs(planned: list[Plan]) -> None:
    assert cli.main([]) == 7
    (plan,) = planned
    assert list(plan.workloads) == list(WORKLOADS)
    assert [peer.name for peer in plan.peers] == list(PEERS)
    assert not plan.smoke and plan.scale.repeats >= 5


def test_options_reach_the_run(planned: list[Plan], tmp_path: Path) -> None:
    given = "--only W4,w1,w4 --peers kafka --seconds 0.5 --repeats 3 --megabytes 7 --out x/y --cache z --dir ."
    cli.main(given.split())
    (plan,) = planned
    assert list(plan.workloads) == ["w4", "w1"]
    assert [peer.name for peer in plan.peers] == ["kafka"]
    assert (plan.scale.seconds, plan.scale.repeats, plan.scale.bytes_max) == (0.5, 3, 7 << 20)
    assert (plan.out, plan.cache, plan.data) == (Path("x/y"), Path("z"), Path("."))


def test_a_peer_goes_by_the_name_of_its_file_too(planned: list[Plan]) -> None:
    cli.main(["--peers", "ray_queue,ray.util.queue,kafka"])
    assert [peer.name for peer in planned[0].peers] == ["ray.util.queue", "kafka"]


def test_an_address_puts_rayqueue_and_loads_on_that_cluster(planned: list[Plan]) -> None:
    cli.main(["--address", "127.0.0.1:6379", "--peers", "kafka"])
    (plan,) = planned
    assert plan.start_rayqueue.__self__ is plan.start_load.__self__  # type: ignore[attr-defined]
    assert [type(peer).__name__ for peer in plan.peers] == ["LocalPeer"]
    assert plan.settings["address"] == "127.0.0.1:6379"


def test_a_smoke_run_is_tiny_and_without_peers_unless_they_are_named(planned: list[Plan]) -> None:
    cli.main(["--smoke"])
    cli.main(["--smoke", "--peers", "kafka"])
    cli.main(["--peers", "none"])
    assert [[peer.name for peer in plan.peers] for plan in planned] == [[], ["kafka"], []]
    assert [plan.smoke for plan in planned] == [True, True, False]
    assert planned[0].scale.repeats == 1


def test_too_little_room_is_told_before_anything_starts(
    planned: list[Plan], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 99, 1))
    assert cli.main([]) == 2
    said = capsys.readouterr().err
    assert "There is no room for the run: it may take" in said and "--dir" in said and said.count("\n") == 1
    assert planned == []


def test_help_names_workloads_peers_and_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*WORKLOADS, *PEERS, "INCOMPLETE", "--smoke", "130"))


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cli.default_cache() == tmp_path / "rayqueue-benchmarks"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cli.default_cache() == tmp_path / "home" / ".cache" / "rayqueue-benchmarks"
