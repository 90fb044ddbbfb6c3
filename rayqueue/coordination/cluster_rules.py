"""What a cluster's settings must be like beyond what each of them takes by itself."""

from __future__ import annotations

from rayqueue.config.broker import DEFAULT_REPLICAS_MAX, BrokerConfig
from rayqueue.coordination.topic_rules import check_min_insync, checked_overrides
from rayqueue.errors import ConfigError

# Where `port` is set: broker i listens on port + i, its group coordinator on port + 500 + i, coordinator i on
# port + 1,000 + i, replica actors above them.
GROUPS_PORT_OFFSET = 500
COORDINATOR_PORT_OFFSET = 1_000
REPLICA_PORT_OFFSET = 1_016
PORT_MAX = 60_000


def check_cluster_config(config: BrokerConfig) -> None:
    """Raises ConfigError when settings contradict each other, or ask for what is not built yet."""
    checked_overrides(config.topic_defaults, config.socket_request_max_bytes)
    if config.topic_defaults.get("partition.by"):
        raise ConfigError("partition.by names a column of one topic: set it at the topic, not for the whole cluster")
    insync = config.topic_defaults.get("min.insync.replicas")
    replicas = config.default_replication_factor or DEFAULT_REPLICAS_MAX
    check_min_insync(insync, replicas, "the cluster (default.replication.factor)")
    if config.port > PORT_MAX:
        raise ConfigError(
            f"port {config.port} leaves no room for the ports above it, which coordinator and replica actors take: "
            f"use one up to {PORT_MAX}"
        )
