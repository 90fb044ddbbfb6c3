"""What every workload shares: processes that make load, accounting from /proc, figures, tables and JSON."""
