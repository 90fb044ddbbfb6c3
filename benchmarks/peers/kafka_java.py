"""Kafka's own load generator in Java, to be shown beside confluent-kafka: ProducerPerformance.

Each run is a JVM of its own. Its first records, which it runs interpreted, are not counted where the tool can leave
them out. Tunings are the Java client's settings with underscores.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.child_process import ChildProcess

# About what they do on two cores; a run is sized by it, because they count records, not seconds.
EXPECTED_BYTES_PER_S = 40e6
EXPECTED_RECORDS_PER_S = 250e3
RUN_WAIT_S = 120.0
HEAP = "-Xmx512M"

_SENT = re.compile(r"^(\d+)(?: steady state)? records sent, ([\d.]+) records/sec", re.MULTILINE)


class JavaRowsIn:
    """ProducerPerformance: acks=all and idempotent, which are the Java producer's defaults."""

    def __init__(self, client: Mapping[str, Any], **tuning: Any) -> None:
        self._client = client
        self._tuning = tuning

    def run(self, topic: str, value_bytes: int, seconds: float, records_max: int) -> dict[str, float]:
        """Produces as many records as take about so many seconds, and half as many before, which are not counted.

        Returns:
            records, and the seconds by its own account.
        """
        rate = min(EXPECTED_RECORDS_PER_S, EXPECTED_BYTES_PER_S / value_bytes)
        counted = min(records_max, max(1000, int(rate * seconds)))
        warm_up = counted // 2
        said = _run(
            self._client,
            "org.apache.kafka.tools.ProducerPerformance",
            "--topic", topic,
            "--num-records", str(counted + warm_up),
            "--warmup-records", str(warm_up),
            "--record-size", str(value_bytes),
            "--throughput", "-1",
            "--bootstrap-server", self._client["bootstrap_servers"],
            "--command-property", *properties({"acks": "all", **self._tuning}),
        )  # fmt: skip
        return produced(said)

    def close(self) -> None:
        """Nothing is open between runs."""


def properties(settings: Mapping[str, Any]) -> list[str]:
    """name=value, by Kafka's names."""
    return [f"{name.replace('_', '.')}={value}" for name, value in settings.items()]


def produced(said: str) -> dict[str, float]:
    """Reads what ProducerPerformance says in the end: a line for all records, then one without the warm-up's."""
    found = _SENT.findall(said)
    if not found:
        raise RuntimeError(f"kafka: ProducerPerformance told no result: {said.strip()[-200:]}")
    records, rate = int(found[-1][0]), float(found[-1][1])
    return {"records": records, "seconds": records / rate}


def _run(client: Mapping[str, Any], *arguments: str) -> str:
    command = [client["java"], HEAP, "-cp", client["classpath"], "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"]
    handle, name = tempfile.mkstemp(prefix="java-", dir=client["directory"])  # it goes with the run's directory
    os.close(handle)
    log = Path(name)
    try:
        with ChildProcess([*command, *arguments], log) as program:
            try:
                status = program.wait(RUN_WAIT_S)
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"kafka: {arguments[0]} took more than {RUN_WAIT_S:g} s") from None
            if status != 0:
                raise RuntimeError(f"kafka: {arguments[0]} ended with status {status}: {program.tail()}")
        return log.read_text()
    finally:
        log.unlink()
