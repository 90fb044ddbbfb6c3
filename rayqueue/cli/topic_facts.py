"""What producing and consuming on the command line have to know of a topic: its columns and its key column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayqueue.admin_topics import user_schema
from rayqueue.client.cluster_client import ClusterClient
from rayqueue.config import AdminConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from rayqueue.cli.options import Connection


class KeyColumns:
    """The key column of a topic by its name, "" where it has none; each topic is asked for once."""

    def __init__(self, connection: Connection) -> None:
        self._client = ClusterClient(AdminConfig.parse(connection.settings()))
        self._known: dict[str, str] = {}

    def __call__(self, topic: str) -> str:
        if topic not in self._known:
            self._known[topic] = self._client.topic(topic).key_column
        return self._known[topic]

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def typed_columns(connection: Connection, topic: str) -> tuple[pa.Schema | None, str]:
    """The user's columns of a typed topic (None: it has none) and its key column ("": it has none)."""
    client = ClusterClient(AdminConfig.parse(connection.settings()))
    try:
        info = client.topic(topic, auto_create=True)
        return user_schema(info), info.key_column
    finally:
        client.close()
