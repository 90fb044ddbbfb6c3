"""A token bucket: how many bytes may go now when there is a rate to keep to. Deterministic: time is handed in."""

from __future__ import annotations

# The bucket holds what the rate gives in this time: after a silence no more than that goes at once.
BURST_MS = 200
# Who found it empty tries again when it holds what the rate gives in this time: not for every byte.
REFILL_MS = 20


class TokenBucket:
    """See the module.

    Whoever finds a token may take more than there are, as a batch goes whole: the bucket is below zero then, and pays
    that off first. So in any time no more goes than the rate gives, but for one burst and one batch.

    Invariant: tokens (in thousandths of a byte, so that nothing is lost to rounding) <= what BURST_MS give.
    """

    def __init__(self, bytes_per_s: int, now_ms: int) -> None:
        """bytes_per_s: at least 1. It begins full."""
        assert bytes_per_s >= 1
        self._rate = bytes_per_s  # thousandths of a byte each ms
        self._tokens = self._rate * BURST_MS
        self._filled_ms = now_ms

    def available(self, now_ms: int) -> int:
        """Bytes that may go now; at least one may be taken where it is above zero."""
        elapsed_ms = max(0, now_ms - self._filled_ms)
        self._filled_ms = max(now_ms, self._filled_ms)
        self._tokens = min(self._tokens + elapsed_ms * self._rate, self._rate * BURST_MS)
        return -(-self._tokens // 1000) if self._tokens > 0 else 0

    def take(self, size: int, now_ms: int) -> None:
        """So many bytes have gone."""
        self.available(now_ms)
        self._tokens -= size * 1000

    def ready_ms(self, now_ms: int) -> int:
        """When to come again after there was nothing."""
        self.available(now_ms)
        missing = max(0, self._rate * REFILL_MS - self._tokens)
        return self._filled_ms + -(-missing // self._rate)
