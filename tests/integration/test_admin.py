"""The admin client against a cluster in this process."""

import multiprocessing
import pickle

import pyarrow as pa
import pytest

import rayqueue
from rayqueue import AdminClient, NewTopic, TopicPartition, errors
from rayqueue.testing.inprocess import InProcessCluster

SCHEMA = pa.schema([("tailnum", pa.string()), ("delay", pa.float64())])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with InProcessCluster(tmp_path_factory.mktemp("admin"), brokers=2) as running:
        yield running


@pytest.fixture
def topic(request, admin):
    """A topic of three partitions with a name of its own."""
    name = request.node.name.split("[")[0]
    admin.create_topic(name, partitions=3)
    yield name
    if name in admin.list_topics():
        admin.delete_topic(name)


def fill(cluster, topic, count, partition=0):
    with rayqueue.Producer(bootstrap_servers=cluster.bootstrap_servers) as producer:
        for number in range(count):
            producer.produce(topic, b"%d" % number, partition=partition)
        assert producer.flush(timeout=20) == 0


def test_a_new_topic_is_led_at_once(admin, topic):
    described = admin.describe_topic(topic)
    assert [p.partition for p in described.partitions] == [0, 1, 2]
    assert all(
        p.leader >= 0 and p.isr == p.replicas and p.replicas[0] == p.leader and not p.error
        for p in described.partitions
    )
    assert {p.leader for p in described.partitions} == {0, 1}
    assert described.records == 0 and described.replication_factor == 2 and described.schema is None


def test_every_broker_knows_a_new_topic(cluster, topic):
    for address in cluster.bootstrap_servers.split(","):
        with AdminClient(address) as other:
            assert topic in other.list_topics()


def test_offsets_and_sizes(cluster, admin, topic):
    fill(cluster, topic, 10, partition=1)
    described = admin.describe_topic(topic)
    assert [(p.start_offset, p.end_offset, p.records) for p in described.partitions] == [
        (0, 0, 0),
        (0, 10, 10),
        (0, 0, 0),
    ]
    assert described.records == 10
    assert described.size == sum(p.size for p in described.partitions) > 0
    assert described.partitions[1].segments == 1 and topic in described.partitions[1].path


def test_a_typed_topic(admin):
    admin.create_topic(
        "typed", 2, schema=SCHEMA, key_column="tailnum", config={"partition.by": "tailnum"}, exist_ok=True
    )
    described = admin.describe_topic("typed")
    assert described.schema.equals(SCHEMA) and described.key_column == "tailnum"
    assert described.configs["partition.by"] == "tailnum" and described.overrides == ["partition.by"]
    assert "tailnum: string" in repr(described) and "key_column='tailnum'" in repr(described)
    assert described.to_dict()["schema"] == {"tailnum": "string", "delay": "double"}


def test_exist_ok_is_quiet_about_an_equal_topic_only(admin, topic):
    admin.create_topic(topic, partitions=3, exist_ok=True)
    with pytest.raises(errors.TopicAlreadyExists):
        admin.create_topic(topic, partitions=3)
    for change, about in (
        ({"partitions": 4}, "3 partitions, not 4"),
        ({"partitions": 3, "schema": SCHEMA}, "plain records, not columns"),
        ({"partitions": 3, "config": {"retention.ms": 5}}, "retention.ms=604800000, not 5"),
    ):
        with pytest.raises(errors.TopicAlreadyExists, match=about):
            admin.create_topic(topic, exist_ok=True, **change)


@pytest.mark.parametrize(
    ("arguments", "error", "about"),
    [
        ({"name": "a b"}, errors.InvalidTopic, "a b"),
        ({"name": ".."}, errors.InvalidTopic, "another name"),
        ({"name": "x" * 250}, errors.InvalidTopic, "249"),
        ({"name": 5}, errors.InvalidTopic, "text"),
        ({"partitions": 0}, errors.InvalidPartitions, "at least 1"),
        ({"partitions": "3"}, errors.InvalidPartitions, "whole number"),
        ({"replication_factor": 0}, errors.InvalidReplicationFactor, "at least 1"),
        ({"replication_factor": 3}, errors.InvalidReplicationFactor, "2 are alive"),
        ({"config": {"retention.mss": 5}}, errors.ConfigError, "did you mean 'retention.ms'"),
        ({"config": {"retention.ms": "soon"}}, errors.ConfigError, "retention.ms must be"),
        ({"config": {"retention.ms": None}}, errors.ConfigError, "leave it out"),
        ({"config": {"retention.ms": 1, "retention_ms": 1}}, errors.ConfigError, "twice"),
        ({"config": {"cleanup.policy": "compacted"}}, errors.ConfigError, "compact,delete"),
        ({"config": {"cleanup.policy": "compact"}, "schema": SCHEMA}, errors.ConfigError, "no key column"),
        ({"config": {"partition.by": "delay"}}, errors.ConfigError, "needs a typed topic"),
        ({"config": {"partition.by": "dely"}, "schema": SCHEMA}, errors.ConfigError, "did you mean 'delay'"),
        ({"key_column": "tailnum"}, errors.SchemaMismatch, "needs a typed topic"),
        ({"key_column": "tailnumm", "schema": SCHEMA}, errors.SchemaMismatch, "did you mean 'tailnum'"),
        ({"schema": pa.schema([("offset", pa.int64())])}, errors.SchemaMismatch, "reserved"),
        ({"schema": {"a": "int64"}}, errors.SchemaMismatch, "pyarrow.Schema"),
    ],
)
def test_bad_input_is_refused_and_says_why(admin, arguments, error, about):
    with pytest.raises(error, match=about):
        admin.create_topic(**{"name": "refused", **arguments})
    assert "refused" not in admin.list_topics()


def test_several_topics_in_one_request(admin):
    with pytest.raises(errors.InvalidTopic, match="created 'many-1', 'many-2'; not created 'a b': the topic name"):
        admin.create_topics([NewTopic("many-1"), NewTopic("a b"), NewTopic("many-2", partitions=2)])
    with pytest.raises(errors.TopicAlreadyExists, match="created none; not created 'many-1'.*; 'many-2': there is"):
        admin.create_topics([NewTopic("many-1"), NewTopic("many-2")])
    assert {"many-1", "many-2"} <= set(admin.list_topics())
    with pytest.raises(errors.TopicAlreadyExists, match="twice"):
        admin.create_topics([NewTopic("many-3"), NewTopic("many-3")])
    assert "many-3" not in admin.list_topics()


@pytest.mark.parametrize("given", [["s"], "s", NewTopic("s"), [{"name": "s"}], 5, [None]])
def test_what_are_no_new_topics_is_refused(admin, given):
    with pytest.raises(errors.ConfigError, match=r"NewTopic\(name, partitions, \.\.\.\), not"):
        admin.create_topics(given)


def test_a_dictionary_column_is_its_value_type(admin):
    schema = pa.schema([("kind", pa.dictionary(pa.int32(), pa.string()))])
    admin.create_topic("dictionaries", schema=schema, exist_ok=True)
    assert admin.describe_topic("dictionaries").schema.field("kind").type == pa.string()


def test_min_insync_replicas_above_the_replication_factor(admin, topic):
    with pytest.raises(errors.ConfigError, match=r"min\.insync\.replicas 3 is above the replication factor.*2"):
        admin.create_topic("insync", config={"min.insync.replicas": 3})
    with pytest.raises(errors.ConfigError, match=r"min\.insync\.replicas 3 is above the replication factor.*2"):
        admin.alter_topic_config(topic, {"min.insync.replicas": 3})


def test_a_missing_topic_has_a_nearest_name(admin, topic):
    for call in (admin.describe_topic, admin.delete_topic, admin.describe_topic_config):
        with pytest.raises(errors.UnknownTopicOrPartition, match=f"did you mean '{topic}'"):
            call(topic + "x")


def test_delete(admin, topic):
    before = admin.describe_topic(topic).topic_id
    admin.delete_topic(topic)
    assert topic not in admin.list_topics()
    admin.create_topic(topic)
    assert admin.describe_topic(topic).topic_id != before


def test_configs(admin, topic):
    admin.alter_topic_config(topic, {"retention_ms": 60_000, "segment.bytes": "4096"})
    entries = admin.describe_topic_config(topic)
    assert (entries["retention.ms"].value, entries["retention.ms"].source) == ("60000", "topic")
    assert not entries["retention.ms"].is_default and entries["retention.bytes"].is_default
    admin.alter_topic_config(topic, {"retention.ms": None})
    entries = admin.describe_topic_config(topic)
    assert (entries["retention.ms"].value, entries["retention.ms"].is_default) == ("604800000", True)
    assert entries["segment.bytes"].value == "4096"


def test_a_setting_from_the_clusters_start(tmp_path):
    with (
        InProcessCluster(tmp_path, config={"retention.ms": 1000}) as running,
        AdminClient(running.bootstrap_servers) as admin,
    ):
        admin.create_topic("t")
        entry = admin.describe_topic_config("t")["retention.ms"]
        assert (entry.value, entry.source, entry.is_default) == ("1000", "cluster", False)


@pytest.mark.parametrize(
    ("config", "about"),
    [
        ({}, "retention.ms"),
        ({"retention.mss": 1}, "did you mean"),
        ({"segment.bytes": 1}, "segment.bytes must be"),
        ({"segment.bytes": 4096, "segment_bytes": None}, "set and reset"),
        ({"partition.by": "x"}, "typed topic"),
    ],
)
def test_config_changes_that_are_refused(admin, topic, config, about):
    with pytest.raises(errors.ConfigError, match=about):
        admin.alter_topic_config(topic, config)
    assert admin.describe_topic(topic).overrides == []


def test_more_partitions(admin, topic):
    admin.create_partitions(topic, 5)
    assert [p.partition for p in admin.describe_topic(topic).partitions if p.leader >= 0] == [0, 1, 2, 3, 4]
    for count in (5, 2, "6"):
        with pytest.raises(errors.InvalidPartitions, match="has 5 partitions"):
            admin.create_partitions(topic, count)


def test_delete_records(cluster, admin, topic):
    fill(cluster, topic, 10, partition=0)
    fill(cluster, topic, 4, partition=2)
    first, third = TopicPartition(topic, 0), TopicPartition(topic, 2)
    assert admin.delete_records({first: 7, third: -1}) == {first: 7, third: 4}
    assert [p.start_offset for p in admin.describe_topic(topic).partitions] == [7, 0, 4]
    assert admin.delete_records([TopicPartition(topic, 0, 8)]) == {first: 8}
    with pytest.raises(errors.OffsetOutOfRange, match=f"{topic}-0.*0 to 10"):
        admin.delete_records({first: 11})
    with pytest.raises(errors.UnknownTopicOrPartition, match="partitions 0 to 2"):
        admin.delete_records({TopicPartition(topic, 3): 0})
    with pytest.raises(errors.OffsetOutOfRange, match="at least 0"):
        admin.delete_records([first])
    assert admin.delete_records({(topic, 0): 9}) == {first: 9}
    assert admin.delete_records([(topic, 0, 10)]) == {first: 10}
    for given in ({"t": 0}, ["t"], "t", 5, TopicPartition(topic, 0, 3), [5]):
        with pytest.raises(errors.ConfigError, match=r"TopicPartition\(topic, partition\)"):
            admin.delete_records(given)


def test_describe_cluster(admin, topic):
    described = admin.describe_cluster()
    assert [(b.broker_id, b.alive) for b in described.brokers] == [(0, True), (1, True)]
    assert sum(b.leads for b in described.brokers) == described.partitions >= 3
    assert described.without_leader == described.under_replicated == []
    assert described.coordinator and described.to_dict()["cluster_id"] == described.cluster_id
    assert "broker 1" in repr(described)


def test_a_leader_that_is_away_is_said(tmp_path):
    with InProcessCluster(tmp_path, brokers=2) as running, AdminClient(running.bootstrap_servers) as admin:
        admin.create_topic("t", 2, replication_factor=1)
        gone = next(p for p in admin.describe_topic("t").partitions if p.leader == 1)
        running.stop_replica(1)
        found = {p.partition: p for p in admin.describe_topic("t").partitions}
        assert found[gone.partition].error and found[gone.partition].end_offset is None
        assert found[1 - gone.partition].end_offset == 0
        assert admin.describe_topic("t").records is None


def test_settings_are_checked(cluster):
    with pytest.raises(errors.ConfigError, match=r"did you mean 'bootstrap\.servers'"):
        AdminClient(bootstrap_server=cluster.bootstrap_servers)


@pytest.mark.parametrize("client", [AdminClient, rayqueue.Producer, rayqueue.Consumer])
@pytest.mark.parametrize("servers", ["nonsense", "http://127.0.0.1:9500", "", ",", [], [9500], ["a:1", "b"], 5, None])
def test_what_is_no_address_is_said_when_a_client_is_made(client, servers):
    with pytest.raises(errors.ConfigError, match=r"bootstrap\.servers .*host:port"):
        client(bootstrap_servers=servers)


def test_addresses_may_be_a_list(cluster, topic):
    addresses = [address.removeprefix("grpc://") for address in cluster.bootstrap_servers.split(",")]
    for given in (addresses, tuple(addresses)):
        with AdminClient(bootstrap_servers=given) as one, AdminClient(given) as other:
            assert topic in one.list_topics() and topic in other.list_topics()


def test_an_address_where_nobody_listens():
    with (
        AdminClient("127.0.0.1:1", request_timeout_ms=200) as admin,
        pytest.raises(errors.BrokerNotAvailable, match=r"127\.0\.0\.1:1"),
    ):
        admin.list_topics()


def test_it_is_not_pickled(admin):
    with pytest.raises(TypeError, match="make one where it is used"):
        pickle.dumps(admin)


def test_a_closed_client_says_so(cluster):
    admin = AdminClient(cluster.bootstrap_servers)
    admin.list_topics()
    admin.close()
    admin.close()
    with pytest.raises(errors.RayQueueError, match="closed"):
        admin.list_topics()


def _use(admin, answers):
    try:
        answers.put(str(admin.list_topics()))
    except errors.RayQueueError as error:
        answers.put(str(error))


def test_a_forked_child_is_told(admin):
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    child = fork.Process(target=_use, args=(admin, answers))
    child.start()
    assert "fork" in answers.get()
    child.join(timeout=10)
    assert child.exitcode == 0
