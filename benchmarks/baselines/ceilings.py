"""What this machine can do at all, in this run: no log can be faster."""

from __future__ import annotations

import os
import socket
import statistics
import threading
import time
from pathlib import Path

import numpy as np

BLOCK = 1 << 20


def memcpy(total: int) -> float:
    """Bytes per second of copying 64 MiB from memory to memory, as often as makes `total` bytes."""
    source = np.zeros(min(total, 64 << 20), dtype=np.uint8)
    target = np.ones_like(source)
    rounds = max(1, total // source.size)
    began = time.perf_counter()
    for _ in range(rounds):
        np.copyto(target, source)
    return rounds * source.size / (time.perf_counter() - began)


def page_cache_write(path: Path, total: int) -> float:
    """Bytes per second of writing a new file of `total` bytes, 1 MiB a call, without fsync."""
    block = os.urandom(BLOCK)
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(max(1, total // BLOCK)):
            file.write(block)
    took = time.perf_counter() - began
    path.unlink()
    return max(1, total // BLOCK) * BLOCK / took


def fdatasync_s(path: Path, times: int) -> float:
    """Median seconds of an fdatasync after appending 1 KiB."""
    block = os.urandom(1024)
    samples = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            file.write(block)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            samples.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(samples)


def loopback_tcp(total: int) -> float:
    """Bytes per second through a TCP connection to this host, 1 MiB a call, both ends in this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    block = os.urandom(BLOCK)
    rounds = max(1, total // BLOCK)

    def send() -> None:
        with socket.create_connection(listener.getsockname()) as out:
            for _ in range(rounds):
                out.sendall(block)

    sender = threading.Thread(target=send)
    began = time.perf_counter()
    sender.start()
    taken, _ = listener.accept()
    buffer = bytearray(BLOCK)
    while taken.recv_into(buffer):
        continue
    took = time.perf_counter() - began
    sender.join()
    taken.close()
    listener.close()
    return rounds * BLOCK / took
