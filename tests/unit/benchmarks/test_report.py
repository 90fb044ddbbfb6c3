"""What a run writes, and the exit status it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
    outcome.ratio("rows in", [ratio], [1.0], must=1.5)
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
