"""A program that runs for the length of a block and ends with it, whatever ends the block.

Four things can end a run, and none may leave the program behind:
* the block ends, or raises: SIGTERM, some seconds, SIGKILL, by process id;
* Ctrl-C: the terminal sends SIGINT to its whole foreground process group. The program is in a session of its own, so
  it lives on until the block, unwound by KeyboardInterrupt, stops it: in order, its log closed;
* a second Ctrl-C while the block waits for the program to end: SIGKILL at once;
* this process is killed: the kernel then kills the program (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

STOP_WAIT_S = 15.0
TAIL_LINES = 2
TAIL_CHARACTERS = 400
TAIL_BYTES = 32768
_TRACE = ("at ", "... ")  # how lines of a Java stack trace begin
_ERROR = ("ERROR", "FATAL", "Caused by", "Exception", "OutOfMemory", "No space left")

# Between fork and exec no Python may run in a process with threads, and ours has Ray's. So the program is started by
# a small one that asks for the signal and then becomes it (exec keeps the setting, and the process id). The parent
# may have died before the request, which would then never fire: hence the look at the parent's id.
_BECOME = f"""
import ctypes, os, sys
parent, command = int(sys.argv[1]), sys.argv[2:]
PR_SET_PDEATHSIG = 1
if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, {int(signal.SIGKILL)}, 0, 0, 0) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
if os.getppid() != parent:
    sys.exit("the parent is gone")
os.execvp(command[0], command)
"""


class ChildProcess:
    """A running program whose output goes to a file.

    The thread that makes it must live as long as the program: the kernel counts the end of that thread as the
    parent's death.
    """

    def __init__(self, command: Sequence[str], log: Path, directory: Path | None = None) -> None:
        """Starts it; standard output and standard error are appended to `log`."""
        self._log = log
        become = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [*become, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """None while it runs; then its exit status, or minus the signal that ended it."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Waits for it to end by itself.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return self._process.wait(seconds)

    def stop(self) -> None:
        """SIGTERM, then, if it does not end in time or the wait is interrupted, SIGKILL. Harmless when it has ended."""
        if self._process.poll() is not None:
            return
        try:
            self._process.terminate()
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def kill(self) -> None:
        """SIGKILL, and waits for the end. Harmless when it has ended."""
        self._process.kill()
        self._process.wait()

    def tail(self) -> str:
        """The end of its output as one line: of the lines that tell of an error the last ones, if there are any.

        Java's stack traces are left out; "" when it has said nothing.
        """
        with self._log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith(_TRACE)]
        errors = [line for line in told if any(word in line for word in _ERROR)]
        return " / ".join((errors or told)[-TAIL_LINES:])[-TAIL_CHARACTERS:]

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
