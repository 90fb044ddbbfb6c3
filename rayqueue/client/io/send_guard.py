"""Frees a sender that hangs in a send: a server that is stopped (SIGSTOP) or cut off reads no more, without a word."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rayqueue.client.io.doorbell import Doorbell
from rayqueue.client.io.producer_links import ProduceLink


class SendGuard:
    """Watches one sender, from a thread that sleeps while nothing is sent.

    It looks a few times in a request timeout. Telling it of a send costs an assignment; only the first send after a
    quiet period wakes it.

    Args:
        timeout_s: a send that takes longer has its link closed, so that it raises.
        slow: called at each look that finds the same send again: it may be worth asking who leads now.
    """

    def __init__(self, timeout_s: float, slow: Callable[[ProduceLink], None]) -> None:
        self._timeout_s = timeout_s
        self._period_s = min(1.0, timeout_s / 4)
        self._slow = slow
        self._current: tuple[ProduceLink, float] | None = None
        self._bell = Doorbell()
        self._asleep = True
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="rayqueue-producer-guard", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def begin(self, link: ProduceLink) -> None:
        """A send on this link begins."""
        self._current = (link, time.monotonic())
        if self._asleep:
            self._asleep = False
            self._bell.ring()

    def end(self) -> None:
        """The send has ended."""
        self._current = None

    def release(self, link: ProduceLink) -> None:
        """Ends a send that hangs on this link, if there is one: its server leads nothing any more."""
        current = self._current
        if current is not None and current[0] is link:
            link.close()

    @property
    def hanging(self) -> ProduceLink | None:
        """The link that is being sent on."""
        current = self._current
        return current[0] if current is not None else None

    def stop(self) -> None:
        """Ends the thread."""
        self._stopped = True
        self._bell.ring()

    def _work(self) -> None:
        seen: tuple[ProduceLink, float] | None = None
        while not self._stopped:
            quiet = self._current is None and seen is None
            if quiet:
                self._asleep = True
                # A send that began before `_asleep` was set did not ring: look once more before sleeping for good.
                self._bell.wait(None if self._current is None else 0)
                self._asleep = False
            self._bell.wait(self._period_s)
            current = self._current
            if current is not None and current is seen:
                if time.monotonic() - current[1] >= self._timeout_s:
                    current[0].close()
                else:
                    self._slow(current[0])
            seen = current
