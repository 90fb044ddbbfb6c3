"""The log on disk: segments, their indexes, recovery, retention, and reading through mappings."""
