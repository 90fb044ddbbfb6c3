"""Names of our actors in Ray."""

from __future__ import annotations

NAMESPACE = "rayqueue"


def coordinator_name(cluster: str, coordinator_id: int = 0) -> str:
    """A coordinator's; the first one founds the cluster."""
    return f"{cluster}/coordinator-{coordinator_id}"


def is_coordinator(name: str) -> bool:
    """Whether an actor is called so because it is a coordinator."""
    return name.rpartition("/")[2].startswith("coordinator-")


def coordinator_number(name: str) -> int:
    """Which coordinator an actor is, by its name."""
    return int(name.rpartition("-")[2])


def broker_name(cluster: str, broker_id: int) -> str:
    """A broker's."""
    return f"{cluster}/broker-{broker_id}"


def group_coordinator_name(cluster: str, broker_id: int) -> str:
    """That of the group coordinator beside a broker."""
    return f"{broker_name(cluster, broker_id)}/groups"


def is_group_coordinator(name: str) -> bool:
    """Whether an actor is called so because it is a broker's group coordinator."""
    return name.endswith("/groups")


def is_replica(name: str) -> bool:
    """Whether an actor is called so because it is a replica actor, or stands by to be one."""
    return name.rpartition("/")[2].startswith("replica-")


def replica_name(cluster: str, broker_id: int, slot: int) -> str:
    """A replica actor's."""
    return f"{cluster}/broker-{broker_id}/replica-{slot}"
