"""Consumer groups: the pure core of a group coordinator (KIP-848). A `ShardMachine` serves one shard of the groups."""
