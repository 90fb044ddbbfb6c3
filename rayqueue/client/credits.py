"""Credit of one fetch stream, pure: how many bytes the server may send before the reader has consumed some."""

from __future__ import annotations


class CreditWindow:
    """Bounds bytes sent ahead on one stream.

    Attributes:
        outstanding: bytes the server may still send. It falls below 0 when a batch larger than the rest was sent: a
            server with any credit left sends at least one batch, so that a batch larger than the window gets through.
        held: bytes received that still wait for the reader.
    """

    __slots__ = ("held", "outstanding")

    def __init__(self) -> None:
        self.outstanding = 0
        self.held = 0

    def received(self, size: int) -> None:
        """`size` bytes of payload came, wanted or not."""
        self.outstanding -= size

    def grant(self, limit: int) -> int:
        """The credit to give now so that bytes held and on their way stay within `limit`; 0 while it is little.

        Little is under a quarter of the window: each grant is a message. The rest follows as more is consumed, and
        the reader cannot starve, because then nothing is held and the server has what it was granted.
        """
        free = limit - self.held - self.outstanding
        if free <= 0 or free * 4 < limit:
            return 0
        self.outstanding += free
        return free
