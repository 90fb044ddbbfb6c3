"""A broker's watch over the coordinators on its node: one that hangs is ended, and Ray starts it again as a standby.

One that hangs does no harm, as another is active by then. But it votes, and while it hangs fewer others may go.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from pathlib import Path

from rayqueue.actors import hang_watch
from rayqueue.actors.coordinator_channel import open_exchange
from rayqueue.actors.hang_watch import HangWatch
from rayqueue.actors.identity import kept_port
from rayqueue.actors.options import BrokerOptions, local_host
from rayqueue.errors import RayQueueError, RequestTimeout
from rayqueue.protocol import codec
from rayqueue.protocol.messages import DataCall, MetadataRequest

log = logging.getLogger(__name__)

# It may be continued, and finds out by itself that it is not active any more; nothing waits for it.
STOPPED_AFTER = 10
# Answered by its loop: a standby refuses, which is an answer.
_QUESTION = codec.encode(DataCall("metadata", codec.encode(MetadataRequest(topics=[]))))


class CoordinatorWatch:
    """See the module; one thread.

    Args:
        options: the broker's, beside whose directory the coordinators' lie.
    """

    def __init__(self, options: BrokerOptions) -> None:
        self._options = options
        self._watches: dict[Path, HangWatch] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-coordinators", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; the coordinators go on. `join` waits for it."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.wait(hang_watch.LOOK_S):
            try:
                self._look()
            except Exception:  # of any kind: without this thread nobody would look after them
                log.exception("the watch over coordinators failed")

    def _look(self) -> None:
        for directory in Path(self._options.data_dir).glob("coordinator-*"):
            if directory not in self._watches:
                ask = partial(self._ask, directory)
                self._watches[directory] = HangWatch(directory.name, directory / "lock", ask, STOPPED_AFTER)
            self._watches[directory].look()

    def _ask(self, directory: Path) -> None:
        """
        Raises:
            RequestTimeout: it does not answer. RayQueueError: it cannot be reached.
        """
        address = local_host(self._options.listen_host), kept_port(directory / "ports" / "coordinator")
        exchange = open_exchange(address, "call", "", self._options.token, hang_watch.LOOK_S)
        try:
            exchange.send(_QUESTION)
            exchange.receive_within(hang_watch.LOOK_S)
        except RequestTimeout:
            raise
        except RayQueueError as error:
            log.debug("%s: %s", directory.name, error)  # it has ended, or says why it does not serve
        finally:
            exchange.close()
