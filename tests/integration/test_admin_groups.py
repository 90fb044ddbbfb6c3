"""Consumer groups from outside: by AdminClient, and by `rayqueue group`."""

import json
import threading
from datetime import datetime, timezone

import pyarrow.parquet as pq
import pytest

import rayqueue
from rayqueue import TopicPartition, errors
from rayqueue.testing.inprocess import InProcessCluster
from tests.integration.cli_session import runner

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WAIT_S = 30.0
OLD_MS = 1_600_000_000_000


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with InProcessCluster(tmp_path_factory.mktemp("groups"), brokers=2) as running:
        yield running


@pytest.fixture
def run(cluster):
    return runner(cluster)


@pytest.fixture
def topic(request, admin, cluster):
    """Of two partitions with ten records each; record n has the timestamp OLD_MS + n. Its group has its name."""
    name = request.node.name.split("[")[0][-60:]
    admin.create_topic(name, partitions=2)
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for number in range(20):
            producer.produce(name, b"%d" % number, partition=number % 2, timestamp=OLD_MS + number // 2)
    yield name
    admin.delete_topic(name)


def member(cluster, topic, **more):
    return rayqueue.Consumer(
        topic, bootstrap_servers=cluster.bootstrap_servers, group_id=topic, auto_offset_reset="earliest", **more
    )


def read_all(consumer, count=20):
    seen = 0
    while seen < count:
        found = consumer.consume(count, timeout=WAIT_S)
        assert found, f"{seen} records of {count} came"
        seen += len(found)


def test_a_group_is_listed_and_described_while_it_reads_and_after(cluster, admin, topic, run):
    with member(cluster, topic, client_id="reader") as consumer:
        read_all(consumer)
        consumer.commit(offsets=[TopicPartition(topic, 0, 4), TopicPartition(topic, 1, 10)])
        summary = next(group for group in admin.list_groups() if group.group == topic)
        assert (summary.state, summary.members) == ("Stable", 1)
        told = admin.describe_group(topic)
        (one,) = told.members
        assert (one.client_id, one.topics, one.revoking) == ("reader", [topic], [])
        assert one.assignment == one.target == consumer.assignment()
        assert [(o.committed, o.start, o.end, o.lag, o.member_id) for o in told.offsets] == [
            (4, 0, 10, 6, one.member_id),
            (10, 0, 10, 0, one.member_id),
        ]
        assert told.lag == 6
        shown = run("group", "describe", topic).stdout
        assert f"{topic}: Stable, 1 member, lag 6" in shown and one.member_id in shown
        status = json.loads(run("status", "--json").stdout)
        assert {"group": topic, "state": "Stable", "members": 1, "lag": 6} in status["groups"]
        assert "GROUP" in run("status").stdout
        with pytest.raises(errors.GroupNotEmpty, match="1 members: stop them first"):
            admin.reset_group_offsets(topic, "latest")
        with pytest.raises(errors.GroupNotEmpty):
            admin.delete_group(topic)
        consumer.commit()
    told = admin.describe_group(topic)
    assert (told.state, told.members, told.lag) == ("Empty", [], 0)
    listed = json.loads(run("group", "list", "--json").stdout)
    assert {"group": topic, "state": "Empty", "members": 0} in listed
    admin.delete_group(topic)
    assert topic not in {group.group for group in admin.list_groups()}
    with pytest.raises(errors.GroupNotFound):
        admin.describe_group(topic)


@pytest.mark.parametrize(
    ("to", "after"),
    [
        ("earliest", 0),
        ("latest", 10),
        (OLD_MS + 3, 3),
        (datetime.fromtimestamp((OLD_MS + 7) / 1000, timezone.utc), 7),
        (OLD_MS + 10_000, 10),
    ],
)
def test_offsets_are_reset(cluster, admin, topic, to, after):
    admin.reset_group_offsets(topic, {(topic, 0): 5, TopicPartition(topic, 1): 6})
    before = [(topic, 0, 5), (topic, 1, 6)]
    told = admin.reset_group_offsets(topic, to, dry_run=True)
    assert [(r.topic, r.partition, r.before, r.after) for r in told] == [(*tp, after) for tp in before]
    assert [o.committed for o in admin.describe_group(topic).offsets] == [5, 6]
    assert admin.reset_group_offsets(topic, to) == told
    assert [o.committed for o in admin.describe_group(topic).offsets] == [after, after]
    with member(cluster, topic) as consumer:
        left = 2 * (10 - after)
        if left:
            read_all(consumer, left)
        assert consumer.poll(0.2) is None
    admin.delete_group(topic)


def test_a_reset_can_begin_a_group_with_a_topic(admin, topic):
    with pytest.raises(errors.GroupNotFound):
        admin.reset_group_offsets(topic, "latest")
    moved = admin.reset_group_offsets(topic, "latest", topics=[topic])
    assert [(r.before, r.after) for r in moved] == [(None, 10), (None, 10)]
    admin.delete_group_offsets(topic, [(topic, 0)])
    assert [(o.partition, o.committed) for o in admin.describe_group(topic).offsets] == [(1, 10)]
    admin.delete_group(topic)


def test_wrong_use_is_refused_with_what_to_do(admin, topic):
    with pytest.raises(errors.OffsetOutOfRange, match="has offsets 0 to 10, not 11"):
        admin.reset_group_offsets(topic, {(topic, 0): 11})
    with pytest.raises(errors.UnknownTopicOrPartition):
        admin.reset_group_offsets(topic, {(topic, 2): 1})
    with pytest.raises(errors.ConfigError, match="reset to 'earliest', 'latest', a datetime"):
        admin.reset_group_offsets(topic, "beginning", topics=[topic])
    with pytest.raises(errors.ConfigError, match="not empty"):
        admin.describe_group("")
    with pytest.raises(errors.GroupNotFound):
        admin.delete_group("nobody-ever-joined")
    assert topic not in {group.group for group in admin.list_groups()}


def test_the_command_line_moves_and_deletes(admin, topic, run):
    assert "has committed nothing" not in run("group", "seek", topic, "--to", "end", "--topic", topic).stderr
    shown = run("group", "seek", topic, "--to", "@2020-09-13T12:26:40.004Z", "--dry-run")
    assert "Nothing was changed" in shown.stderr
    moved = json.loads(run("group", "seek", topic, f"{topic}:0=3", f"{topic}:1=4", "--json").stdout)
    assert [(row["before"], row["after"]) for row in moved] == [(10, 3), (10, 4)]
    assert json.loads(run("group", "describe", topic, "--json").stdout)["lag"] == 13
    assert "is not TOPIC:PARTITION=OFFSET" in run("group", "seek", topic, "0=3", status=2).stderr
    assert "give --to start" in run("group", "seek", topic, status=2).stderr
    assert "--topic goes with --to" in run("group", "seek", topic, f"{topic}:0=3", "--topic", topic, status=2).stderr
    run("group", "delete", topic, "--topic", topic)
    run("group", "delete", topic, status=1)
    assert "there is no group" in run("group", "describe", "nobody", status=1).stderr.lower()


def test_records_are_printed_as_a_member_of_a_group_which_goes_on_where_it_was(admin, topic, run):
    first = run("topic", "consume", topic, "--group", topic, "-o", "start", "-n", "5").stdout.split()
    assert sum(offset.committed or 0 for offset in admin.describe_group(topic).offsets) == 5
    rest = run("topic", "consume", topic, "--group", topic, "-o", "start", "-e").stdout.split()
    assert len(first) == 5 and sorted(map(int, first + rest)) == list(range(20))
    assert admin.describe_group(topic).lag == 0
    assert run("topic", "consume", topic, "--group", topic, "-o", "start", "-e").stdout == ""
    assert "leave out --partition" in run("topic", "consume", topic, "--group", topic, "-p", "0", status=2).stderr
    assert "-o is start or end" in run("topic", "consume", topic, "--group", topic, "-o", "5", status=2).stderr


def test_a_member_that_wants_few_records_is_handed_no_more_and_a_file_is_committed_when_it_is_whole(
    cluster, admin, topic, run, tmp_path
):
    """Three are there at first, and the fourth and fifth come with others behind them."""
    admin.reset_group_offsets(topic, {(topic, 0): 10, (topic, 1): 7})
    more = threading.Timer(1.0, lambda: send_more(cluster, topic))
    more.start()
    try:
        assert len(run("topic", "consume", topic, "--group", topic, "-n", "5").stdout.split()) == 5
    finally:
        more.join()
    assert admin.describe_group(topic).lag == 10 + 3 - 5
    path = tmp_path / "rest.parquet"
    run("topic", "consume", topic, str(path), "--group", topic, "-e")
    assert pq.read_table(path).num_rows == 8 and admin.describe_group(topic).lag == 0


def send_more(cluster, topic):
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for number in range(10):
            producer.produce(topic, b"%d" % number, partition=0)
