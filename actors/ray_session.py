"""Which Ray a process uses: the one it is connected to, else RAY_ADDRESS, else one on this machine, else a new one."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ray
import ray._private.worker
from ray._private import services

from rayqueue.errors import ClusterNotRunning, RayQueueError

log = logging.getLogger(__name__)

# A Ray of our own serves a log and its clients; nothing of ours lies in the object store.
OBJECT_STORE_BYTES = 256 * 1024 * 1024
# Its workers are brokers, and tasks that talk to them: they run no lower than the processes that wait for them (Ray's
# own default is nice 15).
SYSTEM_CONFIG = {"worker_niceness": 0}
CONNECT_TIMEOUT_S = 3.0
HEAD_START_TIMEOUT_S = 60.0
HEAD_STOP_TIMEOUT_S = 20.0
_HEAD_FILE = "rayqueue-head.json"


# One thread of a process at a time connects: Ray refuses the second one.
_connecting = threading.Lock()


class _Begun:
    """Whether this process began the Ray that it is connected to."""

    here = False


def _connect(address: str) -> None:
    """Connects to a Ray that runs. Raises ConnectionError."""
    _check_reachable(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _check_reachable(address: str) -> None:
    """A Ray that was killed leaves its address behind, and `ray.init` tries that for minutes, saying so on each try."""
    found = services.canonicalize_bootstrap_address("auto") if address == "auto" else address
    if found is None or "://" in found:
        return
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(f"nobody answers at {found}: {error}") from error


def attach() -> bool:
    """Connects to a Ray that runs, unless this process is connected; True when it did connect.

    Raises:
        ClusterNotRunning: there is none.
    """
    with _connecting:
        return _attach()


def _attach() -> bool:
    if ray.is_initialized():
        return False
    given = os.environ.get("RAY_ADDRESS", "")
    try:
        if given == "local":
            raise ConnectionError("RAY_ADDRESS=local asks for a Ray of its own")
        _connect(given or "auto")
    except ConnectionError as error:
        if "InvalidAuthToken" in str(error.__cause__):
            raise ClusterNotRunning(
                f"the Ray at {given or 'auto'} asks for its authentication token, which this process does not send: "
                "see Ray's documentation of token authentication (RAY_AUTH_MODE=token)"
            ) from error
        where = f"at RAY_ADDRESS={given}" if given else "on this machine"
        raise ClusterNotRunning(
            f"there is no Ray {where}, so no rayqueue cluster: start one with rayqueue.start() or `rayqueue start`, "
            "or give bootstrap_servers"
        ) from error
    return True


def try_attach() -> bool:
    """Connects to a Ray that runs, unless this process is connected; False when there is none."""
    try:
        attach()
    except ClusterNotRunning:
        return False
    return True


def attach_or_begin(stay: bool) -> bool:
    """Connects to a Ray that runs, or begins one; True when it began one.

    Args:
        stay: a Ray that is begun outlives this process; else it ends with it, or with `end_if_begun`.

    Raises:
        ClusterNotRunning: RAY_ADDRESS is set and there is none. RayQueueError: Ray does not start.
    """
    with _connecting:
        return _attach_or_begin(stay)


def _attach_or_begin(stay: bool) -> bool:
    try:
        _attach()
        return False
    except ClusterNotRunning:
        if os.environ.get("RAY_ADDRESS", "local") != "local":
            raise
    if stay:
        _begin_head()
        return True
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
        _system_config=SYSTEM_CONFIG,
    )
    _Begun.here = True
    return True


@contextlib.contextmanager
def attached() -> Iterator[None]:
    """Connected to a Ray that runs; a connection that had to be made is given up at the end.

    Raises:
        ClusterNotRunning: there is none.
    """
    connected = attach()
    try:
        yield
    finally:
        if connected:
            ray.shutdown()


def end_if_begun() -> bool:
    """Ends the Ray that this process is connected to if `attach_or_begin` began it, here or in another process."""
    if _Begun.here:
        _Begun.here = False
        ray.shutdown()
        return True
    path = _head_file()
    if path is None or not path.exists():
        return False
    head = json.loads(path.read_text())
    ray.shutdown()
    path.unlink()
    _end_head(int(head["pid"]))
    _forget(path.parent.parent / "ray_current_cluster", head["address"])
    return True


# --- a Ray that outlives the process that began it --------------------------------------------------------------------


def _head_file() -> Path | None:
    """In the session's directory, where every process of this machine that is connected finds it."""
    node = ray._private.worker._global_node
    return Path(node.get_session_dir_path()) / _HEAD_FILE if node is not None else None


def _begin_head() -> None:
    """Runs `ray start --head --block` in a session of its own; it ends all that it started when it is told to end."""
    port, client_port = _free_ports(2)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"]
    command += [f"--ray-client-server-port={client_port}", "--include-dashboard=false", "--disable-usage-stats"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--system-config={json.dumps(SYSTEM_CONFIG)}"]
    head = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said: list[str] = []
    up = threading.Event()

    def listen() -> None:
        assert head.stdout is not None
        for line in head.stdout:
            said.append(line.rstrip())
            if "Ray runtime started" in line:
                up.set()
        up.set()

    threading.Thread(target=listen, name="ray-head-output", daemon=True).start()
    try:
        if not up.wait(HEAD_START_TIMEOUT_S) or head.poll() is not None:
            raise RayQueueError("Ray does not start: " + " / ".join(line for line in said[-5:] if line))
        # RAY_ADDRESS=local would begin yet another one.
        with _without_ray_address():
            # "auto" is the Ray started last, and the only address for which Ray sees to its own authentication.
            _connect("auto")
        found = ray.get_runtime_context().gcs_address
        if not found.endswith(f":{port}"):
            ray.shutdown()
            raise RayQueueError(
                f"another Ray was started at {found} at the same moment: set RAY_ADDRESS to one of them"
            )
        path = _head_file()
        if path is not None:
            path.write_text(json.dumps({"pid": head.pid, "address": found}))
    except BaseException:
        _end_head(head.pid)
        raise


@contextlib.contextmanager
def _without_ray_address() -> Iterator[None]:
    given = os.environ.pop("RAY_ADDRESS", None)
    try:
        yield
    finally:
        if given is not None:
            os.environ["RAY_ADDRESS"] = given


def _forget(path: Path, address: str) -> None:
    """Removes Ray's note of the Ray started last if it names the one that has ended (`ray stop` does the same)."""
    try:
        if path.read_text().strip() == address:
            path.unlink()
    except OSError as error:
        log.debug("nothing to forget: %s", error)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at present, so that several Rays can live on a machine."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _end_head(pid: int) -> None:
    """Ends a `ray start --block` and all that it started."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + HEAD_STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:  # another process began it
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
        time.sleep(0.05)
    log.warning("the Ray that was begun for this cluster (process %d) does not end", pid)
