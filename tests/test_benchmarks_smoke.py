"""Every workload of the benchmarks runs, tiny, against a cluster in this process, so that none rots. No timings."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import cli
from benchmarks.harness.bench import Bench, Scale
from benchmarks.harness.table import show
from benchmarks.harness.target import Target
from benchmarks.workloads import WORKLOADS
from rayqueue.testing.inprocess import InProcessCluster

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")

SCALE = Scale(seconds=0.05, repeats=1, warm_up=0, bytes_max=2_000_000, rows_max=2_000, partitions=5)


class InlineLoad:
    """A load in this process, its arguments and results taken through JSON as the pipes would."""

    pid = None

    def __init__(self, kind: type, label: str, **arguments: Any) -> None:
        self._load = kind(**json.loads(json.dumps(arguments)))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=label)

    def begin(self, method: str, **arguments: Any) -> Future[Any]:
        return self._thread.submit(self.call, method, **arguments)

    def call(self, method: str, **arguments: Any) -> Any:
        return json.loads(json.dumps(getattr(self._load, method)(**json.loads(json.dumps(arguments)))))

    def close(self) -> None:
        self._load.close()
        self._thread.shutdown()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    directory: Path = tmp_path_factory.mktemp("benchmarks")
    with InProcessCluster(directory / "data") as cluster:
        target = Target(cluster.bootstrap_servers, None, False, {})
        yield Bench(target, directory, SCALE, InlineLoad, Console(quiet=True))


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_runs(bench: Bench, name: str) -> None:
    outcome = WORKLOADS[name](bench)

    assert outcome.workload == name
    assert outcome.figures and all(figure.samples for figure in outcome.figures)
    json.dumps(outcome.to_dict())
    console = Console(record=True, file=io.StringIO(), width=200)
    show(outcome, console)
    assert outcome.figures[0].name in console.export_text()


def test_an_unknown_workload_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--only", "produce_bytes"]) == 2
    assert "there are ceilings, produce_batches" in capsys.readouterr().out
