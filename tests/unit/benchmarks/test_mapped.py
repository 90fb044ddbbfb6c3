"""A reader that is called mapped has to map, or the figure is one of something else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.harness import rayqueue_system
from benchmarks.harness.loads import Anew, path_of
from benchmarks.harness.rayqueue_system import MappedOut, RayqueueSystem, in_a_file

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks account from /proc")


@pytest.fixture
def system(tmp_path: Path) -> Iterator[RayqueueSystem]:
    with rayqueue_system.in_process(tmp_path / "data") as found:
        yield found


def test_what_lies_in_a_file_is_told_from_what_does_not(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(5000))
    with pa.memory_map(str(tmp_path / "x")) as file:
        assert in_a_file(file.read_buffer(5000).address)
    assert not in_a_file(pa.py_buffer(bytearray(5000)).address) and not in_a_file(1)


def test_a_reader_that_does_not_map_fails_its_check(system: RayqueueSystem) -> None:
    with system.topic() as topic:
        producer = system.roles["batches_in"](system.client())
        producer.run(topic, 100, 100, 60.0, bytes_max=100_000)
        producer.close()
        mapped = Anew(path_of(MappedOut), client=system.client())
        mapped.make(topic=topic)
        mapped.run(records=500)
        mapped.check()
        mapped.close()
        streamed = MappedOut(system.client(), topic, mapped_reads=False)
        streamed.run(records=500)
        with pytest.raises(AssertionError, match="gets its records over the stream"):
            streamed.check()
        streamed.close()
