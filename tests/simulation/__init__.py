"""Simulated clusters of protocol cores; `python -m tests.simulation SEED` runs one."""
