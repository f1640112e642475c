"""Settings: where they come from, what is refused, and that secrets stay secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from assetstream.cli.errors import told
from assetstream.models.settlement_rules import settlement_rules
from assetstream.streams.settings import PREFIX, Settings, UnknownSetting, load


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # no .env here


def test_defaults_are_the_contracts() -> None:
    settings = load()
    assert settings.kafka_bootstrap_servers == "127.0.0.1:9092"
    assert settings.clickhouse_url == "http://127.0.0.1:8123"
    assert settings.clickhouse_database == "assetstream"
    assert (settings.partitions, settings.base_currency, settings.mark_update_ms) == (8, "USD", 1000)
    assert (settings.max_future_skew_s, settings.id_memory, settings.retention_days) == (3600, 1_000_000, 7)
    assert (settings.topic("trades"), settings.group("agents")) == ("trades", "assetstream-agents")


def test_environment_file_and_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ASSETSTREAM_PARTITIONS=3\nASSETSTREAM_BASE_CURRENCY=EUR\nOTHER=1\n")
    assert (load().partitions, load().base_currency) == (3, "EUR")
    monkeypatch.setenv("ASSETSTREAM_PARTITIONS", "4")
    assert (load().partitions, load().base_currency) == (4, "EUR")
    assert (load(partitions=5).partitions, load(partitions=None).partitions) == (5, 4)


def test_the_prefix_is_on_topics_and_groups() -> None:
    settings = load(topic_prefix="eu.")
    assert (settings.topic("marks"), settings.group("sinks")) == ("eu.marks", "eu.assetstream-sinks")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ASSETSTREAM_PARTITION", "ASSETSTREAM_PARTITIONS"),
        ("ASSETSTREAM_KAFKA_BOOTSTRAP_SERVER", "ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
def test_an_unknown_name_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, near: str, from_file: bool
) -> None:
    if from_file:
        (tmp_path / ".env").write_text(f"{name}=1\n")
    else:
        monkeypatch.setenv(name, "1")
    with pytest.raises(UnknownSetting) as refused:
        load()
    assert refused.value.names == {name: near}
    expected = f"unknown setting {name}, did you mean {near}?"
    assert told(refused.value) == expected


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PARTITIONS", "0", "ASSETSTREAM_PARTITIONS: input should be greater than or equal to 1, not '0'"),
        ("CHECKPOINT_MS", "fast", "ASSETSTREAM_CHECKPOINT_MS: input should be a valid integer"),
        ("BASE_CURRENCY", "EUR/USD", "ASSETSTREAM_BASE_CURRENCY: value error, a currency, not a pair"),
        ("CLICKHOUSE_DATABASE", "a; DROP", "ASSETSTREAM_CLICKHOUSE_DATABASE: string should match pattern"),
        ("SETTLEMENT_CYCLES", "ETF=x", "ASSETSTREAM_SETTLEMENT_CYCLES: value error, ETF=x: a number of business"),
        ("SETTLEMENT_CALENDARS", "USD", "ASSETSTREAM_SETTLEMENT_CALENDARS: value error, USD is not NAME=VALUE"),
        ("SETTLEMENT_HOLIDAYS", "USD=1 May", "ASSETSTREAM_SETTLEMENT_HOLIDAYS: value error, USD=1 May: a date is"),
    ],
)
def test_a_bad_value_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ValidationError) as refused:
        load()
    text = told(refused.value)
    assert text is not None
    assert text.startswith(line)
    assert "\n" not in text


def test_rules_of_settlement_are_the_defaults_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().settlement_rules == settlement_rules()
    monkeypatch.setenv("ASSETSTREAM_SETTLEMENT_CYCLES", "OTHER=3")
    monkeypatch.setenv("ASSETSTREAM_SETTLEMENT_CALENDARS", "USDC=XNYS")
    monkeypatch.setenv("ASSETSTREAM_SETTLEMENT_HOLIDAYS", "CAD=2026-11-11")
    assert load().settlement_rules == settlement_rules("OTHER=3", "USDC=XNYS", "CAD=2026-11-11")


def test_secrets_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_SASL_PASSWORD", "KAFKA_SSL_KEY_PASSWORD", "CLICKHOUSE_PASSWORD"):
        monkeypatch.setenv(PREFIX + name, "hunter2")
    settings = load()
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.kafka()["sasl.password"] == "hunter2"
    assert settings.kafka()["ssl.key.password"] == "hunter2"


def test_kafka_configuration_leaves_out_what_is_not_set() -> None:
    assert Settings(_env_file=None).kafka(acks="all") == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "PLAINTEXT",
        "acks": "all",
    }
