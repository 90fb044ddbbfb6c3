"""What a run writes, and the exit status it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.harness.figures import Outcome
from benchmarks.harness.report import Report, last_line

MACHINE = {
    "cpu": "a processor", "cores": 2, "memory": "24 GB", "kernel": "Linux", "python": "3.11",
    "packages": {"rayqueue": "1", "pyarrow": "26"}, "data_dir": {"file_system": "ext4", "free_bytes": 1},
}  # fmt: skip


def report(tmp_path: Path, kafka: bool = True, ratio: float = 2.0, **more: object) -> Report:
    """A run that found a ratio which must be 1.5."""
    found = Report(tmp_path / "out", MACHINE, {"scale": {}}, **more)  # type: ignore[arg-type]
    found.systems = {"rayqueue": {}, **({"kafka": {"version": "4"}} if kafka else {})}
    outcome = Outcome("w1")
    outcome.ratio("rows in", [ratio], [1.0], Goal("rows_in", "rows in", "w1", 1.5))
    found.outcomes.append(outcome)
    return found


def test_the_status(tmp_path: Path) -> None:
    assert report(tmp_path).status == 0
    assert report(tmp_path, ratio=1.4).status == 1
    assert report(tmp_path, kafka=False).status == 1
    assert report(tmp_path, absent={"kafka": "it died during w4"}).status == 1
    assert report(tmp_path, absent={"redis": "not installed"}).status == 0
    assert report(tmp_path, failures={"w2": "ValueError"}).status == 1
    assert report(tmp_path, interrupted=True).status == 130
    assert report(tmp_path, kafka=False, ratio=1.0, smoke=True).status == 0
    assert report(tmp_path, smoke=True, failures={"w2": "ValueError"}).status == 1


def test_a_must_that_was_not_measured_is_missed(tmp_path: Path) -> None:
    full = report(tmp_path, expected=[GOALS["rows_in"], GOALS["created"]])
    assert full.status == 1 and full.not_measured == ["w10: 1,000 partitions created"]
    assert full.summary == "1 of 2 musts hold, 1 of them not measured; 0 failed; exit status 1."
    (row,) = [line for line in full.markdown().splitlines() if "1,000 partitions created" in line and "w10" in line]
    assert row.endswith("| ≤ 1.00 | ≤ 0.30 | **NOT MEASURED** |")
    assert any("| comes with rayqueue.read_topic" in line for line in full.markdown().splitlines())


def test_a_partial_run_says_so(tmp_path: Path) -> None:
    found = report(tmp_path, expected=[GOALS["rows_in"]], partial="without w2")
    assert found.status == 0 and found.summary.startswith("PARTIAL: 1 of 1 musts hold; there are ")
    assert any(line.startswith("PARTIAL: without w2.") for line in found.heading)
    nothing = report(tmp_path, partial="without w1")
    nothing.outcomes.clear()
    assert nothing.summary.startswith("PARTIAL: 0 of 0 musts hold; there are 23 in all")
    assert not any("PARTIAL" in line for line in report(tmp_path, smoke=True, partial="x").heading)


def test_code_that_changes_during_a_run_is_told(tmp_path: Path) -> None:
    code = {"commit": "0123456789abcdef", "dirty": False, "sources": "1"}
    assert report(tmp_path, code={"start": code}).mixed == ""
    assert report(tmp_path, code={"start": code, "end": dict(code)}).mixed == ""
    found = report(tmp_path, code={"start": code, "end": {**code, "sources": "2"}})
    assert found.status == 1 and found.heading[0].startswith("MIXED: ") and found.to_dict()["code"]["mixed"]
    assert "; commit 0123456789ab." in found.markdown()


def test_incomplete_says_why(tmp_path: Path) -> None:
    assert report(tmp_path).incomplete == ""
    assert "(it was not asked for)" in report(tmp_path, kafka=False).incomplete
    early = report(tmp_path, kafka=False)
    early.settings["peers"] = ["kafka"]
    assert "(the run ended before it)" in early.incomplete
    assert "(no Java)" in report(tmp_path, kafka=False, absent={"kafka": "no Java"}).incomplete


def test_the_files_hold_all_of_it(tmp_path: Path) -> None:
    found = report(tmp_path, ratio=1.4, failures={"w2": "Traceback\nValueError: other bytes\n"}, titles={"w1": "in"})
    found.save()
    saved = json.loads((tmp_path / "out" / "results.json").read_text())
    assert saved["status"] == 1 and saved["missed"] == ["w1: rows in"] and not saved["incomplete"]
    assert saved["machine"] == MACHINE and saved["systems"]["kafka"] == {"version": "4"}
    assert saved["outcomes"][0]["figures"][0]["samples"] == [1.4]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "**FAILED: w2 (ValueError: other bytes)**" in table
    assert "a processor, 2 cores, 24 GB, Linux, ext4; Python 3.11; rayqueue 1, pyarrow 26." in table
    assert "### w1: in\n" in table and "**MISSED**" in table and "0 of 1 musts hold" in table
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "table.md"]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("a\nb: c\n\n", "b: c"),
        ("package.module.Failed: at 127.0.0.1:1", "Failed: at 127.0.0.1:1"),
        ("builtins.KeyError", "KeyError"),
        ("no room in a.directory: make some", "no room in a.directory: make some"),
        ("", ""),
    ],
)
def test_of_a_traceback_the_error_is_told(text: str, last: str) -> None:
    assert last_line(text) == last
