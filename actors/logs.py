"""Where a process logs: standard `logging` under `rayqueue`, into a file of its own in `<data_dir>/logs/`."""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from rayqueue.actors.options import Logging

FORMAT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
FILE_BYTES_MAX = 10 * 1024 * 1024
FILES_KEPT = 3


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
        handler = logging.handlers.RotatingFileHandler(where.file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT)
    except OSError as error:
        root.warning("cannot log to %s: %s", where.file, error)
        return
    handler.setFormatter(logging.Formatter(FORMAT))
    root.addHandler(handler)
    root.propagate = False
