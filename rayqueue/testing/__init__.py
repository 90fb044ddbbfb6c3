"""Shipped test clusters: `rayqueue.testing.inprocess` without Ray."""
