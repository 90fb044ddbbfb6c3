"""A coordinator's registration: at every start it has the active one write down who and where it is."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from rayqueue.actors.coordinator_addresses import CoordinatorAddresses
from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import ClusterMismatch, RayQueueError
from rayqueue.protocol.messages import RegisterCoordinator, Registered

if TYPE_CHECKING:
    from rayqueue.actors.coordinator import Coordinator

log = logging.getLogger(__name__)

RETRY_S = 0.02
RETRY_MAX_S = 0.5
TIMEOUT_S = 3.0


class CoordinatorJoining:
    """A thread that registers, until what is committed names this process."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._changed = threading.Condition()
        self._registered = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="coordinator-joining", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def look(self, state: ClusterState) -> None:
        """In the loop: what is committed now."""
        mine = state.coordinators.get(self._coordinator.options.coordinator_id)
        with self._changed:
            self._registered = mine is not None and mine.incarnation == self._coordinator.incarnation
            self._changed.notify()

    def stop(self, timeout_s: float) -> None:
        """Registers no more."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        attempt = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or not self._registered)
                if self._stopping:
                    return
            request = self._coordinator.registration()
            if request is not None and self._register(request):
                attempt = 0
            else:
                attempt += 1
            with self._changed:  # what was taken has still to come by the log
                wait = min(RETRY_MAX_S, RETRY_S * 2 ** min(attempt, 8))
                self._changed.wait_for(lambda: self._stopping or self._registered, wait)

    def _register(self, request: RegisterCoordinator) -> bool:
        """Asks whichever coordinator is active; it may be this one."""
        coordinator = self._coordinator
        channel = CoordinatorChannel(CoordinatorAddresses(coordinator.known.values()), "", coordinator.token)
        try:
            channel.call("register_coordinator", request, Registered, TIMEOUT_S)
            return True
        except ClusterMismatch as error:
            # Another process has this number by now. This one goes on as what it is to the quorum, which does not ask
            # by number; it must not take the number back, or the two would take it from each other for ever.
            log.error("this coordinator registers no more: %s", error)
            with self._changed:
                self._stopping = True
            return False
        except RayQueueError as error:
            log.log(logging.DEBUG if error.retriable else logging.ERROR, "this coordinator cannot register: %s", error)
            return False
        finally:
            channel.close()
