"""A bare Flight stream into a file: what Arrow Flight gives before there is any log.

Two grades. `bare`: DoPut, the server writes each batch to the file as an Arrow IPC stream, one answer at the end.
`checked`: the server also computes CRC32C of the batch's buffers and acks each batch; the client keeps a window open.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import google_crc32c
import pyarrow as pa
import pyarrow.flight as fl

from benchmarks.harness.payload import values_table

BARE = "bare"
CHECKED = "checked"
WINDOW = 5


class _SinkServer(fl.FlightServerBase):  # type: ignore[misc]
    """Writes each DoPut to a file of its own, made anew."""

    def __init__(self, directory: Path) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self.path = directory / "flight-sink.arrows"

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        checked = descriptor.command == CHECKED.encode()
        with pa.OSFile(str(self.path), "wb") as file, pa.ipc.new_stream(file, reader.schema) as stream:
            for chunk in reader:
                if checked:
                    crc = 0
                    for buffer in chunk.data.column(0).buffers():
                        crc = crc if buffer is None else google_crc32c.extend(crc, buffer)
                stream.write_batch(chunk.data)
                if checked:
                    writer.write(crc.to_bytes(4, "little"))


class FlightSink:
    """The server, as a load of its own process."""

    def __init__(self, directory: str) -> None:
        self._server = _SinkServer(Path(directory))
        self._thread = threading.Thread(target=self._server.serve, daemon=True)
        self._thread.start()

    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self._server.port)

    def clear(self) -> None:
        """Removes the file."""
        self._server.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Stops the server."""
        self._server.shutdown()
        self._thread.join()


class FlightWriter:
    """The client, as a load of its own process."""

    def __init__(self, port: int) -> None:
        self._client = fl.connect(f"grpc://127.0.0.1:{port}")

    def run(self, grade: str, rows: int, value_bytes: int, seconds: float, bytes_max: int) -> dict[str, float]:
        """Sends the same batch of values again and again; ends when all is written.

        Returns:
            records sent, and the seconds it took.
        """
        table = values_table(rows, value_bytes)
        batch = table.to_batches()[0]
        began = time.perf_counter()
        writer, acks = self._client.do_put(fl.FlightDescriptor.for_command(grade.encode()), batch.schema)
        waiting: deque[None] = deque()
        sent = 0
        while not sent or (time.perf_counter() - began < seconds and sent * batch.nbytes < bytes_max):
            writer.write_batch(batch)
            sent += 1
            if grade == CHECKED:
                waiting.append(None)
                if len(waiting) >= WINDOW:
                    acks.read()
                    waiting.popleft()
        while waiting:
            acks.read()
            waiting.popleft()
        writer.close()  # returns once the server has written all
        return {"records": sent * rows, "seconds": time.perf_counter() - began}

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()
