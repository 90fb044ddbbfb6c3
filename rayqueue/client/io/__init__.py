"""The producer's parts that are not pure: Arrow, threads, futures and exchanges around its machines."""
