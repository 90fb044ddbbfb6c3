"""The metadata quorum: Raft's rules as a deterministic machine, and the messages its nodes exchange."""
