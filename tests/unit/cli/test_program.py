"""What becomes of errors, Ctrl-C and broken pipes; how things are written."""

import threading
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from rayqueue.cli import lifecycle, output
from rayqueue.cli.main import Program, cli
from rayqueue.cli.perf_report import Latencies, Meter, Summary
from rayqueue.errors import ConfigError


def program(error):
    """A program whose only command raises."""

    @click.group(cls=Program)
    def root():
        """Root."""

    @root.command()
    def go():
        """Goes wrong."""
        click.echo("some output")
        raise error

    return root


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("retention.ms must be\na number"), 1, "error: retention.ms must be a number\n"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "error: x.json: No such file or directory\n"),
        (KeyError("k"), 1, "error: KeyError: 'k' (RAYQUEUE_LOG=debug shows where)\n"),
        (ModuleNotFoundError("no", name="hdrh"), 1, "error: the Python package 'hdrh' is missing"),
        (ModuleNotFoundError("no", name="ray"), 1, "--bootstrap-servers"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
        (click.UsageError("give a topic"), 2, "give a topic"),
    ],
)
def test_how_commands_end(error, status, line):
    result = CliRunner().invoke(program(error), ["go"], env={"RAYQUEUE_LOG": ""})
    assert result.exit_code == status
    assert line in result.stderr and "Traceback" not in result.stderr
    assert bool(line) or not result.stderr


def test_tracebacks_when_asked_for():
    result = CliRunner().invoke(program(ConfigError("no")), ["go"], env={"RAYQUEUE_LOG": "debug"})
    assert result.exit_code == 1 and "Traceback" in result.stderr and "error: no" in result.stderr


def test_usage_errors_and_help():
    assert CliRunner().invoke(cli, ["nosuch"]).exit_code == 2
    assert CliRunner().invoke(cli, ["topic", "create"]).exit_code == 2
    assert "Examples:" in CliRunner().invoke(cli, ["-h"]).stdout


def shown(function):
    """What a function writes to standard output."""

    @click.command()
    def command():
        """Writes."""
        function()

    return CliRunner().invoke(command).stdout


def test_tables_in_pipes_are_neither_cut_nor_marked_up():
    long = "x" * 300
    text = shown(lambda: output.table(("NAME", "COUNT"), [("[red]a", 5), (long, None)], right=("COUNT",)))
    assert [line.split() for line in text.splitlines()] == [["NAME", "COUNT"], ["[red]a", "5"], [long, "-"]]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB"), (None, "-")]
)
def test_sizes(size, text):
    assert output.size_text(size) == text


def test_counts():
    assert [output.count_text(n, "record") for n in (0, 1, 2000)] == ["0 records", "1 record", "2,000 records"]
    assert output.count_text(2, "batch") == "2 batches" and output.count_text(None, "record") == "-"


def test_start_says_how_to_use_the_token():
    cluster = SimpleNamespace(bootstrap_servers="grpc://10.0.0.1:9000", token="secret")
    text = shown(lambda: lifecycle._show_started(cluster, "default", False))
    assert "export RAYQUEUE_TOKEN=secret" in text and "export RAYQUEUE_BOOTSTRAP=grpc://10.0.0.1:9000" in text
    cluster.token = None
    assert "TOKEN" not in shown(lambda: lifecycle._show_started(cluster, "default", False))


@pytest.mark.parametrize("with_histogram", [True, False])
def test_latencies(with_histogram, monkeypatch):
    if not with_histogram:
        monkeypatch.setitem(__import__("sys").modules, "hdrh.histogram", None)
    latencies = Latencies()
    assert latencies.percentiles() == {}
    for microseconds in range(1, 1001):
        latencies.add(microseconds)
    found = latencies.percentiles()
    assert len(latencies) == 1000 and list(found) == ["p50", "p90", "p99", "p99.9", "max"]
    assert found["p50"] == pytest.approx(0.5, rel=0.01) and found["max"] == pytest.approx(1.0, rel=0.01)


def test_a_summary():
    summary = Summary("produce", 2000, 200_000, 0.5, {"p50": 1.5})
    assert summary.to_dict()["records_per_second"] == 4000 and summary.to_dict()["megabytes_per_second"] == 0.4
    assert "4,000 records/s" in summary.text() and "p50 1.5 ms" in summary.text()
    assert Summary("produce", 0, 0, 0.0, {}).records_per_second == 0


def test_a_meter_counts_and_tells_how_far_it_is(monkeypatch):
    clock = iter([0.0, 1.5, 2.5])
    monkeypatch.setattr("rayqueue.cli.perf_report.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    lines = []
    meter = Meter("sent", lines.append, 120)
    meter.count(10, 100)
    meter.count(20, 200)
    meter.line()
    meter.line()
    assert lines == [
        "sent 30 records in 1.5 s, 20 records/s, 0.0 MB/s, 30 of 120 (25%)",
        "sent 0 records in 1.0 s, 0 records/s, 0.0 MB/s, 30 of 120 (25%)",
    ]


def test_a_meter_reports_in_a_stall_too(monkeypatch):
    monkeypatch.setattr("rayqueue.cli.perf_report.REPORT_EVERY_S", 0.02)
    lines, twice = [], threading.Event()

    def report(line):
        lines.append(line)
        if len(lines) == 2:
            twice.set()

    with Meter("sent", report) as meter:
        meter.count(7, 70)
        assert twice.wait(20)
    said = len(lines)
    assert lines[0].startswith("sent 7 records in 0.0 s") and lines[1].startswith("sent 0 records")
    assert " of " not in lines[0] and not meter._thread.is_alive() and len(lines) == said
