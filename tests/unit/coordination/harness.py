"""Runs the coordinator's machine with a log in memory, checking every invariant after every event."""

from __future__ import annotations

from itertools import count
from typing import Any

from rayqueue.config import BrokerConfig
from rayqueue.coordination.commands import Surroundings
from rayqueue.coordination.events import (
    Append,
    Applied,
    Call,
    Committed,
    Effect,
    Event,
    Publish,
    Refuse,
    Reply,
    Tick,
    WatchEnded,
    WatchStarted,
)
from rayqueue.coordination.image import MetadataImage
from rayqueue.coordination.machine import CoordinatorMachine, FormatCluster
from rayqueue.coordination.records import decode_record, encode_record
from rayqueue.coordination.state import ClusterState
from rayqueue.errors import SchemaMismatch
from rayqueue.protocol.messages import (
    CreateTopicsRequest,
    RegisterBroker,
    RegisterReplicaActor,
    TopicSpec,
    TopicsResponse,
)


class FakeSchemas:
    """Schemas are column names joined by commas; `x!` is a column that cannot be hashed."""

    def log_schema(self, user_schema: bytes) -> bytes:
        if user_schema == b"bad":
            raise SchemaMismatch("the bytes given as a schema are not one")
        return user_schema or b"key,value"

    def columns(self, log_schema: bytes) -> dict[str, bool]:
        return {name.rstrip("!"): not name.endswith("!") for name in log_schema.decode().split(",")}


def dump(state: ClusterState) -> dict[str, Any]:
    """The state as plain values, to compare two."""
    return {name: repr(sorted(value) if isinstance(value, set) else value) for name, value in vars(state).items()}


class Harness:
    """A machine, its log, what it answered. Appends are committed at once unless `hold` is set."""

    def __init__(self, config: dict[str, Any] | None = None, formatted: bool = True) -> None:
        self.config = BrokerConfig.parse(config)
        self.now_ms = 1_000
        self.log: list[bytes] = []
        self.published = 0
        self.answers: dict[int, Any] = {}
        self.unanswered: set[int] = set()
        self.hold = False
        self._calls = count(1)
        self._ids = count(1)
        self.epoch = 0
        self.restart()
        if formatted:
            self.call(FormatCluster("c1"))

    def restart(self, silent_ms: dict[str, int] | None = None) -> None:
        """A new coordinator process on the same log; callers of the old one see a broken connection. silent_ms: since
        when it has not heard processes, by incarnation."""
        self.epoch += 1
        self.unanswered.clear()
        around = Surroundings(self.config, FakeSchemas(), lambda: next(self._ids).to_bytes(16, "big"))
        image = MetadataImage(self.config.topic_defaults)
        for data in self.log:
            image.replay(decode_record(data))
        self.machine = CoordinatorMachine(around, image, self.epoch, ("127.0.0.1", 9000), self.now_ms, silent_ms)
        self.published = len(self.log)
        self.machine.validate()

    @property
    def state(self) -> ClusterState:
        return self.machine.state

    def step(self, event: Event) -> list[Effect]:
        effects = self.machine.step(event, self.now_ms, 1_700_000_000_000 + self.now_ms)
        self.machine.validate()
        done = list(effects)
        for effect in effects:
            match effect:
                case Append():
                    assert effect.index == len(self.log), "records out of order"
                    self.log += [encode_record(record) for record in effect.records]
                case Publish():
                    assert self.published < effect.end <= len(self.log)
                    self.published = effect.end
                case Reply():
                    assert effect.call not in self.answers, "answered twice"
                    self.answers[effect.call] = effect.response
                    self.unanswered.remove(effect.call)
                case Refuse():
                    assert effect.call not in self.answers, "answered twice"
                    self.answers[effect.call] = effect.error
                    self.unanswered.remove(effect.call)
        if not self.hold and self.machine.committed < len(self.log):
            done += self.commit()
        return done

    def commit(self) -> list[Effect]:
        return self.step(Committed(len(self.log)))

    def send(self, request: Any) -> int:
        """A call whose answer may come later."""
        call = next(self._calls)
        self.unanswered.add(call)
        self.step(Call(call, request))
        return call

    def call(self, request: Any) -> Any:
        """A call that is answered at once; an error is raised."""
        call = self.send(request)
        assert call in self.answers, f"{request} is not answered yet"
        answer = self.answers[call]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def advance(self, ms: int) -> None:
        """Lets time pass, ticking at each deadline."""
        end = self.now_ms + ms
        while (deadline := self.machine.next_deadline_ms()) is not None and deadline <= end:
            self.now_ms = max(self.now_ms, deadline)
            self.step(Tick())
        self.now_ms = end

    # --- processes -----------------------------------------------------------------------------------------------

    def broker(self, broker_id: int, node: str = "", pool: int = 2, generation: int = 0, actors: bool = True) -> None:
        """Starts a broker and its replica actors, all watching."""
        incarnation = f"b{broker_id}.{generation}"
        self.call(
            RegisterBroker(
                broker_id, f"dir{broker_id}", incarnation, "127.0.0.1", 9100 + broker_id, node or f"n{broker_id}", pool
            )
        )
        self.step(WatchStarted(incarnation))
        for slot in range(pool if actors else 0):
            self.actor(broker_id, slot, generation)

    def actor(self, broker_id: int, slot: int, generation: int = 0) -> str:
        incarnation = f"a{broker_id}/{slot}.{generation}"
        self.call(RegisterReplicaActor(broker_id, slot, incarnation, "127.0.0.1", 9200 + 100 * broker_id + slot))
        self.step(WatchStarted(incarnation))
        return incarnation

    def apply_all(self) -> None:
        """Every replica actor that watches reports that it has applied everything."""
        for actor in list(self.state.replica_actors.values()):
            if self.machine.is_watching(actor.incarnation):
                self.step(Applied(actor.incarnation, len(self.log)))

    def stop(self, incarnation: str) -> None:
        self.step(WatchEnded(incarnation))

    def create(self, name: str, partitions: int = 1, **configs: str) -> TopicsResponse:
        return self.change(create(spec(name, partitions, configs=configs)))

    def change(self, request: Any) -> TopicsResponse:
        """A command that waits for replica actors, all of which apply it."""
        call = self.send(request)
        self.apply_all()
        response = self.answers[call]
        assert isinstance(response, TopicsResponse)
        return response


def spec(
    name: str,
    partitions: int = 1,
    replication_factor: int = -1,
    configs: dict[str, str] | None = None,
    schema: bytes = b"",
    key_column: str = "",
) -> TopicSpec:
    return TopicSpec(name, partitions, replication_factor, configs or {}, schema, key_column)


def create(*specs: TopicSpec, timeout_ms: int = 30_000) -> CreateTopicsRequest:
    return CreateTopicsRequest(list(specs), timeout_ms)
