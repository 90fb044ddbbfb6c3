"""What producing costs beside CPU: memory of the processes, bytes on the disk."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack

from benchmarks.harness import accounting
from benchmarks.harness.bench import Bench
from benchmarks.harness.figures import Outcome
from benchmarks.harness.system import System
from benchmarks.harness.throughput import ROWS, Producers, tunings

MIB = 1 << 20
# The disk is settled when it has not changed for one wait, and not waited for longer than some.
SETTLE_S = 0.3
SETTLE_WAITS_MAX = 10


def memory(bench: Bench, outcome: Outcome, clients: Mapping[tuple[str, str], list[int]]) -> None:
    """PSS of the servers, and of each producer, now.

    Args:
        clients: the producers' process ids by system and by what they produced.
    """
    for system in bench.having(ROWS):
        servers = [pid for group in system.processes().values() for pid in group]
        pss = accounting.memory(servers).pss / MIB
        outcome.add("memory of all servers (PSS)", "MiB", [pss], higher_is_better=False, side=system.name)
    for (name, what), pids in clients.items():
        producers = [accounting.memory([pid]).pss / MIB for pid in pids]
        if producers:
            outcome.add(f"memory of a producer, {what} (PSS)", "MiB", producers, higher_is_better=False, side=name)


def disk(bench: Bench, outcome: Outcome, roles: Mapping[str, str], value_bytes: int) -> None:
    """Bytes on the disk a record, its value among them.

    Args:
        roles: how records are produced → what the table calls it.
    """
    for role, what in roles.items():
        for system in bench.having(role):
            best = tunings(bench, system, role, value_bytes)[0]
            with ExitStack() as stack, system.topic() as topic:
                producers = Producers(bench, stack, system, role, best.arguments)
                before = _settled(system)
                rate = producers.into(topic, value_bytes, bench.scale.sweep_seconds)
                taken = (system.bytes_on_disk() - before) / rate.records
            name = f"on disk: {what}, {value_bytes} B"
            outcome.add(name, "B/record", [taken], higher_is_better=False, side=system.name)


def _settled(system: System) -> int:
    """Bytes on the disk once the topics that were deleted are gone from it."""
    found, pause = system.bytes_on_disk(), threading.Event()
    for _ in range(SETTLE_WAITS_MAX):
        pause.wait(SETTLE_S)
        before, found = found, system.bytes_on_disk()
        if found == before:
            break
    return found
