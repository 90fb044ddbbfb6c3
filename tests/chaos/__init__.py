"""Chaos on a real Ray cluster: clients record what they did and saw, a nemesis breaks things, a checker judges.

`python -m tests.chaos --help`; docs/testing.md says how to read what it reports.
"""
