"""Asking the coordinator of a group: found, called over a connection that stays, and found again when it moved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from rayqueue.client.cluster_client import ClusterClient
from rayqueue.client.data_channel import Exchange
from rayqueue.errors import BrokerNotAvailable, ClusterMismatch, GroupCoordinatorNotAvailable, RayQueueError
from rayqueue.protocol import codec
from rayqueue.protocol.group_messages import FindGroupCoordinator, GroupCoordinatorAddress
from rayqueue.protocol.messages import PROTOCOL_VERSION, DataCall, Hello

T = TypeVar("T")

FIND_ACTION = "find_group_coordinator"
TRY_S = 5.0  # an answer that takes longer will not come: the coordinator hangs, or cannot write


def find_coordinator(client: ClusterClient, group_id: str, known: int, timeout_s: float) -> GroupCoordinatorAddress:
    """Asks the brokers who serves the group.

    Raises:
        GroupCoordinatorNotAvailable: nobody, for all of the time.
        RayQueueError: as `ClusterClient.call_broker`.
    """
    request = FindGroupCoordinator(group_id, known)
    return client.call_broker(FIND_ACTION, request, GroupCoordinatorAddress, timeout_s)


def hello_to(address: GroupCoordinatorAddress, kind: str, client_id: str) -> Hello:
    """Opens an exchange with the coordinator at this address, and no other process."""
    return Hello(PROTOCOL_VERSION, kind, "", address.broker_id, address.incarnation, client_id)


class CoordinatorCalls:
    """Actions of one group's coordinator. Safe for many threads; one question at a time.

    Args:
        known: the highest coordinator epoch that the member has heard of; older coordinators are not asked.
    """

    def __init__(self, client: ClusterClient, group_id: str, client_id: str, known: Callable[[], int]) -> None:
        self._client = client
        self._group_id = group_id
        self._client_id = client_id
        self._known = known
        self._lock = threading.Lock()
        self._exchange: Exchange | None = None
        self._epoch = -1  # of the coordinator at the other end
        self._unlucky = -1  # of the one with which it came to nothing last

    def call(self, action: str, request: object, reply: type[T], timeout_s: float) -> T:
        """One question; asked again, also of another coordinator, as long as that can help and there is time.

        Raises:
            GroupCoordinatorNotAvailable, BrokerNotAvailable, RequestTimeout: nobody has answered in time.
            RayQueueError: what the coordinator replied with.
        """
        body = codec.encode(DataCall(action, codec.encode(request)))
        return self._client.retry(lambda left: self._once(body, reply, min(left, TRY_S)), timeout_s)

    def _once(self, body: bytes, reply: type[T], left_s: float) -> T:
        with self._lock:
            try:
                exchange = self._connected(left_s)
                exchange.send(body)
                answer = exchange.receive_within(left_s)
            except BaseException:  # also Ctrl-C: the answer would be taken for the next question's
                self._unlucky = self._epoch
                self._hang_up()
                raise
            try:
                return codec.decode_reply(answer, reply)
            except RayQueueError as error:
                if error.retriable:
                    self._unlucky = self._epoch
                    self._hang_up()
                raise

    def _connected(self, left_s: float) -> Exchange:
        if self._exchange is not None and self._epoch < self._known():
            self._hang_up()
        if self._exchange is None:
            address = find_coordinator(self._client, self._group_id, self._unlucky, left_s)
            if address.leader_epoch < self._known():
                raise GroupCoordinatorNotAvailable(
                    f"broker {address.broker_id} is named as the coordinator of group {self._group_id!r} under epoch "
                    f"{address.leader_epoch}, and of epoch {self._known()} has been heard"
                )
            channel = self._client.data_channel(address.host, address.port)
            try:
                self._exchange = channel.exchange(hello_to(address, "call", self._client_id), left_s)
            except ClusterMismatch as error:  # it was started anew, and the broker's news are older
                raise BrokerNotAvailable(str(error)) from error
            self._epoch = address.leader_epoch
        return self._exchange

    def _hang_up(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.close()

    def close(self) -> None:
        """Gives the connection back."""
        with self._lock:
            self._hang_up()
