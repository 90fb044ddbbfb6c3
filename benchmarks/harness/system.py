"""What is measured: rayqueue or a peer, each behind the same few words, so that a workload is written once.

A system says which roles it can play. A role is a class of load (`harness/loads.py`) with the methods below; what it is
constructed with and what it returns is the same for every system, as JSON can carry it. A workload asks for roles, runs
every system that has them in turn, and takes the ratios.

| role | constructed with | method | returns |
|---|---|---|---|
| rows_in | client, **tuning | run(topic, value_bytes, seconds, records_max) | records, seconds |
| batches_in | client, **tuning | run(topic, rows, value_bytes, seconds, bytes_max) | records, seconds |
| rows_out | client, topic, **tuning | run(records) | seconds, sum |
| arrow_out, arrow_out_streamed | client, topic, **tuning | run(records) | seconds, sum |
| sender | client, topic, **tuning | run(begin_ns, count, rate, value_bytes) | late_ms |
| receiver | client, topic, **tuning | run(begin_ns, count, skip_ns) | see `latency.summary` |
| one_by_one | client, topic, **tuning | awaited(count), pipelined(count) | seconds |

A producer may have a method `check()`, called after each run when its CPU has been counted: verifying what was acked is
no part of producing. Records that are produced have been acked with acks=all, idempotent; `seconds` last from the first
call to the last ack, or to the last byte read. A reader begins at the topic's beginning, touches every byte
(`payload.touch` for Arrow) and returns the sum of what it touched, equal for equal data. Times of latencies are
`time.monotonic_ns()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

Say = Callable[[str], None]


class System(Protocol):
    """A running system.

    Attributes:
        name: "rayqueue", "kafka", ...
        settings: how it was started, for the report.
        roles: role → class of the load that plays it.
        tunings: role → label → arguments of the load, the system's defaults first ({} under "default"); a workload
            sweeps them and shows default and best.
    """

    name: str
    settings: dict[str, Any]
    roles: Mapping[str, type]
    tunings: Mapping[str, Mapping[str, dict[str, Any]]]

    def client(self) -> dict[str, Any]:
        """What a load needs to connect; its first argument, `client`."""
        ...

    def topic(self, partitions: int = 1, **config: Any) -> AbstractContextManager[str]:
        """A fresh topic, deleted at the end of the block.

        Args:
            config: by Kafka's names with underscores, such as `flush_messages=1`.
        """
        ...

    def processes(self) -> dict[str, list[int]]:
        """Process ids of its servers, by group; every process that works for it."""
        ...

    def bytes_on_disk(self) -> int:
        """Bytes its data takes now."""
        ...


class Peer(Protocol):
    """Another system: how to get it and how to run it. One file in `benchmarks/peers/`, which binds `PEER`."""

    name: str

    def missing(self, cache: Path) -> str | None:
        """Why it cannot be started, and what to do about it, in one line; None when it can."""
        ...

    def prepare(self, cache: Path, say: Say) -> None:
        """Gets what is needed through the package registries into `cache`; quick when it is there."""
        ...

    def start(self, directory: Path, cache: Path, say: Say) -> AbstractContextManager[System]:
        """Starts it on free loopback ports with its data in `directory`, waits until it answers, and at the end of the
        block stops what it started, by process id.

        Raises:
            PeerFailed: it did not come up; one line, with the end of its log.
        """
        ...


class PeerFailed(RuntimeError):
    """A peer could not be prepared or started; the message is one line and says what to do."""
