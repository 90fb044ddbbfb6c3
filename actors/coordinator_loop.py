"""What runs in a coordinator's loop: its copy of the metadata log, the image of what is committed, and, while this
coordinator is the active one, the machine that takes commands.

::

    Call ──▶ machine ── Append ──▶ quorum: Propose ──▶ ... a majority has it ... ──▶ Apply ──▶ image, watchers
                ▲                                                                     │
                └──────────────────────────── Committed ◀─────────────────────────────┘ ──▶ Publish, Reply

The machine dies when this coordinator steps down, with all that it had not committed; whoever is active next has made
another from the image. A standby keeps the image and nothing else, so it takes over without reading anything.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec

from rayqueue.actors.attendance import Attendance
from rayqueue.actors.quorum_node import QuorumNode, Told
from rayqueue.actors.quorum_tending import QuorumTending
from rayqueue.actors.topic_schemas import ArrowSchemas
from rayqueue.actors.watch_hub import WatchHub
from rayqueue.config.broker import BrokerConfig
from rayqueue.coordination.commands import Surroundings
from rayqueue.coordination.events import Append, Call, Committed, Effect, Event, Publish, Refuse, Reply, Tick, Warn
from rayqueue.coordination.image import MetadataImage
from rayqueue.coordination.machine import CoordinatorMachine
from rayqueue.coordination.quorum import events as qe
from rayqueue.coordination.quorum.messages import RECORDS, Entry
from rayqueue.coordination.records import decode_record, encode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import BrokerNotAvailable, NotController, RayQueueError, StorageError
from rayqueue.protocol.messages import MetadataRequest

log = logging.getLogger(__name__)

_commands: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(list[bytes])
_encode = msgspec.msgpack.Encoder().encode

OPEN_RETRY_MS = 1_000


class CoordinatorLoop:
    """See the module. Everything runs in the loop, but for `image`'s readers, who look between two turns.

    Args:
        config: the cluster's. address: where this coordinator listens.
        hub: to whom the committed log is published. attendance: who is heard, and told when this one becomes active.
        open_node: opens the copy of the log (`now_ms`, where its news go); None: there is none yet.
        answer: answers a call with a response or an error; fail: all that are open, with an error.
        applied: told the state whenever more is committed.
        standing: told what this coordinator is at present, in a word, or what keeps it from being anything.
    """

    def __init__(
        self,
        config: BrokerConfig,
        address: Callable[[], tuple[str, int]],
        hub: WatchHub,
        attendance: Attendance,
        open_node: Callable[[int, Callable[[Told], None]], QuorumNode | None],
        answer: Callable[[int, Any], None],
        fail: Callable[[RayQueueError], None],
        applied: Callable[[ClusterState], None],
        standing: Callable[[BaseException | str], None],
    ) -> None:
        self._config = config
        self._address = address
        self._hub = hub
        self._attendance = attendance
        self._open_node = open_node
        self._answer = answer
        self._fail = fail
        self._on_applied = applied
        self._standing = standing
        self._tending = QuorumTending()
        self._tokens = count(1)
        self._reads: dict[int, tuple[Callable[[], None], int]] = {}  # what answers a call, and its number
        self._changes: set[int] = set()
        self._lost: set[int] = set()  # proposals that were refused
        self._open_ms: int | None = 0  # when to look for the copy; None: not before `reopen`
        self._now_ms = self._wall_ms = 0
        self._stale = False  # the image has moved since `applied` was told
        self.node: QuorumNode | None = None
        self.image = MetadataImage(config.topic_defaults)
        self.machine: CoordinatorMachine | None = None

    # --- turns -------------------------------------------------------------------------------------------------------

    def handle(self, taken: Sequence[Any], now_ms: int, wall_ms: int) -> None:
        """A turn: takes events and does what is due."""
        self._now_ms, self._wall_ms = now_ms, wall_ms
        try:
            if self.node is None and self._open_ms is not None and now_ms >= self._open_ms:
                self.open(now_ms)
            for event in taken:
                self._take(event)
            self._tick()
            self._run()
        except StorageError as error:
            # What the disk holds is not known: nothing more is said of it until it has been read again. Whoever waits
            # gets the error; a change may have been made all the same.
            self._standing(error)
            self.close(error)
            self._open_ms = now_ms + OPEN_RETRY_MS

    def next_deadline_ms(self) -> int | None:
        """When `handle` is due, whatever else happens."""
        if self.node is None:
            return self._open_ms
        due = [self.node.next_deadline_ms()]
        if self.machine is not None:
            due += [self.machine.next_deadline_ms(), self._tending.due_ms]
        return min((one for one in due if one is not None), default=None)

    def open(self, now_ms: int) -> None:
        """Opens this coordinator's copy of the log, if there is one.

        Raises:
            StorageError: its disk failed, or what was promised is damaged or lost.
        """
        try:
            self.image = MetadataImage(self._config.topic_defaults)
            self._hub.start_from([], 0)
            self.node = self._open_node(now_ms, self._tell)
            self._open_ms = None
            if self.node is None:
                self._standing("empty")
            else:
                self._standing(BrokerNotAvailable(f"waits for a majority of {_voters(self.node)}"))
                self.node.run(now_ms)
        except StorageError:
            raise
        except RayQueueError as error:
            raise StorageError(str(error)) from error

    def reopen(self) -> None:
        """The next turn looks for the copy, which has just been made."""
        self._open_ms = 0

    def close(self, why: RayQueueError) -> None:
        """Lets go of the copy; open calls fail."""
        node, self.node = self.node, None
        self._retire(why)
        if node is not None:
            node.close()

    def _take(self, event: Any) -> None:
        if isinstance(event, Call):
            self._call(event)
        elif isinstance(event, tuple):  # from a watch stream, maybe one of another epoch
            epoch, news = event
            if self.machine is not None and self.machine.epoch == epoch:
                self._step(news)
        elif self.node is not None:
            self.node.post(event)

    def _call(self, call: Call) -> None:
        if self.machine is None or self.node is None:
            self._answer(call.call, self.refusal())
        elif isinstance(call.request, MetadataRequest):
            self._read(lambda: self._step(call), call.call)
        else:
            self._command(call)

    def _command(self, call: Call) -> None:
        """What changes something is answered once that is committed; what does not is an answer like any other read."""
        assert self.machine is not None
        effects = self.machine.step(call, self._now_ms, self._wall_ms)
        changes = any(isinstance(effect, Append) for effect in effects)
        for effect in effects:
            if not changes and isinstance(effect, Reply | Refuse) and effect.call == call.call:
                self._read(lambda effect=effect: self._perform(effect), call.call)  # type: ignore[misc]
            else:
                self._perform(effect)

    def _read(self, answer: Callable[[], None], call: int) -> None:
        """Has a call answered once a majority has been heard since: somebody else may have taken over without our
        knowing."""
        assert self.node is not None
        token = next(self._tokens)
        self._reads[token] = answer, call
        self.node.post(qe.Read(token))

    def refusal(self) -> RayQueueError:
        """Why this coordinator takes no commands."""
        if self.node is None:
            return BrokerNotAvailable("this coordinator holds no cluster yet: rayqueue.start() makes one; try again")
        leader = self.node.status.leader
        active = f"coordinator {leader.broker_id} is the active one" if leader else "no coordinator is active now"
        return NotController(f"this coordinator is a standby, {active}: ask that one")

    def _tick(self) -> None:
        machine, node = self.machine, self.node
        if machine is None or node is None:
            return
        deadline = machine.next_deadline_ms()
        if deadline is not None and deadline <= self._now_ms:
            self._step(Tick())
        change = self._tending.next_change(node.status, machine.state, self._now_ms)
        if change is not None:
            token = next(self._tokens)
            self._changes.add(token)
            log.info("the quorum of coordinators is to %s: %s", change[0].value, change[1])
            node.post(qe.ChangeMembership(token, *change))

    def _run(self) -> None:
        """Runs the quorum's machine, and ours on what it has committed, until both are done."""
        if self.node is None:
            return
        self.node.run(self._now_ms)
        while self.machine is not None and self.machine.committed < self.image.end:
            self._step(Committed(self.image.end))
            self.node.run(self._now_ms)
        if self._lost and self.machine is not None:
            # It counts records that will never be: it must not go on.
            raise RuntimeError("the quorum refused a proposal of the active coordinator")
        self._lost.clear()
        if self._stale:
            self._stale = False
            self._on_applied(self.image.state)

    # --- the machine -------------------------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        assert self.machine is not None
        for effect in self.machine.step(event, self._now_ms, self._wall_ms):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Append(records=records):
                assert self.node is not None
                payload = _encode([encode_record(record) for record in records])
                self.node.post(qe.Propose(next(self._tokens), payload))
            case Publish(end=end):
                self._hub.publish(end)
            case Reply(call=call, response=response):
                self._answer(call, response)
            case Refuse(call=call, error=error):
                self._answer(call, error)
            case Warn(message=message):
                log.error("%s", message)

    # --- the quorum's news -------------------------------------------------------------------------------------------

    def _tell(self, news: Told) -> None:
        match news:
            case qe.Apply(entries=entries):
                self._apply(entries)
            case qe.Restore(snapshot=snapshot):
                self.image = MetadataImage.load(snapshot.data, self._config.topic_defaults)
                self._hub.start_from(self.image.records(), self.image.end)
                self._stale = True
            case qe.TakeSnapshot(index=index):
                assert self.node is not None
                records = self.image.records()
                self.node.post(qe.SnapshotTaken(index, self.image.dump(records)))
                self._hub.start_from(records, self.image.end)
            case qe.BecomeActive(epoch=epoch):
                self._become_active(epoch)
            case qe.StepDown(epoch=epoch):
                log.warning("coordinator steps down: epoch %d is over", epoch)
                self._retire(BrokerNotAvailable("this coordinator is no longer the active one: ask again"))
                if self.node is not None:
                    self._standing(BrokerNotAvailable(f"waits for a majority of {_voters(self.node)}"))
            case qe.LeaderKnown(epoch=epoch, leader=leader):
                log.info("coordinator epoch %d: %s", epoch, f"{leader} leads" if leader else "nobody leads")
                if leader is not None and self.node is not None and leader != self.node.machine.me:
                    self._standing("standby")
            case qe.ReadReady(token=token):
                read = self._reads.pop(token, None)
                if read is not None and self.machine is not None:
                    read[0]()
            case qe.Dropped(token=token):
                self._dropped(token)
            case qe.Committed(token=token):
                self._changes.discard(token)  # of records Apply has told

    def _apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.kind != RECORDS:
                continue
            records = _commands.decode(entry.payload)
            for data in records:
                self.image.replay(decode_record(data))
            self._hub.append(records)
            self._stale = True

    def _become_active(self, epoch: int) -> None:
        around = Surroundings(self._config, ArrowSchemas(), lambda: uuid.uuid4().bytes)
        image = MetadataImage.load(self.image.dump(), self._config.topic_defaults)
        silent_ms = self._attendance.silent_ms()
        self.machine = CoordinatorMachine(around, image, epoch, self._address(), self._now_ms, silent_ms)
        self._hub.serve_epoch(self.image.end, epoch)
        self._attendance.announce(epoch)
        self._standing("active")
        log.info("this coordinator is active in epoch %d, with %d records", epoch, self.image.end)

    def _retire(self, why: RayQueueError) -> None:
        self.machine = None
        self._reads.clear()
        self._changes.clear()
        self._hub.stop_serving()
        self._attendance.retire()
        self._fail(why)

    def _dropped(self, token: int) -> None:
        read = self._reads.pop(token, None)
        if read is not None:
            self._answer(read[1], self.refusal())
        elif token in self._changes:
            self._changes.discard(token)  # another one was under way, perhaps: the next second sees
        else:
            self._lost.add(token)


def _voters(node: QuorumNode) -> str:
    """Who has to be there, in words."""
    voters = sorted(voter.broker_id for voter in node.status.membership.voters)
    if not voters:
        return "the coordinators that there are, to join them"
    return f"coordinators {', '.join(map(str, voters))}: start the nodes that hold the others' data"
