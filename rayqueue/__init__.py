"""rayqueue: a partitioned, durable event log with Kafka's semantics, inside a Ray cluster, speaking Arrow.

::

    import rayqueue

    cluster = rayqueue.start()
    rayqueue.AdminClient().create_topic("clicks", partitions=3)
    with rayqueue.Producer() as producer:
        producer.produce("clicks", value=b"hello", key=b"u1").result(timeout=10)
    with rayqueue.Consumer("clicks", auto_offset_reset="earliest", stop_at="latest") as consumer:
        for message in consumer:
            print(message.partition, message.offset, message.value)

The names are imported when they are first used: `import rayqueue` imports neither Ray nor pyarrow.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from rayqueue import errors
from rayqueue.errors import RayQueueError
from rayqueue.types import OFFSET_BEGINNING, OFFSET_END, RecordMetadata, TopicPartition, Watermarks

if TYPE_CHECKING:
    from rayqueue.admin import AdminClient, NewTopic
    from rayqueue.cluster import connect, shutdown, start, status
    from rayqueue.consumer import Consumer, OffsetAndTimestamp
    from rayqueue.message import Message
    from rayqueue.producer import Producer

__version__ = "0.1.0"

__all__ = [
    "OFFSET_BEGINNING",
    "OFFSET_END",
    "AdminClient",
    "Consumer",
    "Message",
    "NewTopic",
    "OffsetAndTimestamp",
    "Producer",
    "RayQueueError",
    "RecordMetadata",
    "TopicPartition",
    "Watermarks",
    "__version__",
    "connect",
    "errors",
    "shutdown",
    "start",
    "status",
]

# Public name -> the module that has it.
_LAZY = {
    "AdminClient": "rayqueue.admin",
    "Consumer": "rayqueue.consumer",
    "Message": "rayqueue.message",
    "NewTopic": "rayqueue.admin",
    "OffsetAndTimestamp": "rayqueue.consumer",
    "Producer": "rayqueue.producer",
    "connect": "rayqueue.cluster",
    "shutdown": "rayqueue.cluster",
    "start": "rayqueue.cluster",
    "status": "rayqueue.cluster",
}
# Modules that are reached as attributes, as in `rayqueue.testing.cluster()`.
_LAZY_MODULES = frozenset({"testing"})


def _find_actors(path: list[str]) -> None:
    """Makes `rayqueue.actors` importable in a plain checkout, where it is the directory `actors/` beside `rayqueue/`.

    Scripts and Ray's workers put their working directory first on `sys.path`; in a checkout they find this package
    without the `rayqueue/actors` that an installed one has.
    """
    here = path[0]
    root = os.path.dirname(here)
    if not os.path.isdir(os.path.join(here, "actors")) and os.path.isfile(os.path.join(root, "actors", "driver.py")):
        path.append(root)


_find_actors(__path__)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _LAZY_MODULES:
        value = importlib.import_module(f"rayqueue.{name}")
    else:
        raise AttributeError(f"module 'rayqueue' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
