"""What processes cost, from /proc: CPU seconds, memory that is theirs, open files. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Stat(NamedTuple):
    """What /proc/PID/stat says: the parent, and CPU time of the process with its threads, user and system, in s."""

    pid: int
    parent: int
    cpu_s: float


class Memory(NamedTuple):
    """Memory of processes, in bytes. pss: shared pages divided among their users. uss: pages nobody else has."""

    pss: int
    uss: int


def parse_stat(text: str) -> Stat:
    """Reads a line of /proc/PID/stat; the name in parentheses may hold anything, parentheses and spaces too."""
    pid, _, rest = text.partition(" ")
    fields = rest[rest.rindex(")") + 1 :].split()
    return Stat(int(pid), int(fields[1]), (int(fields[11]) + int(fields[12])) / _TICKS_PER_S)


def parse_rollup(text: str) -> Memory:
    """Reads /proc/PID/smaps_rollup."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:] if line.endswith("kB")}
    return Memory(kib["Pss"] * 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024)


def stats() -> dict[int, Stat]:
    """Every process that can be seen now."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended since the listing
            found[stat.pid] = stat
    return found


def descendants(root: int) -> list[int]:
    """The process and all that descend from it now."""
    children: dict[int, list[int]] = {}
    for stat in stats().values():
        children.setdefault(stat.parent, []).append(stat.pid)
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
    """Memory of these processes together."""
    pss = uss = 0
    for pid in pids:
        one = parse_rollup((PROC / str(pid) / "smaps_rollup").read_text())
        pss += one.pss
        uss += one.uss
    return Memory(pss, uss)


def open_files(pids: Iterable[int]) -> int:
    """File descriptors these processes have open."""
    return sum(len(list((PROC / str(pid) / "fd").iterdir())) for pid in pids)


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds these processes have used since they began; one that has ended counts as nothing."""
    now = stats()
    return sum(now[pid].cpu_s for pid in pids if pid in now)


class CpuMeter:
    """CPU seconds that groups of processes use between two moments."""

    def __init__(self, groups: dict[str, list[int]]) -> None:
        """Begins to count for these processes, by group."""
        self._groups = groups
        self._before = {name: cpu_s(pids) for name, pids in groups.items()}

    def used(self) -> dict[str, float]:
        """CPU seconds since the beginning, by group."""
        return {name: cpu_s(pids) - self._before[name] for name, pids in self._groups.items()}
