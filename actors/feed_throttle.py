"""How fast this process feeds replicas that a reassignment is adding: what replicates as usual is not slowed by them.

One token bucket for all of them. A stream that finds it empty leaves word, and is called when there is room again; the
thread that calls runs only while somebody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from rayqueue.actors.driver import boot_ms
from rayqueue.coordination.state import ClusterState
from rayqueue.replication.token_bucket import TokenBucket

Key = tuple[bytes, int]


class FeedThrottle:
    """See the module. Any thread may call.

    Invariant: while somebody waits a thread is there that will call.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._bytes_per_s = 0
        self._bucket: TokenBucket | None = None  # None: no limit
        self._added: dict[Key, frozenset[int]] = {}  # brokers whose replica is being added and is not in sync yet
        self._waiting: dict[Hashable, Callable[[], None]] = {}
        self._caller: threading.Thread | None = None
        self._closed = False

    def follow(self, state: ClusterState) -> None:
        """Takes what the metadata log says now."""
        added = {}
        for topic_id, number in state.reassigning:
            partition = state.topics_by_id[topic_id].partitions[number]
            added[topic_id, number] = frozenset(partition.adding) - frozenset(partition.isr)
        with self._changed:
            same = (self._bytes_per_s, self._added) == (state.reassignment_throttle, added)
            if same:
                return
            if self._bytes_per_s != state.reassignment_throttle:
                self._bytes_per_s = state.reassignment_throttle
                self._bucket = TokenBucket(self._bytes_per_s, boot_ms()) if self._bytes_per_s else None
            self._added = added
            woken = self._take_waiting()
        for wake in woken:  # who waits may not have to any more
            wake()

    def allowance(self, key: Key, broker_id: int) -> int | None:
        """Bytes of this partition that may go to that broker now; None: as many as you like."""
        if self._bucket is None:  # without the lock: every push asks, and nearly always there is no throttle
            return None
        with self._changed:
            if self._bucket is None or broker_id not in self._added.get(key, ()):
                return None
            return self._bucket.available(boot_ms())

    def spend(self, size: int) -> None:
        """So many bytes have gone to a replica that is being added."""
        with self._changed:
            if self._bucket is not None:
                self._bucket.take(size, boot_ms())

    def wait(self, who: Hashable, wake: Callable[[], None]) -> None:
        """Has `wake` called, once, when there is an allowance again, or no limit."""
        with self._changed:
            if self._closed:
                return
            self._waiting[who] = wake
            if self._caller is None:
                self._caller = threading.Thread(target=self._call, name="feed-throttle", daemon=True)
                self._caller.start()
            self._changed.notify()

    def close(self) -> None:
        """Calls nobody any more."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()

    def _take_waiting(self) -> list[Callable[[], None]]:
        woken = list(self._waiting.values())
        self._waiting.clear()
        return woken

    def _call(self) -> None:
        while True:
            with self._changed:
                while self._waiting and self._bucket is not None and (left_ms := self._left_ms(self._bucket)) > 0:
                    self._changed.wait(left_ms / 1000)
                woken = self._take_waiting()
                if not woken:
                    self._caller = None  # whoever waits next starts another
                    return
            for wake in woken:
                wake()

    @staticmethod
    def _left_ms(bucket: TokenBucket) -> int:
        now_ms = boot_ms()
        return bucket.ready_ms(now_ms) - now_ms
