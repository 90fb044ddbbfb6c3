"""Benchmarks of rayqueue: `python -m benchmarks`, or `make bench`. docs/performance.md tells method and results."""
