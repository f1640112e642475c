"""The audit log on a real broker: transactions, notaries that die, and logs that somebody tampered with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import NewTopic, OffsetSpec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from assetstream.agents.notary import AuditGap, Notary, NotaryReplaced
from assetstream.cli.lag import lags
from assetstream.cli.main import app
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.audit_heads import private_key
from assetstream.models.messages import AuditHead
from assetstream.streams.admin import Admin, init_topics
from assetstream.streams.audit_heads import read_heads
from assetstream.streams.processes import wait
from assetstream.streams.settings import Settings
from assetstream.streams.topics import AUDITED

PREFIX = "notary."
STARTED_MS = int(time.time() * 1000)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of a private key and its public one."""
    folder, key = tmp_path_factory.mktemp("keys"), Ed25519PrivateKey.generate()
    private, public = folder / "audit.pem", folder / "audit.pub"
    encoding, no = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no))
    public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def settings(stack: EmbeddedStack, keys: tuple[Path, Path]) -> Settings:
    made = stack.settings(topic_prefix=PREFIX, partitions=2, audit_head_s=1, audit_key=keys[0])
    init_topics(made)
    return made


def environment(settings: Settings) -> dict[str, str]:
    return {
        "ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "ASSETSTREAM_TOPIC_PREFIX": settings.topic_prefix,
        "ASSETSTREAM_PARTITIONS": "2",
        "ASSETSTREAM_AUDIT_HEAD_S": "1",
        "ASSETSTREAM_AUDIT_KEY": str(settings.audit_key),
    }


def run(settings: Settings, *args: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, args)], env=environment(settings))


def check(settings: Settings, *args: str | Path) -> tuple[int, list[dict[str, str]], dict[str, int]]:
    """Exit code, differences, and how much was compared."""
    result = run(settings, "check", "--audit", "--json", *args)
    report = json.loads(result.stdout)
    return result.exit_code, report["differences"], report["checked"]


def publish(settings: Settings, topic: str, *values: str, ms: int = 0) -> None:
    producer = Producer(settings.kafka())
    for value in values:
        producer.produce(settings.topic(topic), value, "alice", partition=0, timestamp=ms)
    assert producer.flush(10) == 0


def transaction(settings: Settings, topic: str, *values: str, commit: bool) -> None:
    producer = Producer(settings.kafka(**{"transactional.id": f"{settings.topic_prefix}test"}))
    producer.init_transactions(10)
    producer.begin_transaction()
    for value in values:
        producer.produce(settings.topic(topic), value, partition=0)
    producer.flush(10)
    (producer.commit_transaction if commit else producer.abort_transaction)(10)


def heads(settings: Settings, topic: str) -> list[AuditHead]:
    every = [said.head for said in read_heads(settings)]
    assert all(isinstance(head, AuditHead) for head in every)
    return [head for head in every if (head.topic, head.partition) == (settings.topic(topic), 0)]  # type: ignore[union-attr]


def notarize(settings: Settings, accept_gap: bool = False) -> None:
    assert settings.audit_key is not None
    Notary(settings, private_key(settings.audit_key.read_bytes())).run(once=True, accept_gap=accept_gap)


class Dies(Notary):
    """One that is killed when its heads are written, and their transaction is open."""

    def _producer(self) -> Producer:
        producer = super()._producer()

        class Dying:
            def __getattr__(self, name: str) -> object:
                return getattr(producer, name)

            def commit_transaction(self, timeout: float) -> None:
                assert producer.flush(10) == 0
                raise SystemExit

        return Dying()  # type: ignore[return-value]


@pytest.fixture
def process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "assetstream.cli.main", "notary"]
    with subprocess.Popen(command, env=os.environ | environment(settings), stderr=subprocess.PIPE) as started:
        yield started
        started.kill()


def test_every_committed_record_is_under_a_head_once(
    settings: Settings, keys: tuple[Path, Path], process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    publish(settings, "trades", *"abcde")
    transaction(settings, "trades", *"fgh", commit=False)
    transaction(settings, "trades", *"ijk", commit=True)
    publish(settings, "risk_alerts", "first", ms=STARTED_MS)
    # 3 aborted records and 2 markers are between them
    assert wait(lambda: [(head.size, head.next_offset) for head in heads(settings, "trades")][-1:] == [(8, 13)], 30)
    saved = tmp_path / "heads.jsonl"
    code, differences, checked = check(settings, "--public-key", keys[1], "--save", saved)
    assert (code, differences) == (0, [])
    assert checked["audited logs"] == 9

    publish(settings, "trades", "l")
    assert wait(lambda: heads(settings, "trades")[-1].size == 9, 10)
    publish(settings, "trades", "m")  # and most likely no head of it
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    publish(settings, "trades", "n")
    with pytest.raises(SystemExit):
        Dies(settings).run(once=True)
    notarize(settings)
    said = [(head.size, head.next_offset) for head in heads(settings, "trades")]  # a marker may be told of alone
    assert said == sorted(set(said)), "nothing is said twice"
    assert said[-1][0] == 11
    assert all(row.lag == 0 for row in lags(settings) if row.group == settings.group("notary"))
    assert len([row for row in lags(settings) if row.group == settings.group("notary")]) == 2 * len(AUDITED)
    code, differences, checked = check(settings, "--public-key", keys[1], "--since", saved)
    assert (code, differences) == (0, [])
    assert checked["audited logs"] == 3

    notarize(settings)
    assert len(heads(settings, "trades")) == len(said), "nothing new, nothing said"
    prove(settings, keys[1], tmp_path)
    tamper(settings, saved)


def prove(settings: Settings, public: Path, folder: Path) -> None:
    """What is proved of the log can be checked without it."""
    for name, args in (("inclusion", ["11"]), ("consistency", ["--since", "8"])):
        result = run(settings, "prove", "trades", "0", *args)
        (file := folder / name).write_text(result.stdout)
        result = CliRunner().invoke(app, ["verify", str(file), "--public-key", str(public)])
        assert result.exit_code == 0, result.output
        assert result.stdout.endswith("; signed\n")
    found = json.loads((folder / "inclusion").read_text())
    assert (found["index"], found["record"]["value"]) == (7, "aw==")  # "k"
    assert run(settings, "prove", "trades", "0", "6").stderr == "no committed record is at offset 6\n"
    assert "no such head covers offset 99" in run(settings, "prove", "trades", "0", "99").stderr
    assert "no head is of 7 records" in run(settings, "prove", "trades", "0", "--since", "7").stderr


def tamper(settings: Settings, saved: Path) -> None:
    """Whatever is done to the logs is named with its place."""
    client = Admin(settings)
    alerts, trades = settings.topic("risk_alerts"), settings.topic("trades")
    client.results(client.client.delete_topics([alerts]))
    assert wait(lambda: alerts not in client.partitions(), 20)
    client.results(client.client.create_topics([NewTopic(alerts, 2)]))
    assert wait(lambda: alerts in client.partitions(), 20)
    publish(settings, "risk_alerts", "firsT", ms=STARTED_MS)
    code, differences, _ = check(settings)
    assert code == 1
    assert differences == [
        {
            "check": "audited logs",
            "where": f"{alerts}-0@0",
            "expected": "the records of head 1",
            "found": "others: it was changed",
        }
    ]
    client.results(client.client.delete_records([TopicPartition(trades, 0, 13)]))
    code, differences, _ = check(settings)
    assert (code, len(differences)) == (1, 2)
    assert differences[0]["where"] == f"{trades}-0 up to offset 12"
    assert differences[0]["found"] == "something deleted them"

    publish(settings, "trades", *"opq")
    end = client.offsets([(trades, 0)], OffsetSpec.latest())[trades, 0]
    client.results(client.client.delete_records([TopicPartition(trades, 0, end - 1)]))
    with pytest.raises(AuditGap, match=f"{trades}-0 begins at offset {end - 1}, the last head covers only"):
        notarize(settings)
    notarize(settings, accept_gap=True)
    code, differences, _ = check(settings, "--since", saved)
    assert code == 1
    assert f"another, from {end - 1} on" in " ".join(each["found"] for each in differences)
    assert heads(settings, "trades")[-1].size == 1


def test_there_is_one_notary_at_a_time(settings: Settings) -> None:
    first = Notary(settings)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first.run)
        before = len(heads(settings, "prices"))
        publish(settings, "prices", "y")
        assert wait(lambda: len(heads(settings, "prices")) > before, 20)
        Notary(settings).run(once=True)
        publish(settings, "prices", "z")
        replaced = running.exception(20)
    assert isinstance(replaced, NotaryReplaced)
