"""Topics as `streams/topics.py` has them: made by `init`, and checked by a worker before it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
)

from assetstream.streams.settings import Settings
from assetstream.streams.topics import TopicSpec, specs

T = TypeVar("T")

#: how long we wait for an answer before we say that the broker is away, and for new topics to be served
TIMEOUT_S = 10.0
SERVED_TIMEOUT_S = 30.0

#: what a topic of three replicas or more is made with, else the broker's default holds: what is acknowledged then
#: survives a broker, and the topic can still be written to while one is away
REPLICATED = {"min.insync.replicas": "2"}
#: what data already written depends on: never changed behind the operator's back
STRUCTURE = ("cleanup.policy", "message.timestamp.type")
AWAY = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._AUTHENTICATION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.BROKER_NOT_AVAILABLE,
)
LEADER_MOVES = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._NOENT,
)

#: partitions, and the configuration as strings, of a topic that exists
Actual = tuple[int, dict[str, str]]


class BrokerAway(ConnectionError):
    """No Kafka answered in time; the text says where we asked, why it failed and what to do."""


class TopicMismatch(RuntimeError):
    """Topics are missing or not as they must be; `differences` has a line for each: what is, what should be,
    what to do."""

    def __init__(self, differences: list[str]) -> None:
        self.differences = differences
        super().__init__("\n".join(differences))


def log_offsets(
    settings: Settings, wanted: Mapping[TopicPartition, OffsetSpec], uncommitted: bool
) -> dict[tuple[str, int], int]:
    """Log offsets by (topic, partition), asked for once, by who tries again anyway. Raises KafkaException."""
    admin = AdminClient(settings.kafka(log_level=0))
    admin.list_topics(timeout=10)  # connect first: see `Admin.offsets`
    level = IsolationLevel.READ_UNCOMMITTED if uncommitted else IsolationLevel.READ_COMMITTED
    futures = admin.list_offsets(dict(wanted), isolation_level=level, request_timeout=10)
    return {(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}


class Admin:
    """AdminClient of the installation's cluster, whose calls return within TIMEOUT_S or raise BrokerAway.

    It is quiet: what librdkafka would log on stderr ends up in the exception's text.
    """

    def __init__(self, settings: Settings) -> None:
        self.servers = settings.kafka_bootstrap_servers
        self._last_error = ""
        self.client = AdminClient(
            settings.kafka(error_cb=self._note, log_level=0, **{"socket.connection.setup.timeout.ms": 5000})
        )

    def _note(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = error.str().split(" (after")[0]

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turns the many ways of getting no answer into BrokerAway."""
        try:
            yield
        except KafkaException as failure:
            error = failure.args[0]
            if error.code() not in AWAY:
                raise
            self.client.poll(0)  # lets _note hear why
            raise BrokerAway(
                f"no Kafka answers at {self.servers} ({self._last_error or error.str()}): start one with "
                '"assetstream up", or set ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS'
            ) from failure

    def results(self, futures: dict[Any, Future[T]]) -> dict[Any, T]:
        """The results of an AdminClient call, by what it was asked of."""
        with self.answering():
            return {key: future.result() for key, future in futures.items()}

    def partitions(self) -> dict[str, int]:
        """How many partitions each topic of the cluster has."""
        with self.answering():
            topics = self.client.list_topics(timeout=TIMEOUT_S).topics
        return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}

    def actual(self, wanted: list[TopicSpec]) -> dict[str, Actual]:
        """Those of the `wanted` topics that exist, as they are."""
        counts = self.partitions()
        existing = [spec.name for spec in wanted if spec.name in counts]
        if not existing:
            return {}
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in existing]
        found = self.results(self.client.describe_configs(resources, request_timeout=TIMEOUT_S))
        return {
            resource.name: (counts[resource.name], {name: entry.value for name, entry in config.items()})
            for resource, config in found.items()
        }

    def offsets(
        self,
        partitions: list[tuple[str, int]],
        spec: OffsetSpec,
        isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
    ) -> dict[tuple[str, int], int]:
        """An offset of each (topic, partition): its start, its end, or its last stable offset (latest, committed).

        A broker that is just taking the lead of a partition is asked again for a while.
        """
        self.partitions()  # connect first: asked while it connects, librdkafka now and then asks again only 3 s later
        wanted, deadline = {TopicPartition(*each): spec for each in partitions}, time.monotonic() + TIMEOUT_S
        while True:
            try:
                found = self.results(
                    self.client.list_offsets(wanted, isolation_level=isolation, request_timeout=TIMEOUT_S)
                )
            except KafkaException as failure:
                if failure.args[0].code() not in LEADER_MOVES or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return {(each.topic, each.partition): result.offset for each, result in found.items()}

    def create(self, wanted: list[TopicSpec], replication_factor: int) -> None:
        """Makes topics; one that somebody else made meanwhile is no error."""
        more = REPLICATED if replication_factor >= 3 else {}
        topics = [NewTopic(s.name, s.partitions, replication_factor, config=s.config | more) for s in wanted]
        with self.answering():
            for future in self.client.create_topics(topics, request_timeout=TIMEOUT_S).values():
                try:
                    future.result()
                except KafkaException as failure:
                    if failure.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                        raise

    def alter(self, changes: dict[str, dict[str, str]]) -> None:
        """Sets topic configuration: topic → name → value."""
        resources = [
            ConfigResource(
                ConfigResource.Type.TOPIC,
                topic,
                incremental_configs=[
                    ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
                    for name, value in values.items()
                ],
            )
            for topic, values in changes.items()
        ]
        if resources:
            self.results(self.client.incremental_alter_configs(resources, request_timeout=TIMEOUT_S))

    def wait_served(self, wanted: list[TopicSpec]) -> None:
        """Returns when every partition has a leader, which takes a new one a moment."""
        deadline = time.monotonic() + SERVED_TIMEOUT_S
        while True:
            with self.answering():
                topics = self.client.list_topics(timeout=TIMEOUT_S).topics
            served = {
                name: sum(partition.leader >= 0 for partition in topic.partitions.values())
                for name, topic in topics.items()
            }
            waiting = [spec.name for spec in wanted if served.get(spec.name, 0) < spec.partitions]
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise BrokerAway(f"{self.servers} has no leader of {', '.join(waiting)}: is a broker down?")
            time.sleep(0.1)

    def wait_altered(self, wanted: list[TopicSpec]) -> None:
        """Returns when the brokers show the configuration that was set, a moment after they accepted it."""
        deadline = time.monotonic() + SERVED_TIMEOUT_S
        while any(_adjustable(spec, actual) for spec, actual in self._pairs(wanted)):
            if time.monotonic() > deadline:
                raise BrokerAway(f"{self.servers} accepted new topic settings but does not show them")
            time.sleep(0.1)

    def _pairs(self, wanted: list[TopicSpec]) -> Iterator[tuple[TopicSpec, Actual]]:
        actual = self.actual(wanted)
        return ((spec, actual[spec.name]) for spec in wanted if spec.name in actual)


def _structural(spec: TopicSpec, actual: Actual) -> Iterator[str]:
    """A line for each difference that only the operator may settle."""
    count, config = actual
    if count != spec.partitions:
        yield (
            f"topic {spec.name} has {count} partitions, should have {spec.partitions}: set "
            f'ASSETSTREAM_PARTITIONS={count}, or delete the topic with its data and run "assetstream init"'
        )
    for name in STRUCTURE:
        wanted = spec.config.get(name, config[name])
        if config[name] not in (wanted, spec.earlier.get(name)):
            yield (
                f"topic {spec.name} has {name}={config[name]}, should have {wanted}: "
                f'set it with kafka-configs, or delete the topic with its data and run "assetstream init"'
            )
    size = int(spec.config.get("max.message.bytes", 0))
    if int(config["max.message.bytes"]) < size:
        yield (
            f"topic {spec.name} has max.message.bytes={config['max.message.bytes']}, "
            f"should have {size} or more: raise it with kafka-configs"
        )


def _adjustable(spec: TopicSpec, actual: Actual) -> dict[str, str]:
    """Retention and tuning that differ from the settings, as they should be."""
    fixed = {*STRUCTURE, "max.message.bytes"} - spec.earlier.keys()
    return {name: v for name, v in spec.config.items() if name not in fixed and actual[1].get(name) != v}


def _loses(spec: TopicSpec, actual: Actual) -> Iterator[str]:
    """A line for each limit on a topic that must be kept for ever."""
    for name, wanted in _adjustable(spec, actual).items():
        if name.startswith("retention.") and wanted == "-1":
            yield (
                f"topic {spec.name} has {name}={actual[1].get(name)}, should have -1 (kept for ever): "
                'run "assetstream init"'
            )


def _differences(
    wanted: list[TopicSpec], actual: dict[str, Actual], rule: Callable[[TopicSpec, Actual], Iterator[str]]
) -> list[str]:
    return [line for spec in wanted if spec.name in actual for line in rule(spec, actual[spec.name])]


def init_topics(settings: Settings) -> list[str]:
    """Makes the topics that are missing, sets retention as the settings have it, waits until all are served.

    Returns a line for everything it did; nothing when all was there. Raises TopicMismatch, before it changes
    anything, when an existing topic differs in partitions, cleanup policy, kind of timestamp or has too small
    a message size; BrokerAway; KafkaException for what the cluster refuses (such as too many replicas).
    """
    admin, wanted = Admin(settings), specs(settings)
    actual = admin.actual(wanted)
    if differences := _differences(wanted, actual, _structural):
        raise TopicMismatch(differences)
    missing = [spec for spec in wanted if spec.name not in actual]
    if missing:
        admin.create(missing, settings.replication_factor)
    changes = {spec.name: _adjustable(spec, actual[spec.name]) for spec in wanted if spec.name in actual}
    admin.alter({topic: values for topic, values in changes.items() if values})
    admin.wait_served(wanted)
    admin.wait_altered(wanted)
    return [
        *(f"created topic {spec.name} with {spec.partitions} partitions" for spec in missing),
        *(
            f"set {name}={value} of topic {topic}, was {actual[topic][1].get(name)}"
            for topic, values in changes.items()
            for name, value in values.items()
        ),
    ]


def check_topics(settings: Settings) -> None:
    """Raises TopicMismatch when a topic is missing, is not as it must be, or loses what must be kept for
    ever; BrokerAway."""
    wanted = specs(settings)
    actual = Admin(settings).actual(wanted)
    missing = [f'topic {s.name} is missing: run "assetstream init"' for s in wanted if s.name not in actual]
    differences = [
        *missing,
        *_differences(wanted, actual, _structural),
        *_differences([s for s in wanted if s.config.get("retention.ms") == "-1"], actual, _loses),
    ]
    if differences:
        raise TopicMismatch(differences)
