"""The watch over a broker by the processes beside it: its first replica actor, and those that stand by.

A broker ends replica actors that hang (`process_watch`), and Ray restarts a process that has ended. Who ends a broker
that hangs? The active coordinator notices its silence, but is on another node, and must not wait for Ray. The replica
actors are beside it, in processes of their own, and one of those waits for work.

A partition between broker and coordinator does not look like a hang here: what is asked stays on the node.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from rayqueue.actors.identity import kept_port
from rayqueue.actors.lock_holder import Holder, holder_of, is_stopped, kill
from rayqueue.actors.options import BrokerOptions
from rayqueue.client.connection import Channel
from rayqueue.errors import RayQueueError, RequestTimeout
from rayqueue.protocol.messages import MetadataRequest, MetadataResponse

log = logging.getLogger(__name__)

LOOK_S = 1.0  # between two questions, and for an answer to come
# Questions in a row without an answer. One that runs may be starved, or take in a long metadata log; nothing that is
# urgent waits for a broker.
STOPPED_AFTER = 3
HANGS_AFTER = 10

# What clients ask, so that a broker whose image of the cluster is locked for ever does not pass for one that serves.
_QUESTION = MetadataRequest(topics=[])


class BrokerWatch:
    """See the module; one thread.

    Args:
        options: the broker's.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._lock = Path(options.directory) / "lock"
        self._channel: Channel | None = None
        self._missed = 0  # questions in a row that this process has not answered
        self._holder: Holder | None = None
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
        while not self._stopping.wait(LOOK_S):
            try:
                self._look()
            except Exception:  # of any kind: without this thread nobody would look after it
                log.exception("the watch over broker %d failed", self._options.broker_id)
        if self._channel is not None:
            self._channel.close()

    def _look(self) -> None:
        reached, answered = self._ask()
        if answered:
            self._missed = 0
            return
        holder = holder_of(self._lock)
        if holder is None or holder != self._holder:  # nobody, or another one, which has just started
            self._holder, self._missed = holder, 0
        if holder is None:
            return
        stopped = is_stopped(holder)
        # One that nobody reaches has yet to listen; unless it was stopped before.
        self._missed = self._missed + 1 if reached or stopped else 0
        if self._missed < (STOPPED_AFTER if stopped else HANGS_AFTER):
            return
        log.error(
            "broker %d, process %d, has left %d questions unanswered: it is ended",
            self._options.broker_id,
            holder.pid,
            self._missed,
        )
        kill(holder)

    def _ask(self) -> tuple[bool, bool]:
        """Whether a connection could be had, and whether an answer came: any will do."""
        try:
            self._connected().call("metadata", _QUESTION, MetadataResponse, LOOK_S)
        except RequestTimeout:
            return True, False
        except RayQueueError as error:
            log.debug("broker %d: %s", self._options.broker_id, error)
            return False, False
        return True, True

    def _connected(self) -> Channel:
        """A channel to where the broker listens now, on this node: no network that is cut off lies between."""
        port = kept_port(Path(self._options.directory) / "ports" / "broker")
        if self._channel is None or self._channel.port != port:
            if self._channel is not None:
                self._channel.close()
            listen = self._options.listen_host
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen)
            self._channel = Channel(host, port, self._options.token, LOOK_S)
        return self._channel
