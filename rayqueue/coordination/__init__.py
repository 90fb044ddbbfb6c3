"""Coordination: the cluster's metadata as records, their replay, the commands that make them, and placement. Pure."""
