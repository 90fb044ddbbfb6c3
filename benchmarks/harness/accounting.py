"""What processes cost, from /proc: CPU seconds, memory that is theirs, open files; and what files take. Linux only.

Processes of other machines, in a run on a Ray cluster, have ids that no process here can have; whoever knows them is
asked about them (`asking`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

PROC = Path("/proc")
# Linux gives no process a greater id (PID_MAX_LIMIT).
PIDS_HERE_BELOW = 1 << 22
CPUCLOCK_SCHED = 2
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What /proc/PID/stat says: the parent, and the CPU time, user and system, of the children that have ended and were
    waited for, in s.
    """

    pid: int
    parent: int
    children_s: float


class Memory(NamedTuple):
    """Memory of processes, in bytes. pss: shared pages divided among their users. uss: pages nobody else has."""

    pss: int
    uss: int


class Elsewhere(Protocol):
    """Knows about processes of other machines, by their ids; and asks the functions here about those that are not."""

    def cpu_s(self, pids: Iterable[int]) -> float: ...

    def memory(self, pids: Iterable[int]) -> Memory: ...

    def open_files(self, pids: Iterable[int]) -> int: ...


_elsewhere: list[Elsewhere] = []


@contextlib.contextmanager
def asking(elsewhere: Elsewhere) -> Iterator[None]:
    """For the length of the block, processes of other machines are asked about there."""
    _elsewhere.append(elsewhere)
    try:
        yield
    finally:
        _elsewhere.pop()


def _who_knows(pids: list[int]) -> Elsewhere | None:
    """Whom to ask about these processes; None: they are all of this machine."""
    return _elsewhere[-1] if _elsewhere and any(pid >= PIDS_HERE_BELOW for pid in pids) else None


def parse_stat(text: str) -> Stat:
    """Reads a line of /proc/PID/stat; the name in parentheses may hold anything, parentheses and spaces too."""
    pid, _, rest = text.partition(" ")
    fields = rest[rest.rindex(")") + 1 :].split()
    return Stat(int(pid), int(fields[1]), sum(map(int, fields[13:15])) / _TICKS_PER_S)


def parse_rollup(text: str) -> Memory:
    """Reads /proc/PID/smaps_rollup."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:] if line.endswith("kB")}
    return Memory(kib["Pss"] * 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024)


def stat(pid: int) -> Stat | None:
    """What can be seen of a process now; None when it has ended."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None


def stats() -> dict[int, Stat]:
    """Every process that can be seen now."""
    found = (stat(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit())
    return {one.pid: one for one in found if one is not None}


def descendants(root: int) -> list[int]:
    """The process and all that descend from it now."""
    children: dict[int, list[int]] = {}
    for one in stats().values():
        children.setdefault(one.parent, []).append(one.pid)
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def title(pid: int) -> str:
    """The command line of a process, as one string; "" when it has ended."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def memory(pids: Iterable[int]) -> Memory:
    """Memory of these processes together; one that has ended counts as nothing."""
    pids = list(pids)
    if (elsewhere := _who_knows(pids)) is not None:
        return elsewhere.memory(pids)
    pss = uss = 0
    for pid in pids:
        try:
            one = parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        pss += one.pss
        uss += one.uss
    return Memory(pss, uss)


def open_files(pids: Iterable[int]) -> int:
    """File descriptors these processes have open."""
    pids = list(pids)
    if (elsewhere := _who_knows(pids)) is not None:
        return elsewhere.open_files(pids)
    return sum(len(list((PROC / str(pid) / "fd").iterdir())) for pid in pids)


def bytes_on_disk(directory: Path) -> int:
    """Bytes that the files in this directory and below take on the disk; not those that were only set aside in name."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name), follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue  # deleted since the listing
    return total


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds these processes have used since they began, with those of their children that have ended and were
    waited for; one that has ended itself counts as nothing.
    """
    pids = list(pids)
    if (elsewhere := _who_knows(pids)) is not None:
        return elsewhere.cpu_s(pids)
    return sum(clock_s(pid) + found.children_s for pid in pids if (found := stat(pid)) is not None)


def clock_s(pid: int) -> float:
    """The CPU clock of a process, of all threads it has or had, in s: exact, where /proc counts in steps of 10 ms.

    The clock's number is made as clock_getcpuclockid(3) makes it.
    """
    try:
        return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED) / 1e9
    except OSError:
        return 0.0  # it has ended


class MachineMeter:
    """What the machine was doing between two looks: how idle it was, and what its host took away; proc_stat(5)."""

    def __init__(self) -> None:
        """Begins to look."""
        self._before = self._ticks()

    def look(self) -> tuple[float, float, float]:
        """Idle and stolen time since the last look, in % of all cores, and the load average of the last minute."""
        before, self._before = self._before, self._ticks()
        spent = [after - then for after, then in zip(self._before, before, strict=True)]
        whole = max(1, sum(spent))
        idle, steal = spent[3] + spent[4], spent[7]
        return round(100 * idle / whole, 1), round(100 * steal / whole, 1), os.getloadavg()[0]

    @staticmethod
    def _ticks() -> list[int]:
        """user, nice, system, idle, iowait, irq, softirq, steal"""
        return [int(ticks) for ticks in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]


class CpuMeter:
    """CPU seconds that groups of processes use between two moments."""

    def __init__(self, groups: dict[str, list[int]]) -> None:
        """Begins to count for these processes, by group."""
        self._groups = groups
        self._before = {name: cpu_s(pids) for name, pids in groups.items()}

    def used(self) -> dict[str, float]:
        """CPU seconds since the beginning, by group."""
        return {name: cpu_s(pids) - self._before[name] for name, pids in self._groups.items()}
