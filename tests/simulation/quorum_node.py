"""A simulated broker's node with its copy of the metadata log: process, disk, clock, and the shell around the machine.

The shell is what the actors' shell will be: it performs effects in order and brings back events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from rayqueue.coordination.quorum import events as ev
from rayqueue.coordination.quorum.config import QuorumConfig
from rayqueue.coordination.quorum.machine import QuorumMachine
from rayqueue.coordination.quorum.messages import AnyMessage, Entry, Voter
from rayqueue.testing.simulation.clock import Clock
from rayqueue.testing.simulation.disk import Disk
from rayqueue.testing.simulation.network import Network
from rayqueue.testing.simulation.process import Process
from rayqueue.testing.simulation.scheduler import Scheduler
from rayqueue.testing.simulation.trace import Trace
from tests.simulation.quorum_checker import Checker
from tests.simulation.quorum_store import QuorumStore

Answer = ev.Committed | ev.Dropped | ev.ReadReady
MachineClass = Callable[[Voter, Any, QuorumConfig, Random, int], QuorumMachine]

TICK = ev.Tick()
_DISK = (ev.PersistVote, ev.Append, ev.Truncate, ev.SaveSnapshot, ev.InstallSnapshot, ev.Compact)


class Node:
    """One broker's node.

    Attributes:
        me: the copy it holds at present; a lost disk makes it another.
        answer: called with each Committed, Dropped and ReadReady.
    """

    def __init__(
        self,
        broker_id: int,
        scheduler: Scheduler,
        random: Random,
        network: Network,
        trace: Trace,
        checker: Checker,
        stores: dict[Voter, QuorumStore],
        config: QuorumConfig,
        machine_class: MachineClass,
        answer: Callable[[Answer], None],
    ) -> None:
        self.broker_id = broker_id
        self._scheduler, self._random, self._network = scheduler, random, network
        self._trace, self._checker, self._stores = trace, checker, stores
        self._config, self._machine_class, self.answer = config, machine_class, answer
        self.clock = Clock(scheduler, random.uniform(0.98, 1.02), random.randrange(10_000))
        self._directories = iter("abcdefghijklmnopqrstuvwxyz" * 4)
        self.applied = 0
        network.attach(broker_id, self._deliver)

    def format(self, entries: list[Entry]) -> None:
        """A new directory, with this log in it."""
        self.me = Voter(self.broker_id, next(self._directories))
        self.store = self._stores[self.me] = QuorumStore(entries)
        self._checker.wrote(tuple(entries))
        self.disk = Disk(self._scheduler, self._random, self.store, self._durable, self._disk_failed)

    def start(self) -> None:
        """A new process on what the disk holds."""
        self.applied = 0
        self.machine = self._machine_class(
            self.me, self.store.recovered(), self._config, self._random, self.clock.now_ms()
        )
        self.process = Process(self._scheduler, self.clock, self.machine, self._step, TICK, self._perform)
        if self._trace.on:
            self._trace.add(self.me, f"starts: epoch {self.machine.epoch}, log to {self.machine.log.end}")
        self.process.post(TICK)

    def kill(self, power_loss: bool) -> None:
        """SIGKILL, or the machine loses power, and with it what was not synced."""
        self.process.end()
        if power_loss:
            self.disk.crash()
        else:
            self.disk.kill()

    def lose_disk(self) -> None:
        """The directory is gone; the broker has a new and empty one."""
        self.kill(power_loss=True)
        self._checker.lost[self.me] = self._stores.pop(self.me)
        self.format([])

    @property
    def up(self) -> bool:
        """Whether its process runs."""
        return self.process.alive and not self.process.paused

    @property
    def active(self) -> bool:
        """Whether it takes itself for the active coordinator."""
        return self.process.alive and self.machine.is_active

    # --- the shell ----------------------------------------------------------------------------------------------------

    def _deliver(self, message: AnyMessage) -> None:
        if self._trace.on:
            self._trace.add(self.me, f"<- {describe(message)}")
        self.process.post(message)

    def _durable(self, number: int) -> None:
        self.process.post(ev.Persisted(number))

    def _disk_failed(self) -> None:
        self._trace.add(self.me, "a sync failed")
        self.process.post(ev.StorageFailed("a sync failed"))

    def _step(self, event: Any, now_ms: int) -> Sequence[ev.Effect]:
        machine = self.machine
        epoch, role = machine.epoch, machine.role
        effects = machine.step(event, now_ms)
        if machine.role is not role:
            if self._trace.on:
                self._trace.add(self.me, f"is {machine.role.name} of epoch {machine.epoch}")
            if machine.role.name == "leader":
                self._checker.elected(machine)
        self._checker.stepped(machine, epoch)
        return effects

    def _perform(self, effects: Sequence[ev.Effect]) -> None:
        wrote = False
        for effect in effects:
            kind = type(effect)
            if kind is ev.Send:
                message = effect.message
                self._checker.sends(self.machine, message)
                self._network.send(self.broker_id, message.to.broker_id, message)
            elif kind in _DISK:
                wrote = True
                if self._trace.on:
                    self._trace.add(self.me, f"writes {describe(effect)}")
                if kind is ev.Append:
                    self._checker.wrote(effect.entries)
                self.disk.write(effect.write, effect)
            else:
                self._tell(effect)
        if wrote:
            self.disk.sync()

    def _tell(self, effect: ev.Effect) -> None:
        if self._trace.on:
            self._trace.add(self.me, describe(effect))
        match effect:
            case ev.Apply(entries=entries):
                self._checker.applied(self.machine, entries, self.applied)
                self.applied = entries[-1].index
            case ev.Committed() | ev.Dropped():
                self.answer(effect)
            case ev.ReadReady():
                assert effect.index <= self.applied, "a read is told of what is not applied here"
                self.answer(effect)
            case ev.Restore(snapshot=snapshot):
                self._checker.restored(self.machine, snapshot)
                self.applied = snapshot.index
            case ev.TakeSnapshot(index=index):
                assert index == self.applied
                taken = ev.SnapshotTaken(index, self._checker.snapshot_of(index))
                self._scheduler.after(self._random.randrange(20_000), lambda: self.process.post(taken))
            case ev.BecomeActive(epoch=epoch):
                self._checker.active(self.machine, epoch)


def describe(what: Any) -> str:
    """A message or effect, without what everybody knows."""
    skipped = ("sender", "to", "write")
    parts = [f"{name}={_short(getattr(what, name))}" for name in what.__struct_fields__ if name not in skipped]
    if hasattr(what, "sender"):
        return f"{what.sender} {type(what).__name__} {' '.join(parts)}"
    return f"{type(what).__name__} {' '.join(parts)}"


def _short(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], Entry):
        return f"{value[0].index}@{value[0].epoch}..{value[-1].index}@{value[-1].epoch}"
    return str(value) if isinstance(value, Voter) else repr(value)
