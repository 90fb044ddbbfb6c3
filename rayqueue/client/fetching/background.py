"""Questions that take a round trip, asked in the background so that `poll` keeps to its timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.fetching.inbox import Inbox, MetadataCame, OffsetsCame
from rayqueue.client.streams import LookUp, Refresh
from rayqueue.errors import BrokerNotAvailable, RayQueueError
from rayqueue.protocol.messages import ListOffsetsRequest, ListOffsetsResponse


def ask_metadata(client: ClusterClient, refresh: Refresh, inbox: Inbox) -> None:
    """Asks for metadata; `MetadataCame` follows."""

    def run() -> None:
        try:
            inbox.put(MetadataCame(refresh.topics, client.refresh(refresh.topics, refresh.min_index)))
        except RayQueueError as error:
            inbox.put(MetadataCame(refresh.topics, error))

    in_background(run, "metadata", lambda error: inbox.put(MetadataCame(refresh.topics, error)))


def ask_offsets(client: ClusterClient, lookup: LookUp, inbox: Inbox, timeout_s: float) -> None:
    """Asks a leader for offsets; `OffsetsCame` follows."""

    def run() -> None:
        try:
            channel = client.data_channel(lookup.endpoint.host, lookup.endpoint.port)
            request = ListOffsetsRequest(lookup.queries)
            inbox.put(OffsetsCame(lookup.number, channel.call("list_offsets", request, ListOffsetsResponse, timeout_s)))
        except RayQueueError as error:
            inbox.put(OffsetsCame(lookup.number, error))

    in_background(run, "offsets", lambda error: inbox.put(OffsetsCame(lookup.number, error)))


def in_background(run: Callable[[], None], what: str, failed: Callable[[RayQueueError], None]) -> None:
    """Runs it on a thread of its own; `failed` is told where there can be none."""
    try:
        threading.Thread(target=run, name=f"rayqueue-{what}", daemon=True).start()
    except RuntimeError as error:  # too many threads: an answer like another, so that it is asked again
        failed(BrokerNotAvailable(f"no thread to ask for {what} can be started: {error}"))
