"""`python -m benchmarks`."""

import os
import signal
import sys

# Importing takes a second or two, in which nothing has been started yet: a signal just ends it, without a traceback.
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: os._exit(130))

# While Ray starts it answers SIGTERM itself, by half a minute of draining that nobody needs here.
os.environ.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")

from benchmarks.cli import main  # noqa: E402

sys.exit(main())
