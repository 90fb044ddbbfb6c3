"""The watch over a broker by the processes beside it: its first replica actor, and those that stand by.

A broker ends replica actors that hang (`process_watch`). Who ends a broker that hangs? The active coordinator notices
its silence, but is on another node, and must not wait for Ray. The replica actors are beside it, in processes of their
own, and one of those waits for work.

A partition between broker and coordinator does not look like a hang here: what is asked stays on the node.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from rayqueue.actors import hang_watch
from rayqueue.actors.hang_watch import HangWatch
from rayqueue.actors.identity import kept_port
from rayqueue.actors.options import BrokerOptions, local_host
from rayqueue.client.connection import Channel
from rayqueue.protocol.messages import MetadataRequest, MetadataResponse

log = logging.getLogger(__name__)

# Nothing that is urgent waits for a broker.
STOPPED_AFTER = 3
# What clients ask, so that a broker whose image of the cluster is locked for ever does not pass for one that serves.
_QUESTION = MetadataRequest(topics=[])


class BrokerWatch:
    """See the module; one thread.

    Args:
        options: the broker's.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._channel: Channel | None = None
        lock = Path(options.directory) / "lock"
        self.watch = HangWatch(f"broker {options.broker_id}", lock, self._ask, STOPPED_AFTER)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-broker", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; the broker goes on. `join` waits for it."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.wait(hang_watch.LOOK_S):
            try:
                self.watch.look()
            except Exception:  # of any kind: without this thread nobody would look after it
                log.exception("the watch over broker %d failed", self._options.broker_id)
        if self._channel is not None:
            self._channel.close()

    def _ask(self) -> MetadataResponse:
        return self._connected().call("metadata", _QUESTION, MetadataResponse, hang_watch.LOOK_S)

    def _connected(self) -> Channel:
        """A channel to where the broker listens now, on this node: no network that is cut off lies between."""
        port = kept_port(Path(self._options.directory) / "ports" / "broker")
        if self._channel is None or self._channel.port != port:
            if self._channel is not None:
                self._channel.close()
            self._channel = Channel(local_host(self._options.listen_host), port, self._options.token, hang_watch.LOOK_S)
        return self._channel
