"""The producer's thread for what must not hold up sending: asking for metadata and for producer ids."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.errors import RayQueueError
from rayqueue.protocol.messages import Empty, InitProducerIdResponse, MetadataResponse

log = logging.getLogger("rayqueue.producer")

# Without a request for so long, the next one is a first one again.
_CALM_S = 1.0


class Upkeep:
    """Runs requests in the background, one at a time, with backoff between repeated ones.

    Args:
        cluster: whom to ask.
        on_metadata: takes the topics that were asked for, and the answer, or None when nobody answered.
        on_producer_id: takes a new producer id.
    """

    def __init__(
        self,
        cluster: ClusterClient,
        on_metadata: Callable[[list[str], MetadataResponse | None], None],
        on_producer_id: Callable[[InitProducerIdResponse], None],
    ) -> None:
        self._cluster = cluster
        self._on_metadata = on_metadata
        self._on_producer_id = on_producer_id
        self._changed = threading.Condition()
        self._topics: dict[str, None] = {}
        self._producer_id = False
        self._stopped = False
        self._attempt = 0
        self._last = 0.0
        self._index = -1
        self._thread: threading.Thread | None = None

    def refresh(self, topic: str) -> None:
        """Asks for a topic's metadata, soon."""
        self._ask(lambda: self._topics.setdefault(topic))

    def renew_producer_id(self) -> None:
        """Asks for a producer id, soon."""
        self._ask(lambda: setattr(self, "_producer_id", True))

    def _ask(self, note: Callable[[], None]) -> None:
        with self._changed:
            note()
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._work, name="rayqueue-producer-metadata", daemon=True)
                self._thread.start()
            self._changed.notify()

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread, unless it is the caller or was never started."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while self._wait():
            with self._changed:
                topics, self._topics = list(self._topics), {}
                producer_id, self._producer_id = self._producer_id, False
            if topics:
                self._on_metadata(topics, self._metadata(topics))
            if producer_id:
                self._fetch_producer_id()

    def _wait(self) -> bool:
        """Until there is something to do and the backoff has passed; False: stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._topics or self._producer_id)
            self._attempt = 0 if time.monotonic() - self._last > _CALM_S else self._attempt + 1
            pause = self._cluster.backoff(self._attempt - 1) if self._attempt else 0.0
            due = self._last + pause
            self._changed.wait_for(lambda: self._stopped, max(0.0, due - time.monotonic()))
            self._last = time.monotonic()
            return not self._stopped

    def _metadata(self, topics: list[str]) -> MetadataResponse | None:
        try:
            answer = self._cluster.refresh(topics, min_index=self._index)
        except RayQueueError as error:
            if not self._stopped:  # else the closed client says so
                log.warning("no metadata of %s: %s", ", ".join(topics), error)
            return None
        # A broker that is behind what we have seen (it was started again) may not know a topic yet.
        if answer.index < self._index:
            return None
        self._index = answer.index
        return answer

    def _fetch_producer_id(self) -> None:
        try:
            self._on_producer_id(self._cluster.call_broker("init_producer_id", Empty(), InitProducerIdResponse))
        except RayQueueError as error:
            if not self._stopped:
                log.warning("no producer id: %s", error)
            with self._changed:
                self._producer_id = True
