"""A worker's life: it starts or says why not, restores, hands over, and leaves in order."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from confluent_kafka.admin import AdminClient

from assetstream.cli.init import init_all
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import market
from assetstream.sinks.clickhouse import connect
from assetstream.streams.settings import Settings
from tests.faults.load import kill, own_servers
from tests.integration.pipeline import (
    Check,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    run,
    wait_until,
)

USERS, SYMBOLS, BAD = 20, 10, 0.01
MESSAGES = 12_000


def settings_of(stack: EmbeddedStack, name: str, **more: object) -> Settings:
    return stack.settings(**{"topic_prefix": f"{name}.", "clickhouse_database": name.replace("-", "_"), **more})


# -- a life in order --------------------------------------------------------------------------------------------------


def test_sigterm_hands_over_and_a_restart_restores(stack: EmbeddedStack, tmp_path: Path) -> None:
    limits, prices, trades, more_limits, more_trades = phases(market(USERS, SYMBOLS, 11, bad=BAD), MESSAGES)
    with pipeline(settings_of(stack, "terminated", snapshot_s=1.0), tmp_path, "one", "two") as running:
        one, two = running.workers
        for phase in (limits, prices):
            running.publish(phase)
            running.settle()
            running.feed()
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(running.publish, trades, 2000.0)
            wait_until(lambda: one.metric("messages_total", topic="trades") > 200, "work", pause=0.02)
            assert one.get("/healthz") == (200, "alive\n")
            code, seconds = one.terminate()
            left = time.monotonic()
            running.workers.remove(one)
            wait_until(lambda: two.metric("ready_partitions") == 8, "the partitions to be handed over", pause=0.02)
            taken_over = time.monotonic() - left
            publishing.result()
        assert code == 0
        assert seconds < 10
        assert taken_over < 5  # it left the group: nobody waits for a session to time out
        assert "worker stopped" in one.tail(3)
        running.settle()
        running.feed()
        Check(running).everything()

        # all of them end, and begin again where they were: one from its snapshots, one with an empty folder
        assert members(running.settings) == {"agents": 1, "sinks": 1}
        assert two.terminate()[0] == 0
        assert members(running.settings) == {"agents": 0, "sinks": 0}
        running.publish(more_limits)
        assert any((running.folder / "data-two" / "state").rglob("*.log"))
        shutil.rmtree(running.folder / "data-one")
        again = running.start("one", "two")
        assert all(worker.metric("restored_rows_total") > 0 for worker in again)
        running.settle()
        running.feed()
        running.publish(trades)  # every single one is known, by id and by content
        running.publish(more_trades)
        running.settle()
        running.feed()
        assert running.reference.counts["trades", "duplicate"] > MESSAGES / 4
        Check(running).everything()
        for worker in again:
            status, text = worker.get("/readyz")
            assert (status, text) == (200, "ready\n")


def test_readyz_says_what_is_missing(stack: EmbeddedStack, tmp_path: Path) -> None:
    with pipeline(settings_of(stack, "readiness"), tmp_path) as running:
        (worker,) = running.start("one", ready=False)
        wait_until(lambda: worker.get("/healthz")[0] == 200, "the worker to be alive", pause=0.01)
        status, text = worker.get("/readyz")
        assert status == 503
        assert text.startswith("waiting for ")
        worker.wait_ready()
        assert worker.metric("assigned_partitions") == worker.metric("ready_partitions") == 8
        assert worker.get("/nothing")[0] == 404


def members(settings: Settings) -> dict[str, int]:
    """How many members each of our groups has."""
    names = {settings.group(name): name for name in ("agents", "sinks")}
    admin = AdminClient(settings.kafka())  # kept: its answers end with it
    groups = admin.describe_consumer_groups(list(names))
    return {names[group]: len(future.result().members) for group, future in groups.items()}


# -- why it does not start --------------------------------------------------------------------------------------------


def refused(settings: Settings, folder: Path, *arguments: str) -> str:
    """What a worker says that ends with exit code 1, in one line."""
    ended = run(settings, folder, "worker", *(arguments or ("--metrics-port", "0")), timeout=90)
    assert ended.returncode == 1, ended
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    return lines[-1]


def test_without_topics(stack: EmbeddedStack, tmp_path: Path) -> None:
    said = refused(settings_of(stack, "nowhere"), tmp_path)
    assert "nowhere." in said
    assert "assetstream init" in said


def test_with_another_number_of_partitions(stack: EmbeddedStack, tmp_path: Path) -> None:
    init_all(settings_of(stack, "four", partitions=4))
    said = refused(settings_of(stack, "four"), tmp_path)
    assert "has 4 partitions, should have 8" in said


def test_with_a_newer_schema(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = settings_of(stack, "newer")
    init_all(settings)
    client = connect(settings)
    client.command("INSERT INTO newer.schema_migrations VALUES (99, 'from the future', 'x', now64(6))")
    client.close()
    said = refused(settings, tmp_path)
    assert "schema version 99" in said
    assert "upgrade" in said


def test_without_tables(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = settings_of(stack, "tableless")
    init_all(settings)
    client = connect(settings)
    client.command("DROP DATABASE tableless")
    client.close()
    assert "assetstream init" in refused(settings, tmp_path)


def test_with_its_port_taken(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = settings_of(stack, "port-taken")
    init_all(settings)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        said = refused(settings, tmp_path, "--metrics-port", port)
    assert f"port {port}" in said
    assert "--metrics-port" in said


def test_without_a_broker(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = settings_of(stack, "away", kafka_bootstrap_servers="127.0.0.1:9")
    said = refused(settings, tmp_path)
    assert "127.0.0.1:9" in said
    assert "assetstream up" in said


# -- Kafka goes away --------------------------------------------------------------------------------------------------


def test_a_worker_ends_when_it_is_asked_to_though_kafka_is_away(tmp_path: Path) -> None:
    """What it does when servers go away and come back is in tests/faults/test_away.py."""
    with own_servers(tmp_path) as servers, pipeline(servers.settings("gone"), tmp_path, "one", "two") as running:
        running.publish(islice(market(USERS, SYMBOLS, 12), 2_000))
        running.settle()
        kill(servers.kafka)
        one, two = running.workers
        two.signal(signal.SIGTERM)
        assert one.terminate(60)[0] == 0
        assert two.process.wait(60) == 0  # it was asked already
