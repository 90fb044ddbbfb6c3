"""What the coordinator's machine must know of Arrow schemas (`coordination.topic_rules.Schemas`)."""

from __future__ import annotations

import pyarrow as pa

from rayqueue.protocol.schemas import DEFAULT_SCHEMA, deserialize_schema, serialize_schema, typed_log_schema


class ArrowSchemas:
    """Schemas by pyarrow. Deterministic."""

    def log_schema(self, user_schema: bytes) -> bytes:
        """The log schema (IPC) for a user's schema (IPC), b"" for Kafka's record.

        Raises:
            SchemaMismatch: the bytes are no schema, or it cannot be stored.
        """
        if not user_schema:
            return serialize_schema(DEFAULT_SCHEMA)
        return serialize_schema(typed_log_schema(deserialize_schema(user_schema)))

    def columns(self, log_schema: bytes) -> dict[str, bool]:
        """The columns but `timestamp`, in order, and whether a column can be a key."""
        schema = deserialize_schema(log_schema)
        return {field.name: _can_be_hashed(field.type) for field in schema if field.name != "timestamp"}


def _can_be_hashed(kind: pa.DataType) -> bool:
    """Strings hash as UTF-8, integers as 8 bytes big-endian, bytes as they are."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_fixed_size_binary(kind)
    )
