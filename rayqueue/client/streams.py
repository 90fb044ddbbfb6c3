"""State of the fetch streams, one a replica actor, and the effects the machine asks for. Pure."""

from __future__ import annotations

from typing import NamedTuple

from rayqueue.client.credits import CreditWindow
from rayqueue.client.cursor import Cursor
from rayqueue.protocol.messages import FetchPartition, FetchRequest, OffsetQuery

# A stream without news for so long may be that of a process that hangs, or of a node that is lost: the metadata tells
# whether another one leads by now. An idle one is asked about ever less often, until it is each SILENCE_MAX_MS.
SILENCE_MS = 1_000
SILENCE_MAX_MS = 32_000


class Endpoint(NamedTuple):
    """A process of a replica actor: where it listens, and who it must be."""

    host: str
    port: int
    broker_id: int
    incarnation: str


class Stream:
    """One exchange with a replica actor.

    Attributes:
        opened: the server has said welcome. local: it lies on this host, its segments can be mapped.
        cursors: by subscription id, everything whose data is still welcome (parked ones included).
        waiting: cursors to subscribe once it is open (ordered).
        add, remove: to be sent. window: its credit.
        heard_ms: when news came last; None: none since it was opened. patience_ms: how long after that it is asked
            whether the process still leads.
        asked_ms: since when a follower owes a sign of life, None: it does not. ask_ms: when to ask for the next.
    """

    __slots__ = (
        "add", "ask_ms", "asked_ms", "cursors", "endpoint", "heard_ms", "local", "opened", "patience_ms", "remove",
        "waiting", "window",
    )  # fmt: skip

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.opened = False
        self.local = False
        self.cursors: dict[int, Cursor] = {}
        self.waiting: dict[Cursor, None] = {}
        self.add: list[FetchPartition] = []
        self.remove: list[int] = []
        self.window = CreditWindow()
        self.heard_ms: int | None = None
        self.patience_ms = SILENCE_MS
        self.asked_ms: int | None = None
        self.ask_ms = 0

    def leave(self, cursor: Cursor) -> None:
        """Ends the cursor's subscription; what is still on its way is dropped when it comes."""
        assert cursor.subscription is not None
        del self.cursors[cursor.subscription]
        if not cursor.parked:
            self.remove.append(cursor.subscription)
        self.release(cursor)

    def release(self, cursor: Cursor) -> None:
        """Forgets the cursor, which keeps what it has buffered."""
        if not cursor.paused:
            self.window.held -= cursor.charged
        cursor.charged = 0
        cursor.subscription = None
        cursor.stream = None
        cursor.parked = cursor.following = False


class Open(NamedTuple):
    """Open an exchange; the answer is `on_opened` or `on_closed`."""

    endpoint: Endpoint


class Close(NamedTuple):
    """Close an exchange that nobody needs; it gives no further event."""

    endpoint: Endpoint


class Send(NamedTuple):
    """Send a request on an open exchange."""

    endpoint: Endpoint
    request: FetchRequest


class Refresh(NamedTuple):
    """Ask for metadata of these topics (None: all), not older than `min_index`; the answer is `on_metadata`."""

    topics: list[str] | None
    min_index: int


class LookUp(NamedTuple):
    """Ask the leader for offsets; the answer is `on_offsets` with the same number."""

    number: int
    endpoint: Endpoint
    queries: list[OffsetQuery]


class DropMapping(NamedTuple):
    """Forget the mapped segments of a cursor: they are no longer what it reads."""

    cursor: Cursor


class Warn(NamedTuple):
    """Tell the log."""

    text: str


Effect = Open | Close | Send | Refresh | LookUp | DropMapping | Warn
