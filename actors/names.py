"""Names of our actors in Ray."""

from __future__ import annotations

NAMESPACE = "rayqueue"


def coordinator_name(cluster: str) -> str:
    """The coordinator's."""
    return f"{cluster}/coordinator"


def broker_name(cluster: str, broker_id: int) -> str:
    """A broker's."""
    return f"{cluster}/broker-{broker_id}"


def replica_name(cluster: str, broker_id: int, slot: int) -> str:
    """A replica actor's."""
    return f"{cluster}/broker-{broker_id}/replica-{slot}"
