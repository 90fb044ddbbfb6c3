"""The command line: as a user types it, through real pipes, and in this process where the answer alone matters."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import rayqueue
from rayqueue import AdminClient
from rayqueue.cli.main import cli
from rayqueue.testing.inprocess import InProcessCluster

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with InProcessCluster(tmp_path_factory.mktemp("cli"), brokers=2) as running:
        yield running


@pytest.fixture
def admin(cluster):
    with AdminClient(cluster.bootstrap_servers) as client:
        yield client


@pytest.fixture
def topic(request, admin):
    name = request.node.name.split("[")[0]
    admin.create_topic(name, partitions=2)
    yield name
    if name in admin.list_topics():
        admin.delete_topic(name)


@pytest.fixture
def run(cluster):
    """Runs a command in this process; gives the result."""

    def invoke(*arguments, status=0, **options):
        result = CliRunner().invoke(cli, arguments, env={"RAYQUEUE_BOOTSTRAP": cluster.bootstrap_servers}, **options)
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.stderr
        return result

    return invoke


@pytest.fixture
def shell(cluster, tmp_path):
    """Runs a shell line in which `rayqueue` is the command; gives the finished process."""
    command = tmp_path / "bin" / "rayqueue"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m rayqueue "$@"\n')
    command.chmod(0o755)

    def invoke(line, status=0):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}"],
            env=environment(cluster, PATH=f"{command.parent}:{os.environ['PATH']}"),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return invoke


def environment(cluster, **more):
    root = os.path.dirname(os.path.dirname(os.path.abspath(rayqueue.__file__)))
    return {**os.environ, "RAYQUEUE_BOOTSTRAP": cluster.bootstrap_servers, "PYTHONPATH": root, **more}


def lines(text):
    return sorted(text.splitlines())


# --- topics --------------------------------------------------------------------------------------------------------


def test_a_topics_life(run, admin):
    assert "3 partitions" in run("topic", "create", "life", "-p", "3", "-c", "retention.ms=60000").stdout
    run("topic", "create", "life", "-p", "3", "--exist-ok")
    assert "life" in run("topic", "list").stdout
    described = json.loads(run("topic", "describe", "life", "--json").stdout)
    assert len(described["partitions"]) == 3 and described["records"] == 0
    assert described["configs"]["retention.ms"] == {
        "name": "retention.ms",
        "value": "60000",
        "is_default": False,
        "source": "topic",
        "doc": described["configs"]["retention.ms"]["doc"],
    }
    assert "segment.bytes=4096 (topic)" in run("topic", "alter-config", "life", "segment.bytes=4096").stdout
    assert "(default)" in run("topic", "alter-config", "life", "--reset", "retention.ms").stdout
    run("topic", "add-partitions", "life", "4")
    assert len(admin.describe_topic("life").partitions) == 4
    assert json.loads(run("topic", "delete", "life", "--json").stdout) == {"deleted": ["life"]}
    assert "life" not in admin.list_topics()


def test_a_typed_topic_from_text_and_from_a_file(run, admin, tmp_path):
    run("topic", "create", "typed1", "--schema", "carrier:string,delay:double", "--key-column", "carrier")
    pq.write_table(admin.describe_topic("typed1").schema.empty_table(), tmp_path / "x.parquet")
    run("topic", "create", "typed2", "--schema-file", str(tmp_path / "x.parquet"))
    assert admin.describe_topic("typed2").schema.equals(pa.schema([("carrier", pa.string()), ("delay", pa.float64())]))
    shown = run("topic", "describe", "typed1").stdout
    assert "carrier" in shown and "key carrier" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "about"),
    [
        (["topic", "describe", "nosuch"], 1, "rayqueue topic create nosuch"),
        (["topic", "consume", "nosuch"], 1, "rayqueue topic create nosuch"),
        (["topic", "create", "a b"], 1, "another name"),
        (["topic", "create", "x", "--schema", "a:strnig"], 1, "strnig"),
        (["topic", "create", "x", "-c", "retention.mss=1"], 1, "did you mean 'retention.ms'"),
        (["topic", "create", "x", "-r", "7"], 1, "replication factor 7"),
        (["topic", "create", "x", "-c", "retention.ms"], 2, "not name=value"),
        (["topic", "create", "x", "-p", "0"], 2, "x>=1"),
        (["topic", "create"], 2, "Missing argument"),
        (["topic", "alter-config", "x"], 2, "give name=value"),
        (["topic", "consume", "x", "-o", "yesterday"], 2, "is none of start, end"),
        (["topic", "consume", "x", "-f", "%x"], 2, "there is no %x"),
        (["topic", "consume", "x", "--json", "--output", "text"], 2, "contradict"),
        (["topic", "consume", "x", "-f", "%v", "--json"], 2, "--format is for text"),
        (["topic", "produce", "x", "--json", "-k", ":"], 2, "--key-separator"),
        (["group", "list"], 2, "No such command"),
        (["log", "verify", "nosuchpath"], 2, "does not exist"),
    ],
)
def test_errors_are_one_line_and_say_what_to_do(run, arguments, status, about):
    result = run(*arguments, status=status)
    assert about in result.stderr and result.stdout == ""
    assert status == 2 or len(result.stderr.splitlines()) == 1


def test_nobody_at_the_address():
    result = CliRunner().invoke(cli, ["topic", "list", "-b", "127.0.0.1:1"], env={"RAYQUEUE_BOOTSTRAP": ""})
    assert result.exit_code == 1 or result.exit_code == 2
    assert "127.0.0.1:1" in result.stderr and "Traceback" not in result.stderr


def test_every_command_has_help_and_examples(run):
    def walk(command, path):
        if hasattr(command, "commands"):
            for name, child in command.commands.items():
                yield from walk(child, [*path, name])
        else:
            yield path, command

    for path, command in walk(cli, []):
        assert command.help and len(command.help) > 20, path
        assert command.epilog and "Examples" in command.epilog, path
        text = run(*path, "--help").stdout
        assert "Examples:" in text and "--json" in text or path in (["topic", "produce"],), path


def test_version(run):
    assert rayqueue.__version__ in run("--version").stdout


def test_topic_commands_need_no_ray(cluster, topic):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from rayqueue.cli.main import cli\n"
        f"cli(['topic', 'describe', '{topic}', '--json'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(cluster), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert json.loads(done.stdout)["name"] == topic, done.stderr


def test_without_ray_and_without_address_it_says_so(cluster):
    code = "import sys; sys.modules['ray'] = None\nfrom rayqueue.cli.main import cli\ncli(['topic', 'list'])"
    env = {**environment(cluster), "RAYQUEUE_BOOTSTRAP": "auto"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1 and "--bootstrap-servers" in done.stderr and "Traceback" not in done.stderr


# --- pipes ---------------------------------------------------------------------------------------------------------


def test_lines_in_and_out(shell, topic):
    done = shell(f"printf 'u1:login\\nu2:logout\\nu1:again\\n' | rayqueue topic produce {topic} -k :")
    assert "3 records written" in done.stderr and done.stdout == ""
    done = shell(f"rayqueue topic consume {topic} -o start -e -f '%k=%v\\n'")
    assert lines(done.stdout) == ["u1=again", "u1=login", "u2=logout"] and done.stderr == ""


def test_json_from_topic_to_topic(shell, run, admin, topic):
    admin.create_topic("copy", exist_ok=True)
    record = {"key": "k", "value": {"base64": "//4="}, "headers": [["h", "x"]], "timestamp": int(time.time() * 1000)}
    shell(f"echo '{json.dumps(record)}' | rayqueue topic produce {topic} --json")
    shell(f"rayqueue topic consume {topic} -o start -e --json | rayqueue topic produce copy --json -p 0")
    copied = json.loads(run("topic", "consume", "copy", "-o", "start", "-n", "1", "--json").stdout)
    assert {name: copied[name] for name in record} == record


def test_rows_of_a_typed_topic(shell, run, admin, tmp_path):
    admin.create_topic(
        "rows", 2, schema=pa.schema([("who", pa.string()), ("n", pa.int64())]), key_column="who", exist_ok=True
    )
    shell("""for n in 1 2 3; do echo "{\\"who\\":\\"w$n\\",\\"n\\":$n}"; done | rayqueue topic produce rows --json""")
    printed = shell("rayqueue topic consume rows -o start -e -f '%v\\n'").stdout
    assert [json.loads(line)["n"] for line in lines(printed)] and printed.count("\n") == 3
    shell("rayqueue topic consume rows -o start -e --output parquet out.parquet")
    assert sorted(pq.read_table(tmp_path / "out.parquet")["n"].to_pylist()) == [1, 2, 3]
    assert not (tmp_path / "out.parquet.partial").exists()
    refused = shell('echo \'{"who":"w","m":1}\' | rayqueue topic produce rows --json', status=1)
    assert "line 1" in refused.stderr and "'m' is not a column" in refused.stderr


def test_many_lines_stream_through(shell, topic):
    shell(f"seq 1 30000 | rayqueue topic produce {topic}")
    counted = shell(f"rayqueue topic consume {topic} -o start -e | sort -n | uniq | wc -l")
    assert counted.stdout.strip() == "30000"


def test_who_has_enough_closes_the_pipe_quietly(shell, topic):
    shell(f"seq 1 30000 | rayqueue topic produce {topic} -q")
    done = shell(f"rayqueue topic consume {topic} -o start | head -n 2")
    assert len(done.stdout.splitlines()) == 2 and done.stderr == ""


def test_where_to_begin(run, shell, topic):
    shell(f"seq 0 9 | rayqueue topic produce {topic} -p 1")

    def values(*arguments):
        return run("topic", "consume", topic, "-p", "1", "-e", *arguments).stdout.split()

    assert values("-o", "-3") == ["7", "8", "9"]
    assert values("-o", "8") == ["8", "9"]
    assert values("-o", "end") == []
    assert values("-o", "@2020-01-01", "-n", "2") == ["0", "1"]
    assert values("-o", "@2999-01-01") == []
    assert values("-o", "start", "-n", "0") == []
    assert "offsets 0 to 10" in run("topic", "consume", topic, "-p", "1", "-o", "11", status=1).stderr
    assert "partitions 0 to 1" in run("topic", "consume", topic, "-p", "2", status=1).stderr


def test_a_line_without_separator_fails_and_says_what_was_sent(shell, topic):
    done = shell(f"printf 'a:1\\nb\\n' | rayqueue topic produce {topic} -k :", status=1)
    assert "1 record written" in done.stderr and "line 2" in done.stderr


class Following:
    """`topic consume` in a process of its own, read as it prints."""

    def __init__(self, cluster, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rayqueue", "topic", "consume", *arguments],
            env=environment(cluster),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.watchdog = threading.Timer(TIMEOUT_S, self.process.kill)
        self.watchdog.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.watchdog.cancel()
        self.process.kill()
        self.process.communicate()


def test_new_records_are_printed_as_they_come_until_ctrl_c(cluster, topic):
    with (
        rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer,
        Following(cluster, topic, "-o", "start") as following,
    ):
        for number in range(3):
            producer.produce(topic, b"%d" % number).result(timeout=20)
            assert following.process.stdout.readline() == f"{number}\n"
        following.process.send_signal(signal.SIGINT)
        _, errors = following.process.communicate(timeout=TIMEOUT_S)
        assert following.process.returncode == 130 and errors == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_parquet_file_is_whole(cluster, topic, tmp_path, number, status):
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce(topic, b"x").result(timeout=20)
    path = tmp_path / "out.parquet"
    with Following(cluster, topic, "-o", "start", str(path)) as following:
        partial = path.with_name("out.parquet.partial")
        wait_for(lambda: partial.exists() and partial.stat().st_size > len(b"PAR1"), following.process)
        following.process.send_signal(number)
        following.process.communicate(timeout=TIMEOUT_S)
        assert following.process.returncode == status
    assert pq.read_table(path)["value"].to_pylist() == [b"x"]


def wait_for(condition, process):
    done = threading.Event()
    while not condition():
        assert process.poll() is None, process.stderr.read()
        done.wait(0.02)


# --- files, perf, doctor -------------------------------------------------------------------------------------------


def test_log_dump_and_verify(run, shell, cluster, topic, admin, tmp_path):
    shell(f"printf 'k:v\\n' | rayqueue topic produce {topic} -k : -p 0")
    path = admin.describe_topic(topic).partitions[0].path
    dumped = json.loads(run("log", "dump", path, "--json").stdout)
    assert (dumped["topic"], dumped["partition"], dumped["offset"], dumped["key"], dumped["value"]) == (
        topic,
        0,
        0,
        "k",
        "v",
    )
    batch = json.loads(run("log", "dump", path, "--batches", "--json").stdout)
    assert batch["record_count"] == 1 and batch["sound"]
    report = json.loads(run("log", "verify", path, "--json").stdout)
    assert report["sound"] and report["records"] == 1
    assert "all sound" in run("log", "verify", str(cluster.data_dir)).stdout

    damaged = tmp_path / "00000000000000000000.arrow"
    data = bytearray((next(f for f in os.scandir(path) if f.name.endswith(".arrow"))).path.encode())
    with open(bytes(data), "rb") as file:
        content = bytearray(file.read())
    content[-20] ^= 1
    damaged.write_bytes(content)
    result = run("log", "verify", str(damaged), status=1)
    assert "CRC32C" in result.stdout and "fail" in result.stdout


def test_perf(run):
    written = json.loads(run("perf", "produce", "--topic", "perf", "-n", "2000", "--partitions", "2", "--json").stdout)
    assert written["records"] == 2000 and written["bytes"] == 200_000 and written["latency_ms"]["p50"] > 0
    arrow = run(
        "perf", "produce", "--topic", "perf", "-n", "3000", "--api", "arrow", "--batch-records", "700", "--json"
    )
    assert json.loads(arrow.stdout)["records"] == 3000
    for api in ("arrow", "rows"):
        read = json.loads(run("perf", "consume", "--topic", "perf", "--api", api, "--json").stdout)
        assert read["records"] == 5000 and read["bytes"] >= 500_000
    assert "records/s" in run("perf", "produce", "--topic", "perf", "-n", "50", "--rate", "1000").stdout


def test_perf_end_to_end(run):
    result = run("perf", "e2e", "--rate", "200", "--seconds", "0.5", "--json")
    found = json.loads(result.stdout)
    assert found["records"] == 100 and 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["max"]


def test_perf_consume_of_an_empty_topic_says_what_to_do(run, topic):
    assert "rayqueue perf produce" in run("perf", "consume", "--topic", topic, status=1).stderr


def test_doctor_on_a_sound_cluster(run, cluster):
    found = json.loads(run("doctor", "--data-dir", str(cluster.data_dir), "--json").stdout)
    results = {check["name"]: check["result"] for check in found["checks"]}
    assert found["healthy"] and not found["summary"]["fail"]
    assert results["cluster"] == results["brokers"] == results["partitions"] == results["locks"] == "ok"


def test_doctor_finds_what_is_wrong(tmp_path):
    with InProcessCluster(tmp_path / "data", brokers=2) as running:
        with AdminClient(running.bootstrap_servers) as admin:
            admin.create_topic("t", 2)
        running.stop_replica(1)
        arguments = ["doctor", "-b", running.bootstrap_servers, "--data-dir", str(running.data_dir)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 1
        assert "fail  partitions" in result.stdout and "->" in result.stdout
    # The very directory, while no cluster answers but a process holds its lock.
    with InProcessCluster(tmp_path / "data", brokers=1) as running:
        result = CliRunner().invoke(cli, ["doctor", "-b", "127.0.0.1:1", "--data-dir", str(running.data_dir)])
        assert result.exit_code == 1
        assert "fail  cluster" in result.stdout and "fail  locks" in result.stdout and str(os.getpid()) in result.stdout
