"""Shipped test clusters: `cluster` is a real one on Ray in one line, `rayqueue.testing.inprocess` one without Ray.

::

    with rayqueue.testing.cluster() as cluster:
        with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer: ...
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayqueue.cluster import Cluster


@contextmanager
def cluster(brokers: int = 1, config: Any = None) -> Iterator[Cluster]:
    """A rayqueue cluster of its own name in a temporary directory, gone at the end with all its data.

    Args:
        brokers: how many, on whatever nodes there are.
        config: broker and default topic settings.

    It runs on the Ray that this process is connected to; without one, `rayqueue.start` finds or starts one.
    """
    from rayqueue.cluster import start

    name = f"test-{uuid.uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory(prefix="rayqueue-") as directory,
        start(name=name, brokers=brokers, data_dir=directory, config=config) as running,
    ):
        yield running
