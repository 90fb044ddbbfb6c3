"""Kafka as a peer, without Java: what is missing, the cache, processes that end, and discovery of peers."""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.harness import child_process
from benchmarks.harness.child_process import ChildProcess
from benchmarks.harness.interruption import running
from benchmarks.harness.system import PeerFailed
from benchmarks.peers import PeerFiles, kafka_broker, kafka_install, kafka_java

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks run on Linux")

END_WAIT_S = 20.0
READY = "print('ready', flush=True); "
SLEEPS = [sys.executable, "-c", READY + "import time; time.sleep(100)"]
IGNORES = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
DEAF = [sys.executable, "-c", IGNORES + READY + "signal.pause()"]


def wait_for_end(pid: int) -> None:
    """Until the process has ended, whoever's child it is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], END_WAIT_S)[0], f"process {pid} still runs"
    finally:
        os.close(descriptor)


def wait_until_ready(child: ChildProcess, log: Path) -> None:
    while "ready" not in log.read_text():
        assert child.status is None, log.read_text()


@pytest.mark.parametrize(
    "said, version",
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_202"', 8),
        ('openjdk version "26-ea" 2026-03-17', 26),
        ("a shell that says something else", None),
    ],
)
def test_the_version_of_java_is_read(said: str, version: int | None) -> None:
    assert kafka_install.java_version(said) == version


def programs(directory: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Puts shell scripts, and nothing else but what they call, on the PATH."""
    directory.mkdir(exist_ok=True)
    for name, script in scripts.items():
        file = directory / name
        file.write_text("#!/bin/sh\n" + script)
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("JAVA_HOME", raising=False)


def test_what_is_missing_is_said_in_a_line_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        said = kafka_install.missing(tmp_path / "cache")
        assert said is not None and "\n" not in said
        return said

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    programs(tmp_path / "bin", monkeypatch)
    assert "apt install openjdk-17-jre-headless" in missing()
    programs(tmp_path / "bin", monkeypatch, java="""echo 'openjdk version "11.0.2"' >&2""")
    assert "java is 11" in missing() and "JAVA_HOME" in missing()
    programs(tmp_path / "bin", monkeypatch, java="""echo 'openjdk version "21.0.1"' >&2""")
    assert "apt install maven" in missing()
    programs(tmp_path / "bin", monkeypatch, mvn="exit 1")
    assert "pip install confluent-kafka" in missing()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert kafka_install.missing(tmp_path / "cache") is None


FETCHES = f"""
for argument; do case "$argument" in -DoutputDirectory=*) lib="${{argument#-DoutputDirectory=}}";; esac; done
{shutil.which("mkdir")} -p "$lib" && : > "$lib/kafka_2.13-{kafka_install.VERSION}.jar"
"""
HALF = FETCHES + 'echo "[ERROR] Could not transfer artifact x"; echo "[ERROR] "; exit 1\n'


def test_the_cache_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, said = tmp_path / "cache", list[str]()
    programs(tmp_path / "bin", monkeypatch, mvn=HALF)
    with pytest.raises(PeerFailed, match="Could not transfer artifact x"):
        kafka_install.prepare(cache, said.append)
    assert [entry.name for entry in cache.iterdir()] == [f"{kafka_install.NAME}.lock"]
    # What a run leaves behind that was killed, and a cache of an older list of dependencies.
    (cache / f"{kafka_install.NAME}.part-1" / "lib").mkdir(parents=True)
    (cache / kafka_install.NAME / "lib").mkdir(parents=True)
    (cache / kafka_install.NAME / "pom.xml").write_text("<project/>")
    assert not kafka_install.is_whole(cache)
    programs(tmp_path / "bin", monkeypatch, mvn=FETCHES)
    kafka_install.prepare(cache, said.append)
    assert kafka_install.is_whole(cache)
    assert sorted(entry.name for entry in cache.iterdir()) == [kafka_install.NAME, f"{kafka_install.NAME}.lock"]
    assert len(said) == 2
    programs(tmp_path / "bin", monkeypatch, mvn="exit 1")
    kafka_install.prepare(cache, said.append)
    assert len(said) == 2


def test_a_held_port_is_for_a_java_server_and_nobody_else() -> None:
    with kafka_broker.held_ports(2) as ports, socket.socket() as java, socket.socket() as other:
        assert len(set(ports)) == 2
        with pytest.raises(OSError, match="in use"):
            other.bind((kafka_broker.HOST, ports[0]))
        java.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        java.bind((kafka_broker.HOST, ports[0]))
        java.listen()
        with socket.create_connection((kafka_broker.HOST, ports[0]), timeout=5):
            pass


def test_the_configuration_names_ports_and_directory() -> None:
    lines = kafka_broker.configuration([9, 10], Path("/data")).splitlines()
    assert "listeners=PLAINTEXT://127.0.0.1:9,CONTROLLER://127.0.0.1:10" in lines
    assert "controller.quorum.voters=1@127.0.0.1:10" in lines
    assert "log.dirs=/data" in lines
    assert f"message.max.bytes={64 << 20}" in lines


def test_three_nodes_know_each_other_and_replicate(tmp_path: Path) -> None:
    ports = [9, 10, 19, 20, 29, 30]
    lines = kafka_broker.configuration(ports, Path("/data"), 2).splitlines()
    assert "node.id=2" in lines
    assert "listeners=PLAINTEXT://127.0.0.1:19,CONTROLLER://127.0.0.1:20" in lines
    assert "controller.quorum.voters=1@127.0.0.1:10,2@127.0.0.1:20,3@127.0.0.1:30" in lines
    assert {"min.insync.replicas=2", "offsets.topic.replication.factor=3"} <= set(lines)
    assert "min.insync.replicas=1" in kafka_broker.configuration(ports[:2], Path("/data")).splitlines()


def test_a_program_is_stopped_by_its_id_and_is_in_a_session_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ChildProcess(SLEEPS, log) as child:
        wait_until_ready(child, log)
        assert os.getsid(child.pid) == child.pid != os.getsid(0)
    assert child.status == -signal.SIGTERM
    child.stop()


def test_a_program_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "STOP_WAIT_S", 0.1)
    log = tmp_path / "log"
    with ChildProcess(DEAF, log) as child:
        wait_until_ready(child, log)
    assert child.status == -signal.SIGKILL


def test_a_second_ctrl_c_kills_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    child = ChildProcess(DEAF, log)
    wait_until_ready(child, log)
    wait: Callable[..., int] = child._process.wait
    interrupted: list[object] = []

    def wait_interrupted(*arguments: float) -> int:
        if interrupted:
            return wait(*arguments)
        interrupted.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(child._process, "wait", wait_interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.stop()
    assert child.status == -signal.SIGKILL


PARENT = """
import sys, time
from pathlib import Path
from benchmarks.harness.child_process import ChildProcess
child = ChildProcess([sys.executable, "-c", "import time; time.sleep(100)"], Path(sys.argv[1]))
print(child.pid, flush=True)
time.sleep(100)
"""


def test_a_program_does_not_outlive_its_killed_parent(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_for_end(pid)
    assert not running(pid)


def test_the_log_s_end_tells_of_errors_without_their_traces(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = "ERROR Exiting\\njava.lang.X: y\\n\\tat a.b(C.java)\\nCaused by: z\\n\\t... 3 more\\nWARN closing\\n"
    with ChildProcess([sys.executable, "-c", f"print('{said}'); raise SystemExit(3)"], log) as child:
        assert child.wait(END_WAIT_S) == 3
    assert child.tail() == "ERROR Exiting / Caused by: z"
    log.write_text("all\nwell\n")
    assert child.tail() == "all / well"
    log.write_text("")
    assert child.tail() == ""


def test_a_broker_that_has_ended_is_told_in_a_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ChildProcess([sys.executable, "-c", "print('ERROR no'); raise SystemExit(3)"], log) as child:
        child.wait(END_WAIT_S)
        broker = kafka_broker.Broker(child, 1, tmp_path)
        with pytest.raises(PeerFailed, match=f"pid {child.pid}. ended with status 3; the end of its log: ERROR no"):
            broker.check()
    with ChildProcess(SLEEPS, log) as child:
        kafka_broker.Broker(child, 1, tmp_path).check()
        os.kill(child.pid, signal.SIGKILL)
        child.wait(END_WAIT_S)
        with pytest.raises(PeerFailed, match=r"ended by signal 9$"):
            kafka_broker.Broker(child, 1, tmp_path).check()


def test_a_broker_that_was_killed_on_purpose_is_no_failure(tmp_path: Path) -> None:
    with ChildProcess(SLEEPS, tmp_path / "log") as child:
        broker = kafka_broker.Broker(child, 1, tmp_path)
        broker.kill()
        assert child.status == -signal.SIGKILL
        broker.check()


def test_the_words_of_the_java_tools_are_read() -> None:
    said = """\
Warmup first 100000 records. Steady state results will print after the complete test summary.
187500 records sent, 90000.0 records/sec (8.58 MB/sec), 3.0 ms avg latency, 9.00 ms max latency.
300000 records sent, 99000.0 records/sec (9.44 MB/sec), 3.1 ms avg latency, 9.00 ms max latency, 3 ms 50th.
200000 steady state records sent, 100000.0 records/sec (9.54 MB/sec), 2.1 ms avg latency, 9.00 ms max latency.
"""
    assert kafka_java.produced(said) == {"records": 200_000, "seconds": 2.0}
    with pytest.raises(RuntimeError, match="told no result: nothing"):
        kafka_java.produced("nothing")


def test_a_peer_is_a_file_that_binds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_peers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    peer = "class Peer:\n    name = '{}'\n\nPEER: object = Peer()\n"
    (package / "b.py").write_text(peer.format("bee"))
    (package / "a.py").write_text(peer.format("a.queue"))
    (package / "clients.py").write_text("# PEER = None\nraise ImportError('a client that is not installed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = PeerFiles("some_peers", [str(package)])
    assert "some_peers.a" not in sys.modules
    assert list(found) == ["a.queue", "bee"] and len(found) == 2
    assert found["bee"] is sys.modules["some_peers.b"].PEER
    with pytest.raises(KeyError):
        found["clients"]


def test_kafka_is_a_peer_and_looking_at_peers_loads_no_client() -> None:
    assert peers.PEERS["kafka"].name == "kafka"
    code = "import sys; from benchmarks.peers import PEERS; list(PEERS); sys.exit('confluent_kafka' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)
