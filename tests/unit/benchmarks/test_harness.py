"""The benchmarks' arithmetic: what is read from /proc, medians, ratios, latencies; and loads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import pyarrow as pa
import pytest

from benchmarks.baselines import ceilings
from benchmarks.baselines.flight_sink import BARE, CHECKED, FlightSink, FlightWriter
from benchmarks.goals import Goal
from benchmarks.harness import accounting, machine
from benchmarks.harness.figures import Figure, Outcome, alternate
from benchmarks.harness.latency import summary
from benchmarks.harness.loads import Anew, LoadFailed, ProcessLoad, path_of
from benchmarks.harness.payload import values_table

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")

TICKS = os.sysconf("SC_CLK_TCK")


def test_a_process_named_with_parentheses_and_spaces_is_read() -> None:
    text = "42 (ray::Broker (x) y) S 7 42 42 0 -1 4194560 1 0 0 0 1 2 150 50 20 0 9 0 1 1 1"
    assert accounting.parse_stat(text) == accounting.Stat(42, 7, 200 / TICKS)


def test_memory_is_read_from_the_rollup() -> None:
    text = (
        "00400000-7fff0000 ---p 00000000 00:00 0    [rollup]\n"
        "Rss:    9000 kB\nPss:    100 kB\nPss_Dirty:  1 kB\nPrivate_Clean:   10 kB\nPrivate_Dirty:   20 kB\n"
    )
    assert accounting.parse_rollup(text) == accounting.Memory(100 * 1024, 30 * 1024)


def test_this_process_is_seen() -> None:
    me = os.getpid()
    assert me in accounting.descendants(os.getppid())
    assert accounting.memory([me]).uss > 1 << 20
    assert accounting.open_files([me]) >= 3
    assert "python" in accounting.title(me) or "pytest" in accounting.title(me)


def test_work_is_charged_to_its_group() -> None:
    meter = accounting.CpuMeter({"me": [os.getpid()], "nobody": []})
    while accounting.cpu_s([os.getpid()]) < meter._before["me"] + 0.1:
        sum(range(10_000))
    used = meter.used()
    assert used["me"] > 0.05 and used["nobody"] == 0


def test_children_that_have_ended_are_counted_with_their_parent() -> None:
    me = os.getpid()
    before = accounting.cpu_s([me])
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", burn], check=True, timeout=60)
    assert accounting.cpu_s([me]) > before + 0.2


def test_cpu_is_counted_finer_than_the_steps_of_proc_and_with_threads_that_have_ended() -> None:
    me = os.getpid()
    before, own = accounting.cpu_s([me]), time.process_time()
    thread = threading.Thread(target=lambda: sum(range(300_000)))
    thread.start()
    thread.join()
    used, expected = accounting.cpu_s([me]) - before, time.process_time() - own
    assert 0 < used == pytest.approx(expected, abs=0.005)


def test_the_machine_is_watched_between_two_looks() -> None:
    machine = accounting.MachineMeter()
    time_is_up = time.process_time() + 0.1
    while time.process_time() < time_is_up:
        pass
    idle, steal, load = machine.look()
    assert 0 <= idle < 100 and 0 <= steal < 100 and load >= 0


def test_what_has_ended_counts_as_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    assert accounting.memory([ended.pid]) == accounting.Memory(0, 0)
    assert accounting.cpu_s([ended.pid]) == 0


class Afar:
    """Knows about processes of another machine."""

    def cpu_s(self, pids: Iterable[int]) -> float:
        return 1000.0 + accounting.cpu_s(pid for pid in pids if pid < accounting.PIDS_HERE_BELOW)

    def memory(self, pids: Iterable[int]) -> accounting.Memory:
        return accounting.Memory(1, 2)

    def open_files(self, pids: Iterable[int]) -> int:
        return 3


def test_processes_of_other_machines_are_asked_about_there() -> None:
    me, far = os.getpid(), accounting.PIDS_HERE_BELOW + 1
    with accounting.asking(Afar()):
        assert accounting.cpu_s([me, far]) > 1000 > accounting.cpu_s([me])
        assert accounting.memory([far]) == accounting.Memory(1, 2)
        assert accounting.open_files([far]) == 3 != accounting.open_files([me])
    assert accounting.cpu_s([far]) == 0


def test_bytes_on_the_disk_are_those_of_all_files_below(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data").write_bytes(os.urandom(100_000))
    with (tmp_path / "only-in-name").open("wb") as file:
        file.truncate(1 << 30)
    assert 100_000 <= accounting.bytes_on_disk(tmp_path) < 1 << 20


def test_medians_goals_and_ratios() -> None:
    figure = Figure("x", "MB/s", [3.0, 1.0, 2.0], Goal("x", "x", "w", 1.0, 2.5, "MB/s"))
    assert (figure.median, figure.low, figure.high) == (2.0, 1.0, 3.0)
    assert figure.must_reached is True and figure.aim_reached is False
    lower = Goal("y", "y", "w", 2.0, unit="ms", higher_is_better=False)
    assert Figure("x", "ms", [3.0], lower, higher_is_better=False).must_reached is False
    assert Figure("x", "ms", [3.0]).must_reached is None is Figure("x", "ms", [3.0]).aim_reached


def test_an_outcome_holds_ratios_round_by_round() -> None:
    outcome = Outcome("w")
    outcome.add("x", "ms", [1, 3, 2], side="kafka")
    outcome.ratio("x", [2, 9], [1, 3], Goal("x", "x", "w", 2.6))
    plain, ratio = outcome.to_dict()["figures"]
    assert plain["samples"] == [1.0, 3.0, 2.0] and plain["side"] == "kafka"
    assert ratio["samples"] == [2.0, 3.0] and ratio["side"] == ratio["unit"] == "ratio"
    assert ratio["must_reached"] is False and [one.name for one in outcome.missed] == ["x"]
    with pytest.raises(ValueError, match="the goal x is in ratio, y in s"):
        outcome.add("y", "s", [1.0], Goal("x", "x", "w", 2.6))
    with pytest.raises(ValueError, match="shorter"):
        outcome.ratio("x", [1.0, 2.0], [1.0])


def test_sides_take_turns_and_the_warm_up_is_dropped() -> None:
    calls: list[str] = []

    def side(name: str) -> int:
        calls.append(name)
        return len(calls)

    assert alternate({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=2) == {"a": [4, 5], "b": [3, 6]}
    assert calls == ["a", "b", "b", "a", "a", "b"]


def test_there_is_calm_between_two_sides() -> None:
    calls: list[str] = []
    alternate({"a": partial(calls.append, "a"), "b": partial(calls.append, "b")}, 1, 0, lambda: calls.append("-"))
    assert calls == ["a", "-", "b", "-"]


def test_latency_percentiles_are_in_ms() -> None:
    found = summary([1_000_000] * 99 + [50_000_000])
    assert found["count"] == 100
    assert found["p50"] == pytest.approx(1.0, rel=1e-3)
    assert found["p99"] == pytest.approx(1.0, rel=1e-3)
    assert found["max"] == pytest.approx(50.0, rel=1e-3)


class Counting:
    """A load for tests."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("below nothing")
        self._count = start

    def add(self, more: int) -> int:
        print("this goes to standard error, not into the answers")
        self._count += more
        return self._count

    def close(self) -> None:
        """Nothing to close."""


def test_a_load_runs_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "__module__", "tests.unit.benchmarks.test_harness")
    with ProcessLoad(Counting, "count", start=40) as load:
        assert load.pid != os.getpid()
        assert load.call("add", more=1) == 41
        assert load.begin("add", more=1).result(20) == 42
        with pytest.raises(LoadFailed, match="TypeError"):
            load.call("add", more="x")
    with pytest.raises(LoadFailed, match="below nothing"):
        ProcessLoad(Counting, "count", start=-1)


class Adding(Counting):
    """Another one, which needs to be told what it adds to."""

    closed: ClassVar[list[int]] = []

    def run(self, more: int) -> int:
        return self.add(more)

    def close(self) -> None:
        self.closed.append(self._count)


def test_a_load_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adding, "__module__", "tests.unit.benchmarks.test_harness")
    monkeypatch.setitem(sys.modules, "tests.unit.benchmarks.test_harness", sys.modules[__name__])
    anew = Anew(path_of(Adding))
    anew.close()
    for start in (10, 20):
        anew.make(start=start)
        assert anew.run(more=1) == start + 1
    assert Adding.closed == [11]
    anew.close()
    assert Adding.closed == [11, 21]


@pytest.mark.parametrize("grade", [BARE, CHECKED])
def test_the_bare_stream_writes_all_it_was_sent(tmp_path, grade: str) -> None:
    sink = FlightSink(str(tmp_path))
    writer = FlightWriter(sink.port())
    try:
        result = writer.run(grade, rows=10, value_bytes=100, seconds=5.0, bytes_max=20_000)
    finally:
        writer.close()
        sink.close()
    with pa.memory_map(str(tmp_path / "flight-sink.arrows")) as file:
        table = pa.ipc.open_stream(file).read_all()
    assert table.num_rows == result["records"] >= 100
    assert set(table["value"].to_pylist()) == set(values_table(10, 100)["value"].to_pylist())


def test_ceilings_leave_nothing_behind(tmp_path) -> None:
    path = tmp_path / "x"
    assert ceilings.memcpy(1 << 20) > 0
    assert ceilings.page_cache_write(path, 1 << 20) > 0
    assert ceilings.fdatasync_s(path, 2) > 0
    assert ceilings.loopback_tcp(1 << 20) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_machine_is_described(tmp_path) -> None:
    found = machine.describe(tmp_path)
    assert found["cores"] == os.cpu_count()
    assert found["packages"]["pyarrow"] == pa.__version__
    assert found["data_dir"]["file_system"] != "unknown"
