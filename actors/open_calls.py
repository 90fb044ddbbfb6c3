"""Calls that wait for a loop's answer: each is answered once, by number."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # the builtin one only from Python 3.11 on
from itertools import count
from typing import Any

from rayqueue.coordination.events import Call
from rayqueue.errors import BrokerNotAvailable, RayQueueError, RequestTimeout

CALLS_MAX = 1_024


class OpenCalls:
    """Safe for many threads."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: dict[int, Future[Any]] = {}

    def begin(self, request: Any) -> Call:
        """A call, to be given to the loop.

        Raises:
            BrokerNotAvailable: too many wait already.
        """
        if len(self._open) >= CALLS_MAX:
            raise BrokerNotAvailable(f"the coordinator works on {CALLS_MAX} requests already: try again")
        call = Call(next(self._numbers), request)
        self._open[call.call] = Future()
        return call

    def wait(self, call: Call, timeout_s: float) -> Any:
        """The answer, once it comes.

        Raises:
            RequestTimeout: it did not. RayQueueError: it is one.
        """
        future = self._open.get(call.call)
        if future is None:
            raise BrokerNotAvailable("the coordinator stops")
        try:
            return future.result(timeout_s)
        except FutureTimeoutError:
            raise RequestTimeout("the coordinator did not come to this request") from None
        finally:
            self._open.pop(call.call, None)

    def answer(self, call: int, answer: Any) -> None:
        """Answers a call; an error is raised where it waits."""
        future = self._open.get(call)
        if future is None or future.done():
            return  # whoever asked has given up
        if isinstance(answer, RayQueueError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def fail(self, error: RayQueueError) -> None:
        """Answers all of them with an error."""
        for call in list(self._open):
            self.answer(call, error)
