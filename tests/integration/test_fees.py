"""`assetstream fees quote --user` against the real engine."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from assetstream.cli.main import app
from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate
from tests.documents import ROOT

DB = "fees_test"
#: user, type, asset, amount, status, input, days ago
EVENTS = (
    ("ann", "CONVERSION", "USD", "30000.5", "COMPLETED", "transactions", 1),
    ("ann", "CONVERSION", "USD", "10000", "COMPLETED", "transactions", 29.9),
    ("ann", "CONVERSION", "USD", "1000000", "COMPLETED", "transactions", 30.1),
    ("ann", "CONVERSION", "USD", "1000000", "FAILED", "transactions", 1),
    ("ann", "CONVERSION", "USD", "1000000", "PENDING", "transactions", 1),
    ("ann", "CONVERSION", "EUR", "1000000", "COMPLETED", "transactions", 1),
    ("ann", "WITHDRAWAL", "USD", "1000000", "COMPLETED", "transactions", 1),
    ("bob", "CONVERSION", "USD", "1000000", "COMPLETED", "transactions", 1),
    ("ann", "TRANSFER", "USD", "7", "COMPLETED", "transactions", 1),
    ("ann", "TRANSFER", "USD", "1000000", "COMPLETED", "transfers", 1),  # it arrived
)


def test_the_volume_is_that_of_the_last_30_days(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = stack.settings(clickhouse_database=DB)
    client = connect(settings)
    migrate(client, settings)
    for user, kind, asset, amount, status, topic, days in EVENTS:
        at = (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S")
        client.command(
            f"INSERT INTO {DB}.transactions (user_id, type, asset, amount, status, source_topic, occurred_at) "
            f"VALUES ('{user}', '{kind}', '{asset}', {amount}, '{status}', '{topic}', '{at}')"
        )
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", stack.clickhouse)
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_DATABASE", DB)
    monkeypatch.setenv("ASSETSTREAM_FEE_SCHEDULE", str(ROOT / "examples" / "fees.toml"))

    def found(user: str, kind: str = "CONVERSION") -> dict[str, str]:
        args = ["--type", kind, "--asset", "USD", "--amount", "20000", "--user", user, "--json"]
        done = CliRunner().invoke(app, ["fees", "quote", *args])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    # 9,999.5 of it below 50,000 at 25 bps, the rest at 12.5
    assert (found("ann")["volume"], found("ann")["fee"]) == ("40000.5", "37.4994")
    assert found("nobody")["volume"] == "0"
    assert found("ann", "WITHDRAWAL")["volume"] == "1000000"
    client.command(f"DROP DATABASE {DB}")
    client.close()
