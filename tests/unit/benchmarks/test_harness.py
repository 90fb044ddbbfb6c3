"""The benchmarks' arithmetic: what is read from /proc, medians, ratios, latencies, touched bytes."""

from __future__ import annotations

import os
import sys

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.baselines import ceilings
from benchmarks.baselines.flight_sink import BARE, CHECKED, FlightSink, FlightWriter
from benchmarks.harness import accounting, machine
from benchmarks.harness.figures import Figure, Outcome, alternate, ratios
from benchmarks.harness.latency import summary
from benchmarks.harness.loads import LoadFailed, ProcessLoad
from benchmarks.harness.payload import touch, values_table
from benchmarks.harness.table import goal, number

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")

TICKS = os.sysconf("SC_CLK_TCK")


def test_a_process_named_with_parentheses_and_spaces_is_read() -> None:
    text = "42 (ray::Broker (x) y) S 7 42 42 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1 1 1"
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


def test_median_goal_and_ratio() -> None:
    figure = Figure("x", "MB/s", [3.0, 1.0, 2.0], goal=2.0)
    assert (figure.median, figure.low, figure.high, figure.reached) == (2.0, 1.0, 3.0, True)
    assert Figure("x", "ms", [3.0], goal=2.0, higher_is_better=False).reached is False
    assert Figure("x", "ms", [3.0]).reached is None
    assert "NOT REACHED" in goal(Figure("x", "ms", [3.0], goal=2.0, higher_is_better=False))
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    outcome = Outcome("w")
    outcome.add("x", "ms", [1, 3, 2], goal=5)
    assert outcome.to_dict()["figures"][0]["samples"] == [1.0, 3.0, 2.0]


def test_sides_take_turns_and_the_warm_up_is_dropped() -> None:
    calls: list[str] = []

    def side(name: str) -> int:
        calls.append(name)
        return len(calls)

    assert alternate({"a": lambda: side("a"), "b": lambda: side("b")}, repeats=2) == {"a": [3, 5], "b": [4, 6]}
    assert calls == ["a", "b"] * 3


def test_latency_percentiles_are_in_ms() -> None:
    found = summary([1_000_000] * 99 + [50_000_000])
    assert found["count"] == 100
    assert found["p50"] == pytest.approx(1.0, rel=1e-3)
    assert found["p99"] == pytest.approx(1.0, rel=1e-3)
    assert found["max"] == pytest.approx(50.0, rel=1e-3)


def test_every_byte_of_the_values_is_touched_and_no_other() -> None:
    values = [b"\x01" * 11, b"\x02" * 3, b"", b"\x04" * 30]
    array = pa.array(values, pa.binary())
    plain = sum(int.from_bytes(word, "little") for word in _words(b"".join(values)))
    assert touch(array) == plain
    assert touch(pa.chunked_array([array.slice(1, 1)])) == 6
    changed = pa.array([*values[:3], b"\x04" * 29 + b"\x05"], pa.binary())
    assert touch(changed) != touch(array)


def _words(data: bytes) -> list[bytes]:
    cut = len(data) // 8 * 8
    return [data[i : i + 8] for i in range(0, cut, 8)] + [bytes([byte]) for byte in data[cut:]]


def test_payloads_do_not_repeat() -> None:
    table = values_table(100, 50)
    assert table["value"].num_chunks == 1
    assert len(set(table["value"].to_pylist())) == 100
    assert np.unique(np.frombuffer(b"".join(table["value"].to_pylist()), np.uint8)).size > 200


def test_numbers_are_short() -> None:
    assert [number(x) for x in (0, 0.0123, 0.5, 12.34, 123.4, 1234567.8)] == [
        "0.00", "0.0123", "0.50", "12.3", "123", "1,234,568",
    ]  # fmt: skip


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
