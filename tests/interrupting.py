"""A signal at a place of the test's choosing: at the n-th moment at which Python would have run its handler."""

from __future__ import annotations

import dis
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any


class Interrupter:
    """Raises a signal once, in the code given, and only in the thread that enters `armed`, which is to be the main one.

    Python looks for signals when a call has returned and when a loop turns. Those are the moments counted, so every
    place found is one where a real signal can strike.

    Attributes:
        place: where it struck, as "function:line"; empty if it did not.
    """

    def __init__(self, codes: set[CodeType], moment: int, number: int = signal.SIGINT) -> None:
        self._codes = codes
        self._number = number
        self._left = moment
        self._checks: dict[CodeType, frozenset[int]] = {}
        self.place = ""

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Traces the block."""
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code not in self._codes or self.place:
            return None
        if frame.f_code not in self._checks:
            self._checks[frame.f_code] = _checked_after(frame.f_code)
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "opcode" and not self.place and frame.f_lasti in self._checks[frame.f_code]:
            self._left -= 1
            if not self._left:
                self.place = f"{frame.f_code.co_name}:{frame.f_lineno}"
                signal.raise_signal(self._number)
        return self._on_event


def _checked_after(code: CodeType) -> frozenset[int]:
    """Where the instructions stand before which signals are looked for: behind calls, and where loops begin again."""
    found = set()
    called = False
    for instruction in dis.get_instructions(code):
        if called:
            found.add(instruction.offset)
        called = instruction.opname.startswith("CALL")
        if (
            "JUMP" in instruction.opname
            and isinstance(instruction.argval, int)
            and instruction.argval < instruction.offset
        ):
            found.add(instruction.argval)
    return frozenset(found)


def codes_of(*owners: Any) -> set[CodeType]:
    """The code of functions, and of all functions of classes."""
    found = set()
    for owner in owners:
        members = vars(owner).values() if isinstance(owner, type) else [owner]
        found |= {member.__code__ for member in members if hasattr(member, "__code__")}
    return found
