"""The parts of the producer that are not pure: Arrow, threads, futures and exchanges around the machines of `rayqueue.client`."""
