"""Load generators of rayqueue: what `rayqueue perf` runs, and what the benchmarks hold against the peers.

Each class is constructed with `client`, the settings of a connection, and tunings as keyword arguments; its run methods
return plain values. `progress(records, bytes)` is called with what came since its last call.
"""
