"""A Kafka of three nodes, two of which must have what is acknowledged: each of them is killed during load."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import ConfigResource

from assetstream.cli.init import init_all
from assetstream.models.market import market
from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
from assetstream.streams.settings import Settings
from tests.faults.cluster import NODES, Cluster, cluster
from tests.faults.load import SEED, while_publishing
from tests.integration.pipeline import (
    Check,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    wait_until,
)

USERS, SYMBOLS, BAD = 20, 10, 0.01
MESSAGES, RATE = 30_000, 150


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def settings(kafka: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    clickhouse = EmbeddedClickHouse(tmp_path_factory.mktemp("clickhouse"))
    yield Settings(
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        clickhouse_url=f"http://127.0.0.1:{clickhouse.start(attached=True).port}",
        replication_factor=3,
        _env_file=None,
    )
    clickhouse.stop()


def test_two_replicas_have_what_is_acknowledged(kafka: Cluster, settings: Settings) -> None:
    init_all(settings)
    resource = ConfigResource(ConfigResource.Type.TOPIC, "trades")
    admin = kafka.admin()  # kept: its answers end with it
    (described,) = admin.describe_configs([resource]).values()
    assert described.result()["min.insync.replicas"].value == "2"


def test_each_node_is_killed(kafka: Cluster, settings: Settings, tmp_path: Path) -> None:
    """Whoever leads partitions and coordinates groups and transactions dies, comes back, and then another does."""
    *before, last = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)
    with pipeline(settings, tmp_path, "one", "two") as running:
        running.work_through(before)

        def kill_each() -> None:
            for number in random.Random(SEED).sample(NODES, len(NODES)):
                time.sleep(2)
                assert number in kafka.leaders("trades").values()
                kafka.kill(number)
                wait_until(lambda n=number: n not in kafka.leaders("trades").values(), "other leaders", 60)
                time.sleep(2)
                kafka.restart(number)
                wait_until(kafka.is_whole, "all replicas to be in sync again", 60)

        while_publishing(running, last, RATE, kill_each)
        wait_until(lambda: all(worker.is_ready for worker in running.workers), "the workers to be ready")
        Check(running).everything()
