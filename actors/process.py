"""What an actor's process does to itself when it is all ours: it serves many threads and must not stutter."""

from __future__ import annotations

import gc
import logging
import os
import resource
import sys

log = logging.getLogger(__name__)

# A thread that computes lets others run after this long; CPython's 5 ms would be the p99 of every hop.
SWITCH_INTERVAL_S = 0.0005
# Objects that live as long as the process are many; looking at them again and again is what makes collections long.
GC_THRESHOLDS = (50_000, 20, 50)


def prepare_process() -> None:
    """Tunes interpreter and scheduling; called once, at the start of an actor's process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    _raise_priority()
    _raise_file_limit()


def _raise_file_limit() -> None:
    """As many open files as we may have: two a segment that is written, one a client. The soft limit is often 1,024,
    for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # macOS has a lower bound of its own
        log.warning("at most %d files can be open: %s", soft, error)


def _raise_priority() -> None:
    """Ray starts workers at nice 15, meant for computing tasks; a server would wait behind every one of them.

    On Linux a priority is a thread's, inherited by the threads it starts: those that are there already are raised too.
    """
    try:
        tasks = os.listdir("/proc/self/task")
    except OSError:
        tasks = ["0"]  # not Linux: 0 is the process
    for task in tasks:
        try:
            os.setpriority(os.PRIO_PROCESS, int(task), 0)
        except ProcessLookupError:
            continue  # it has ended since
        except (PermissionError, AttributeError) as error:
            log.debug("the process stays at its priority: %s", error)
            return
