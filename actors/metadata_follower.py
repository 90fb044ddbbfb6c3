"""Follows the active coordinator's metadata log into a `ClusterState`: what brokers and replica actors know.

The stream is a session (`watch_hub`): while it stands, and we beat, the coordinator counts us as there.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from rayqueue.actors.attending import Attending
from rayqueue.actors.beats import Beats
from rayqueue.actors.coordinator_addresses import Address, CoordinatorAddresses
from rayqueue.actors.coordinator_channel import OPEN_TIMEOUT_S, open_exchange
from rayqueue.actors.driver import die
from rayqueue.client.data_channel import Exchange
from rayqueue.coordination.records import Record, decode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import CorruptRecord, RayQueueError, RequestTimeout
from rayqueue.protocol import codec
from rayqueue.protocol.messages import BEAT_INTERVAL_MS, SESSION_TIMEOUT_MS, MetadataBatch, WatchRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

AGAIN_S = 0.005
RETRY_S = 0.025
RETRY_MAX_S = 0.25  # a successor is found in this time
# One that did not answer is not waited for as long the next time, and then ever longer: another one may be active.
SUSPECT_TIMEOUT_S = 0.125

OnBatch = Callable[[ClusterState, list[Record], int, int], None]


class MetadataFollower:
    """One thread that keeps `state` up with the metadata log, for ever, across coordinators.

    Args:
        addresses: of the coordinators; told which one serves, and which do not.
        cluster_id, token: whose coordinator it has to be.
        watcher: our incarnation; while our stream is open the coordinator counts us as there.
        on_batch: called on the follower's thread, with the lock held, after each batch with (state, records of the
            batch, next index, coordinator epoch). Also once, maybe without records, at the start of every stream. The
            coordinator is told that we have acted on the log up to the index when it has returned. A RayQueueError
            from it ends the stream, and the next one begins with a call as said. When the log starts over (see
            `_start_over`) the state is a new object and the records begin with the first of the log.
        topic_defaults: topic settings of the cluster, for effective settings.
        on_failure: called when following fails for a reason that is none of the network's: a fault in the program.
        timeout_s: a coordinator that says nothing for so long is left.

    Attributes:
        state: as far as it is known. Other threads look at it through `read`.
        index: next index of the log.
        coordinator_epoch: of the newest coordinator heard of, -1 before.
    """

    def __init__(
        self,
        addresses: CoordinatorAddresses,
        cluster_id: str,
        token: str | None,
        watcher: str,
        on_batch: OnBatch,
        topic_defaults: Mapping[str, str] | None = None,
        on_failure: Callable[[BaseException], None] = die,
        timeout_s: float = SESSION_TIMEOUT_MS / 1000,
    ) -> None:
        self._on_failure = on_failure
        self._addresses = addresses
        self._cluster_id = cluster_id
        self._token = token
        self._timeout_s = timeout_s
        self._watcher = watcher
        self._on_batch = on_batch
        self._topic_defaults = dict(topic_defaults or {})
        self._changed = threading.Condition(threading.RLock())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metadata-follower", daemon=True)
        self._random = random.Random()
        self._beats = Beats(BEAT_INTERVAL_MS / 1000)
        self._attending = Attending(addresses, cluster_id, token, watcher, self._on_active)
        self._successor = threading.Event()  # somebody has become active: the next round is now
        self._suspects: dict[Address, float] = {}  # s to wait for those that did not answer
        self._exchange: Exchange | None = None
        self._at: Address | None = None  # who is followed
        self._heard = False
        self.state = ClusterState(self._topic_defaults)
        self.index = 0
        self.coordinator_epoch = -1

    def start(self) -> None:
        """Starts following."""
        self._beats.start()
        self._attending.look()
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Ends following, after what `on_batch` is at.

        Returns:
            Whether it has ended; not, when `on_batch` takes longer than `timeout_s`.
        """
        self._stop.set()
        self._successor.set()
        self._attending.stop()
        self._beats.stop()
        exchange = self._exchange
        if exchange is not None:
            exchange.abort()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def read(self, look: Callable[[ClusterState, int, int], T]) -> T:
        """`look(state, index, coordinator epoch)` while nothing changes them; it must be short."""
        with self._changed:
            return look(self.state, self.index, self.coordinator_epoch)

    def wait_for(self, index: int, timeout_s: float) -> bool:
        """Waits until the log has been followed up to `index`; False when it has not in that time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.index >= index, timeout_s)

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._follow_for_ever()
        except BaseException as error:
            self._on_failure(error)

    def _follow_for_ever(self) -> None:
        attempt = 0
        while not self._stop.is_set():
            served = any(self._follow(address) for address in self._addresses.candidates())
            attempt = 0 if served else attempt + 1
            # After a stream that served the next one at once: without one we count as gone.
            wait = min(RETRY_MAX_S, RETRY_S * 2 ** min(attempt, 10)) if attempt else AGAIN_S
            self._successor.wait(wait * self._random.uniform(0.8, 1.2))
            self._successor.clear()

    def _on_active(self, address: Address, epoch: int) -> None:
        """On a thread of `Attending`: this coordinator is active. Whoever was before is not, and may hang."""
        if epoch <= self.coordinator_epoch or address == self._at:
            return
        self._addresses.prefer(address)
        self._successor.set()
        exchange = self._exchange
        if exchange is not None:
            exchange.abort()

    def _follow(self, address: Address) -> bool:
        """Follows this coordinator's log until the stream ends; whether it served at all."""
        self._heard = False
        if self._stop.is_set():
            return False
        self._at = address
        try:
            timeout_s = self._suspects.get(address, OPEN_TIMEOUT_S)
            self._exchange = open_exchange(address, "watch", self._cluster_id, self._token, timeout_s)
            self._exchange.send(codec.encode(WatchRequest(self.index, self._watcher)))
            self._beats.begin(self._exchange)
            while not self._stop.is_set():
                batch = codec.decode(self._exchange.receive_within(self._timeout_s), MetadataBatch)
                self._take(batch)
                self._beats.applied(self.index)
                self._addresses.good(address)
                self._suspects.pop(address, None)
        except RayQueueError as error:
            log.debug("no metadata from %s:%d: %s", *address, error)
            if isinstance(error, RequestTimeout):
                self._suspects[address] = min(OPEN_TIMEOUT_S, 2 * self._suspects.get(address, SUSPECT_TIMEOUT_S))
            self._addresses.failed(address)
        finally:
            self._at = None
            self._beats.end()
            if self._exchange is not None:
                self._exchange.close()
                self._exchange = None
        return self._heard

    def _take(self, batch: MetadataBatch) -> None:
        if batch.coordinator_epoch < self.coordinator_epoch:
            raise CorruptRecord(f"a coordinator of epoch {batch.coordinator_epoch} is out of date, leaving it")
        first = not self._heard
        self._heard = True
        if not batch.records and not first and batch.index == self.index:
            return  # a keepalive
        records = [self._decode(data) for data in batch.records]
        with self._changed:
            if batch.index != self.index:
                self._start_over(batch)
            self.state.replay_all(records)
            self.index = batch.end
            self.coordinator_epoch = batch.coordinator_epoch
            self._addresses.learn((c.host, c.port) for c in self.state.coordinators.values())
            self._attending.look()
            self._changed.notify_all()
            self._on_batch(self.state, records, self.index, self.coordinator_epoch)

    def _decode(self, data: bytes) -> Record:
        try:
            return decode_record(data)
        except msgspec.DecodeError as error:
            raise CorruptRecord(
                f"a metadata record cannot be read, is the coordinator of another version? {error}"
            ) from error

    def _start_over(self, batch: MetadataBatch) -> None:
        """A snapshot, for what we should have next is kept no longer; or the coordinator's log is shorter than what we
        have followed, or of another cluster. Forget what we know."""
        if batch.index != 0:
            raise CorruptRecord(f"the coordinator sent index {batch.index} where {self.index} was due")
        if self.index > batch.end:
            log.error("the coordinator's log ends before index %d: following it anew from its start", self.index)
        self.state = ClusterState(self._topic_defaults)
        self.index = 0
