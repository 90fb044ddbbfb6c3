"""Consumer groups: the pure state machine of a group coordinator (KIP-848)."""
