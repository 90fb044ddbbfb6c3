"""The process of a replica actor: takes a slot of its broker, or stands by until one is free, and serves it.

Whose slot it is says the lock of the slot's directory, which goes with the process that holds it, however that ends. A
broker runs more processes than it has slots: those that find all locks held stand by, with everything loaded, and
take the next lock that comes free within milliseconds. To start a process anew takes Ray a second. The process that
Ray starts in place of the dead one finds its slot taken, and stands by in turn.

Some of them watch their broker besides (`hang_watch`).
"""

from __future__ import annotations

import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from rayqueue.actors.driver import die
from rayqueue.actors.hang_watch import BROKER_STOPPED_AFTER, HangWatch
from rayqueue.actors.identity import DirectoryLock, replica_lock
from rayqueue.actors.lock_holder import holder_of
from rayqueue.actors.logs import write_logs
from rayqueue.actors.options import BrokerOptions, ProcessReport
from rayqueue.actors.partition_replica import PartitionReplica
from rayqueue.actors.process import prepare_process
from rayqueue.actors.progress import Progress
from rayqueue.errors import StorageError

log = logging.getLogger(__name__)

# How often locks are looked at whose holders cannot be watched: on another host, or not yet named in the lock.
LOOK_S = 0.5
# A process that has ended and is not reaped can be watched, and ends at once: locks are not looked at more often.
LOOK_AGAIN_S = 0.02
DISK_RETRY_S = 1.0


class PartitionReplicaProcess:
    """What Ray runs. A plain class: Ray is applied in `actors.handles`.

    Args:
        options: its broker's.
        place: the slot it takes if that is free; from `pool_size` on: none in particular.
        on_failure: called when this process must not go on.
    """

    def __init__(self, options: BrokerOptions, place: int, on_failure: Callable[[BaseException], None] = die) -> None:
        write_logs(options.logging)
        if options.logging.file:  # the process is all ours
            prepare_process()
        self._options = options
        self._place = place
        self._on_failure = on_failure
        self._progress = Progress()
        self._replica: PartitionReplica | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # over `_replica`, against a slot that is taken while `stop` runs
        # The first one, and those that are more than the slots: two by default, of which one may hang with the broker.
        broker = [Path(options.directory) / "lock"] if place == 0 or place >= options.pool_size else []
        self._watch = HangWatch(lambda: broker, BROKER_STOPPED_AFTER)
        if broker:
            self._watch.start()
        threading.Thread(target=self._run, name="replica-slot", daemon=True).start()

    def __repr__(self) -> str:
        return f"PartitionReplicaProcess(broker {self._options.broker_id}, place {self._place}, {self._replica})"

    def _run(self) -> None:
        try:
            taken = self._take_slot()
            if taken is not None:
                self._serve(*taken)
        except BaseException as error:
            self._on_failure(error)

    def _serve(self, slot: int, lock: DirectoryLock) -> None:
        with self._lock:
            if self._stopping.is_set():
                lock.release()
                return
            if slot != self._place:
                log.info("takes over slot %d", slot)
            self._replica = PartitionReplica(self._options, slot, self._on_failure, lock)

    def _take_slot(self) -> tuple[int, DirectoryLock] | None:
        """The slot that is ours now, with its lock; None when `stop` came first."""
        options = self._options
        root = Path(options.directory)
        locks = {slot: DirectoryLock(replica_lock(root, slot)) for slot in range(options.pool_size)}
        if self._place in locks:  # first; another one only when somebody has it
            locks = {self._place: locks[self._place], **locks}
        while not self._stopping.is_set():
            try:
                for slot, lock in locks.items():
                    if lock.try_acquire():
                        return slot, lock
            except StorageError as error:  # a full disk, a lost mount: `status` says so until it passes
                self._progress.failed(error)
                self._stopping.wait(DISK_RETRY_S)
                continue
            first = locks.get(self._place, locks[0])
            self._progress.standing_by(f"{first.path.parent} is in use by {first.holder()}")
            self._wait_for_end([holder.pid for lock in locks.values() if (holder := holder_of(lock.path)) is not None])
        return None

    def _wait_for_end(self, pids: Iterable[int]) -> None:
        """Until one of these processes ends, `LOOK_S` at most: a lock may change hands otherwise."""
        if self._stopping.wait(LOOK_AGAIN_S):
            return
        watched: list[int] = []
        poll = select.poll()
        try:
            for pid in pids:
                try:
                    watched.append(os.pidfd_open(pid))
                except (OSError, AttributeError):  # it has just ended, or this system has no such thing
                    continue
                poll.register(watched[-1], select.POLLIN)
            if watched:
                poll.poll(LOOK_S * 1000)
            else:
                self._stopping.wait(LOOK_S / 5)
        finally:
            for descriptor in watched:
                os.close(descriptor)

    def stop(self) -> None:
        """Stops serving, closes every log cleanly, and lets go of the directory; or takes no slot any more."""
        self._stopping.set()
        self._watch.stop()
        with self._lock:
            replica = self._replica
        if replica is not None:
            replica.stop()

    def report(self) -> ProcessReport:
        """What this process is and how it does; never waits."""
        replica = self._replica
        if replica is not None:
            return replica.report()
        options = self._options
        return self._progress.report(
            "replica",
            "",
            (options.advertised_host, 0),
            node_id=options.node_id,
            directory=options.directory,
            log_file=options.logging.file,
        )
