"""`rayqueue demo`: a year of flights through three brokers, services in their own processes, every claim checked."""
