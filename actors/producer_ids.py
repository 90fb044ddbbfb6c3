"""A broker's producer ids: the coordinator gives them in blocks, so most producers need not wait for it."""

from __future__ import annotations

import threading

from rayqueue.actors.coordinator_channel import CoordinatorChannel
from rayqueue.protocol.messages import AllocateProducerIds, InitProducerIdResponse, ProducerIdBlock

TIMEOUT_S = 10.0


class ProducerIds:
    """Ids that no other producer has."""

    def __init__(self, coordinator: CoordinatorChannel, broker_id: int) -> None:
        self._coordinator = coordinator
        self._broker_id = broker_id
        self._block = ProducerIdBlock(0, 0)
        self._lock = threading.Lock()

    def have_some(self) -> None:
        """Asks for a block, when none is left of the one before.

        Raises:
            RayQueueError: the coordinator gives none.
        """
        with self._lock:
            self._need()

    def next(self) -> InitProducerIdResponse:
        """A new id, with epoch 0. Raises as `have_some`."""
        with self._lock:
            self._need()
            first, count = self._block.first, self._block.count
            self._block = ProducerIdBlock(first + 1, count - 1)
            return InitProducerIdResponse(first, 0)

    def _need(self) -> None:
        if not self._block.count:
            request = AllocateProducerIds(self._broker_id)
            self._block = self._coordinator.call("allocate_producer_ids", request, ProducerIdBlock, TIMEOUT_S)
