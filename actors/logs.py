"""Where a process logs: standard `logging` under `rayqueue`, into a file of its own in `<data_dir>/logs/`.

A crash (a segmentation fault, an abort) writes the stacks of all threads there too.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from rayqueue.actors.options import Logging

FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
FILE_BYTES_MAX = 10 * 1024 * 1024
FILES_KEPT = 3


class _LogFile(logging.handlers.RotatingFileHandler):
    """The log file; the newest one also gets the stacks of a crash."""

    _crashes: TextIO | None = None

    def _open(self) -> TextIOWrapper:
        """At the start and after each rotation."""
        stream = super()._open()
        # Through a descriptor of its own that is closed only when the next one is in use: the handler closes its own
        # before it rotates, and a crash in between would write into whatever file got that number then.
        before, self._crashes = self._crashes, open(self.baseFilename, "a")  # noqa: SIM115 - open as long as the process
        faulthandler.enable(self._crashes)
        if before is not None:
            before.close()
        return stream


def write_logs(where: Logging) -> None:
    """Lets this process log into its file; nothing changes where there is none (a test within one process).

    A file that cannot be written must not keep the process from starting: then Ray's own log files get the lines.
    """
    if not where.file:
        return
    root = logging.getLogger("rayqueue")
    level = logging.getLevelName(where.level.upper())
    root.setLevel(level if isinstance(level, int) else logging.INFO)
    try:
        Path(where.file).parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(where.file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT)
    except OSError as error:
        root.warning("cannot log to %s: %s", where.file, error)
        return
    handler.setFormatter(logging.Formatter(FORMAT))
    root.addHandler(handler)
    root.propagate = False
    root.info("process %d starts", os.getpid())  # the only trace that one which was killed leaves here
