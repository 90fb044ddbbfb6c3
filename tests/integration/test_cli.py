"""The command line: as a user types it, through real pipes, and in this process where the answer alone matters."""

import json
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
from rayqueue.cli.main import cli
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.cli_session import TIMEOUT_S, environment, runner, shell_in, topic_for


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with InProcessCluster(tmp_path_factory.mktemp("cli"), brokers=2) as running:
        yield running


@pytest.fixture
def topic(request, admin):
    yield from topic_for(request, admin)


@pytest.fixture
def run(cluster):
    return runner(cluster)


@pytest.fixture
def shell(cluster, tmp_path):
    return shell_in(cluster, tmp_path)


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
    assert json.loads(run("topic", "delete", "life", "--yes", "--json").stdout) == {"deleted": ["life"]}
    assert "life" not in admin.list_topics()


def test_nothing_is_deleted_without_a_yes(run, admin, topic):
    assert "give --yes" in run("topic", "delete", topic, status=2).stderr
    assert "give --yes" in run("topic", "delete", topic, "--json", input="", status=2).stderr
    run("topic", "delete", topic, input="n\n", status=1)
    assert topic in admin.list_topics()
    assert f"Delete {topic}" in run("topic", "delete", topic, input="y\n").stderr
    assert topic not in admin.list_topics()


def test_what_there_is_already_and_what_is_never(run, topic):
    refused = run("topic", "create", topic, status=1).stderr
    assert "--exist-ok" in refused and "exist_ok" not in refused
    settings = {
        line.split()[0]: line.split()[1] for line in run("topic", "describe", topic).stdout.splitlines() if line
    }
    assert settings["flush.messages"] == settings["flush.ms"] == "never"
    described = json.loads(run("topic", "describe", topic, "--json").stdout)
    assert described["configs"]["flush.messages"]["value"] == str(2**63 - 1)


def test_status_by_address_needs_no_ray(run, cluster, topic):
    found = json.loads(run("status", "--json").stdout)
    assert found["healthy"] and topic in [one["name"] for one in found["topics"]]
    assert {process["role"] for process in found["processes"]} == {"coordinator", "broker"}
    shown = run("status")
    assert "broker 1" in shown.stdout and topic in shown.stdout and "need Ray" in shown.stderr


def test_doctor_by_address_does_not_guess_the_data_directory(run):
    found = json.loads(run("doctor", "--json").stdout)
    checks = {check["name"]: check for check in found["checks"]}
    assert checks["data directory"]["found"] == "not checked; give --data-dir" and "locks" not in checks


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
        (["group", "seek", "g"], 2, "give --to start"),
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


def test_typed_records_from_topic_to_topic(shell, admin, cluster):
    schema = pa.schema([("who", pa.string()), ("at", pa.timestamp("us")), ("raw", pa.binary())])
    for name in ("ty", "ty2"):
        admin.create_topic(name, 2, schema=schema, key_column="who", exist_ok=True)
    table = pa.table([["a", "b", None], pa.array([1, 2, 3], pa.timestamp("us")), [b"x", b"\xff", None]], schema=schema)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        producer.produce_batch("ty", table).result(timeout=20)
    first = shell("rayqueue topic consume ty -o start -e --json").stdout
    assert sorted(str(json.loads(line)["key"]) for line in lines(first)) == ["None", "a", "b"]
    assert lines(shell("rayqueue topic consume ty -o start -e -f '%k\n'").stdout) == ["", "a", "b"]
    shell("rayqueue topic consume ty -o start -e --json | rayqueue topic produce ty2 --json")
    second = shell("rayqueue topic consume ty2 -o start -e --json").stdout

    def content(text):
        found = [json.loads(line) for line in text.splitlines()]
        return sorted(json.dumps([one[name] for name in ("timestamp", "key", "value", "headers")]) for one in found)

    assert content(first) == content(second)


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
    assert "offsets 0 to 9, not 11" in run("topic", "consume", topic, "-p", "1", "-o", "11", status=1).stderr
    assert "partitions 0 to 1" in run("topic", "consume", topic, "-p", "2", status=1).stderr


def test_an_offset_that_only_one_partition_has(run, shell, topic):
    shell(f"seq 0 3 | rayqueue topic produce {topic} -p 1; echo x | rayqueue topic produce {topic} -p 0")
    result = run("topic", "consume", topic, "-o", "2", "-e")
    assert result.stdout.split() == ["2", "3"]
    assert f"warning: {topic}-0 has offsets 0 to 0, not 2: it starts at its end, 1" in result.stderr
    assert f"{topic}-1 has offsets 0 to 3, not 9" in run("topic", "consume", topic, "-o", "9", "-e", status=1).stderr


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
