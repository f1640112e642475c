"""`lag` and `alerts` on a real broker of this module's own, with transactions committed, aborted and open."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from typer.testing import CliRunner

from assetstream.cli.lag import COUNTED, Lag, lags
from assetstream.cli.main import app
from assetstream.streams.admin import Admin, TopicMismatch, init_topics
from assetstream.streams.embedded_kafka import EmbeddedKafka
from assetstream.streams.settings import Settings


@pytest.fixture(scope="module")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    kafka = EmbeddedKafka(Path(tmp_path_factory.mktemp("lag")))
    process = kafka.start(attached=True)
    yield f"127.0.0.1:{process.port}"
    kafka.stop()


@pytest.fixture
def settings(bootstrap: str, request: pytest.FixtureRequest) -> Settings:
    made = Settings(
        kafka_bootstrap_servers=bootstrap, topic_prefix=f"{request.node.name}.", partitions=1, _env_file=None
    )
    init_topics(made)
    return made


def of(settings: Settings, topic: str) -> Lag:
    (found,) = [row for row in lags(settings) if row.topic == settings.topic(topic)]
    return found


def publish(settings: Settings, topic: str, n: int, first: int = 0) -> None:
    producer = Producer(settings.kafka())
    for i in range(first, first + n):
        producer.produce(settings.topic(topic), value=str(i), partition=0)
    assert producer.flush(10) == 0


def transaction(settings: Settings, topic: str, n: int, name: str = "test") -> Producer:
    """A transaction with n records that is still open."""
    producer = Producer(settings.kafka(**{"transactional.id": f"{settings.topic_prefix}{name}"}))
    producer.init_transactions(10)
    producer.begin_transaction()
    for _ in range(n):
        producer.produce(settings.topic(topic), value=b"x", partition=0)
    producer.flush(10)
    return producer


def commit(settings: Settings, group: str, topic: str, offset: int) -> None:
    consumer = Consumer(settings.kafka(**{"group.id": settings.group(group), "enable.auto.commit": False}))
    consumer.commit(offsets=[TopicPartition(settings.topic(topic), 0, offset)], asynchronous=False)
    consumer.close()


def test_every_group_topic_and_partition_is_there(settings: Settings) -> None:
    rows = lags(settings)
    agents, reconciler, sinks = (settings.group(name) for name in ("agents", "reconciler", "sinks"))
    inputs = ("trades", "transactions", "risk_limits", "prices", "transfers", "clock")
    assert rows == [
        *(Lag(agents, settings.topic(name), 0, 0, 0, 0) for name in inputs),
        *(Lag(reconciler, settings.topic(name), 0, 0, 0, 0) for name in ("broker_statements", "break_decisions")),
        Lag(sinks, settings.topic("analytics"), 0, 0, 0, 0),
    ]


def test_nothing_committed_counts_from_the_logs_start(settings: Settings) -> None:
    publish(settings, "trades", 5)
    assert of(settings, "trades")[3:] == (5, 0, 5)
    admin = Admin(settings)
    admin.results(admin.client.delete_records([TopicPartition(settings.topic("trades"), 0, 2)]))
    assert of(settings, "trades")[3:] == (5, 2, 3)


def test_committed_records_are_not_behind(settings: Settings) -> None:
    publish(settings, "prices", 5)
    commit(settings, "agents", "prices", 3)
    assert of(settings, "prices")[3:] == (5, 3, 2)
    commit(settings, "agents", "prices", 5)
    assert of(settings, "prices")[3:] == (5, 5, 0)


def test_markers_and_aborted_records_do_not_count(settings: Settings) -> None:
    transaction(settings, "analytics", 3).commit_transaction(10)
    assert of(settings, "analytics")[3:] == (4, 0, 3)
    commit(settings, "sinks", "analytics", 3)  # just before the marker
    assert of(settings, "analytics")[3:] == (4, 3, 0)
    transaction(settings, "analytics", 7).abort_transaction(10)
    assert of(settings, "analytics")[3:] == (12, 3, 0)
    transaction(settings, "analytics", 2).commit_transaction(10)
    assert of(settings, "analytics")[3:] == (15, 3, 2)


def test_an_open_transaction_counts_until_it_is_aborted(settings: Settings) -> None:
    publish(settings, "trades", 2)
    open_one = transaction(settings, "trades", 3)
    publish(settings, "trades", 1)  # behind the open transaction: not readable yet
    assert of(settings, "trades")[3:] == (6, 0, 6)
    commit(settings, "agents", "trades", 2)
    assert of(settings, "trades")[3:] == (6, 2, 4)
    open_one.abort_transaction(10)
    assert of(settings, "trades")[3:] == (7, 2, 1)


def test_far_behind_offsets_are_counted_from_the_first_record_on(settings: Settings) -> None:
    transaction(settings, "trades", COUNTED).abort_transaction(10)
    assert of(settings, "trades").lag == 0  # far behind by offsets, but nothing is left to read
    publish(settings, "trades", COUNTED + 10)
    assert of(settings, "trades")[3:] == (2 * COUNTED + 11, 0, COUNTED + 10)
    commit(settings, "agents", "trades", COUNTED + 21)
    assert of(settings, "trades").lag == COUNTED - 10


def test_a_missing_topic_is_told(settings: Settings) -> None:
    with pytest.raises(TopicMismatch, match=r"topic nowhere\.trades is missing"):
        lags(settings.model_copy(update={"topic_prefix": "nowhere."}))


def run(settings: Settings, *args: str) -> str:
    env = {"ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers}
    env["ASSETSTREAM_TOPIC_PREFIX"] = settings.topic_prefix
    result = CliRunner().invoke(app, args, env=env)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_lag_command(settings: Settings) -> None:
    publish(settings, "trades", 1234)
    rows = json.loads(run(settings, "lag", "--json"))
    assert rows[0] == {
        "group": settings.group("agents"),
        "topic": settings.topic("trades"),
        "partition": 0,
        "end": 1234,
        "committed": 0,
        "lag": 1234,
    }
    assert len(rows) == 9
    assert run(settings, "lag").endswith("1,234 behind\n")


def alert(user: str, severity: str) -> bytes:
    return json.dumps(
        {
            "alert_id": f"{user}/p/EXPOSURE_LIMIT/-/1",
            "user_id": user,
            "portfolio_id": "p",
            "severity": severity,
            "message": f"EXPOSURE_LIMIT moved to {severity}",
            "created_at": "2026-03-02T09:00:00.000000Z",
        }
    ).encode()


def test_the_alerts_command_filters_and_ends(settings: Settings) -> None:
    producer = Producer(settings.kafka())
    for user, severity in [("ann", "WARNING"), ("bob", "CRITICAL"), ("ann", "CRITICAL"), ("ann", "INFO")]:
        producer.produce(settings.topic("risk_alerts"), alert(user, severity), user)
    producer.flush(10)

    def shown(*args: str) -> list[str]:
        out = run(settings, "alerts", "--json", "--from-beginning", "--seconds", "3", *args)
        found = [json.loads(line) for line in out.splitlines()]
        return [f"{each['user_id']} {each['severity']}" for each in found]

    assert shown("--max", "4") == ["ann WARNING", "bob CRITICAL", "ann CRITICAL", "ann INFO"]
    assert shown("--max", "2", "--severity", "CRITICAL") == ["bob CRITICAL", "ann CRITICAL"]
    assert shown("--max", "2", "--user", "ann", "--severity", "INFO", "--severity", "WARNING") == [
        "ann WARNING",
        "ann INFO",
    ]
    assert shown("--user", "nobody") == []
    plain = run(settings, "alerts", "--from-beginning", "--max", "1")
    assert plain == "2026-03-02 09:00:00.000  WARNING   ann/p  EXPOSURE_LIMIT moved to WARNING\n"


def test_alerts_shows_what_comes_after_it_started(settings: Settings) -> None:
    publish(settings, "risk_alerts", 3)  # before: not shown, and not even JSON objects
    env = os.environ | {
        "ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "ASSETSTREAM_TOPIC_PREFIX": settings.topic_prefix,
    }
    command = [
        sys.executable,
        "-m",
        "assetstream.cli.main",
        "alerts",
        "--json",
        "--max",
        "1",
        "--seconds",
        "20",
    ]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "following" in process.stderr.readline()
        producer = Producer(settings.kafka())
        producer.produce(settings.topic("risk_alerts"), alert("eve", "CRITICAL"))
        producer.flush(10)
        out, _ = process.communicate(timeout=25)
    assert json.loads(out)["user_id"] == "eve"
    assert process.returncode == 0
