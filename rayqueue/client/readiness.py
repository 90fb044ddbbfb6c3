"""`fetch.min.bytes` and `fetch.max.wait.ms`, pure: hold records back until there are enough, but not for long."""

from __future__ import annotations


class Readiness:
    """Decides when what is buffered may be handed out.

    It opens when `min_bytes` are there, or `max_wait_ms` after the first of them came, and closes when all has been
    handed out.
    """

    __slots__ = ("_since_ms", "max_wait_ms", "min_bytes", "open")

    def __init__(self, min_bytes: int, max_wait_ms: int) -> None:
        self.min_bytes = min_bytes
        self.max_wait_ms = max_wait_ms
        self.open = min_bytes <= 1
        self._since_ms: int | None = None

    @property
    def passive(self) -> bool:
        """Whether anything at all is enough, so that nobody need ask."""
        return self.min_bytes <= 1

    def check(self, buffered: int, now_ms: int) -> bool:
        """Whether to hand out, with `buffered` bytes there at `now_ms`."""
        if self.passive:
            return True
        if buffered == 0:
            self.open = False
            self._since_ms = None
            return False
        if self._since_ms is None:
            self._since_ms = now_ms
        if not self.open:
            self.open = buffered >= self.min_bytes or now_ms - self._since_ms >= self.max_wait_ms
        return self.open

    def deadline_ms(self) -> int | None:
        """When what is held back is handed out at the latest; None: nothing is."""
        if self.open or self._since_ms is None:
            return None
        return self._since_ms + self.max_wait_ms
