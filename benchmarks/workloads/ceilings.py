"""Ceilings of the machine, for all other figures of the run."""

from __future__ import annotations

from benchmarks.baselines.ceilings import fdatasync_s, loopback_tcp, memcpy, page_cache_write
from benchmarks.harness.bench import GB, Bench
from benchmarks.harness.figures import Outcome

TITLE = "what this machine can do at all"
SIDE = "machine"
SYNCS = 50


def run(bench: Bench) -> Outcome:
    """Measures memcpy, page-cache write, loopback TCP and fdatasync."""
    scale = bench.scale
    size = scale.bytes_max
    path = bench.directory / "ceiling"
    results = bench.alternate(
        {
            "memcpy": lambda: memcpy(size) / GB,
            "page-cache write, 1 MiB a call": lambda: page_cache_write(path, size) / GB,
            "loopback TCP, 1 MiB a call": lambda: loopback_tcp(size) / GB,
        }
    )
    outcome = Outcome("ceilings", settings={"bytes": size})
    for name, samples in results.items():
        outcome.add(name, "GB/s", samples, side=SIDE)
    syncs = [fdatasync_s(path, SYNCS) * 1e6 for _ in range(scale.repeats)]
    outcome.add("fdatasync after 1 KiB", "us", syncs, higher_is_better=False, side=SIDE)
    return outcome
