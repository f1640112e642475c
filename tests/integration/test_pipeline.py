"""The proof: a simulated market through two workers, and everything that comes out equals the reference exactly."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import Message, market
from assetstream.models.reference import ONE, plain, timestamp
from tests.integration.pipeline import (
    Check,
    Pipeline,
    logs_on_failure,  # noqa: F401
    partition_of,
    phases,
    pipeline,
    rows,
    wait_until,
)

MESSAGES, USERS, SYMBOLS, SEED, BAD = 120_000, 40, 12, 20260302, 0.02
HOUR = 3_600_000_000


def determined() -> Iterator[list[Message]]:
    """The market in phases of which every run makes the same: what a wallet can pay hangs on its trades."""
    for phase in phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES):
        yield [message for message in phase if message[0] != "transactions"]
        if events := [message for message in phase if message[0] == "transactions"]:
            yield events


@pytest.fixture(scope="module")
def first(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The market, published in phases, taken by two workers; the reference has taken the same."""
    settings = stack.settings(topic_prefix="first.", clickhouse_database="first")
    with pipeline(settings, tmp_path_factory.mktemp("first"), "one", "two") as running:
        running.work_through(determined())
        running.settle()
        yield running


def test_every_message_is_accounted_for(first: Pipeline) -> None:
    taken: Counter[tuple[str, str]] = Counter()
    for worker in first.workers:
        assert worker.metric("ready_partitions") == first.settings.partitions // 2
        for labels, value in worker.samples("messages_total").items():
            of = dict(labels)
            taken[of["topic"], of["result"]] += int(value)
    taken.pop(("clock", "ignored"), None)  # which of its ticks a worker writes in vain, if any, is its own affair
    assert +taken == first.reference.counts
    assert taken.pop(("clock", "applied")) > 10
    sent = taken.pop(("transfers", "applied"))  # by the workers, to one another
    assert sent == len(first.reference.ledger.sent) > 100
    assert sum(taken.values()) == MESSAGES
    for topic, published in first.published.items():
        assert sum(n for (name, _), n in taken.items() if name == topic) == published
    # every way a message can end was there
    ends = {"applied", "duplicate", "ignored", "malformed", "invalid", "out_of_range", "key_mismatch"}
    assert {result for _, result in taken} == ends | {"conflict", "currency_mismatch", "illegal_transition"}


def test_topics_and_tables_equal_the_reference(first: Pipeline) -> None:
    alerts = Counter((a["type"], a["severity"]) for a in first.reference.alerts)
    kinds = [
        (t, s) for t in ("POSITION_LIMIT", "EXPOSURE_LIMIT", "LOSS_LIMIT") for s in ("INFO", "WARNING", "CRITICAL")
    ]
    assert all(alerts[kind] > 20 for kind in kinds), alerts
    assert len(first.reference.fills) > MESSAGES / 2
    Check(first).everything()


def test_workers_metrics_tell_of_the_same(first: Pipeline) -> None:
    def total(name: str, **labels: str) -> int:
        return int(sum(worker.metric(name, **labels) for worker in first.workers))

    reference = first.reference
    assert total("risk_alerts_total") == len(reference.alerts)
    rising = Counter[tuple[str, str]]()
    level: dict[str, str] = {}
    order = ("INFO", "WARNING", "CRITICAL")
    for alert in reference.alerts:
        subject = alert["alert_id"].rpartition("/")[0]
        if order.index(alert["severity"]) > order.index(level.get(subject, "INFO")):
            rising[alert["type"], alert["severity"]] += 1
        level[subject] = alert["severity"]
    for (kind, severity), n in rising.items():
        assert total("risk_limit_breaches_total", type=kind, severity=severity) == n
    assert total("risk_limit_breaches_total") == rising.total()
    for kind, n in Counter(o["type"] for o in reference.outcomes).items():
        assert total("transactions_total", type=kind) == n
    refused = Counter(o["code"] for o in reference.outcomes if o["code"])
    assert refused.keys() >= {"INSUFFICIENT_FUNDS", "ALREADY_REVERSED", "EXPIRED"}
    for code, n in refused.items():
        assert total("transaction_failures_total", code=code) == n
    assert total("clickhouse_rows_total", table="fills") == len(reference.fills)
    assert total("clickhouse_errors_total") == 0
    for worker in first.workers:
        assert all(lag == 0 for lag in worker.samples("partition_lag_records").values())


def test_input_keys_lie_where_the_java_client_puts_them(first: Pipeline) -> None:
    for record in first.read("trades", "prices"):
        if record.key:
            assert record.partition == partition_of(record.key, first.settings.partitions)


def moves(reference: Any) -> list[Message]:
    """Prices that move up and down, rates too, one of a later week, one that is older than the latest."""
    latest = {symbol: price.fields for symbol, price in reference.latest.items()}
    now = max(fields["as_of"] for fields in latest.values())
    steps = [
        *((symbol, 125) for symbol in ("AAPL", "SAP", "VOD", "BTC", "TM")),
        *((pair, 110) for pair in ("EUR/USD", "GBP/USD", "USD/JPY")),
        *((symbol, 55) for symbol in ("AAPL", "SAP", "MSFT", "ETH", "TM")),
        *((pair, 60) for pair in ("EUR/USD", "USD/JPY")),
        ("AAPL", 190),
        ("USD/JPY", 170),
    ]
    made: list[Message] = []
    for i, (symbol, percent) in enumerate(steps):
        fields = latest[symbol]
        now += 8 * 24 * HOUR if i == 9 else 60_000_000
        price = fields["price"] * percent // 100
        fields = latest[symbol] = fields | {"price": price, "as_of": now}
        made.append(price_message(fields))
    made.append(price_message(latest["MSFT"] | {"price": 7 * ONE, "as_of": latest["MSFT"]["as_of"] - 1}))
    return made


def price_message(fields: dict[str, Any]) -> Message:
    body = fields | {"price": plain(fields["price"]), "as_of": timestamp(fields["as_of"])}
    body = {name: plain(v) if name in ("bid", "ask") and v is not None else v for name, v in body.items()}
    return "prices", fields["symbol"].encode(), json.dumps(body).encode()


def test_marks_one_by_one_cause_the_references_alerts(first: Pipeline) -> None:
    before = len(first.reference.alerts)
    for message in moves(first.reference):
        taken, ignored = first.marks_taken(), first.reference.counts["prices", "ignored"]
        first.publish([message])
        first.settle(sinks=False)
        first.feed()
        if first.reference.counts["prices", "ignored"] == ignored:
            wait_until(
                lambda taken=taken: all(n > taken[name] for name, n in first.marks_taken().items()),
                "both workers to take a mark",
                pause=0.02,
            )
    caused = first.reference.alerts[before:]
    assert len(caused) > 100
    assert {a["cause"]["topic"] for a in caused} == {"prices"}
    # updates because of marks alone wait for MARK_UPDATE_MS; the last of all says the final state
    portfolios = {key: first.reference.update(*key) for key in first.reference.portfolios}

    def published() -> bool:
        last = {}
        for record in first.read("portfolio_updates"):
            update = record.json
            del update["sequence"]
            last[update["user_id"], update["portfolio_id"]] = update
        return last == portfolios and len(first.read("risk_alerts")) >= len(first.reference.alerts)

    wait_until(published, "alerts and updates of all marks", 60, pause=0.5)
    first.settle()
    Check(first).everything()


def test_a_second_run_gives_the_same(
    first: Pipeline, stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Into fresh topics and a fresh database, by one worker instead of two."""
    settings = stack.settings(topic_prefix="second.", clickhouse_database="second")
    with pipeline(settings, tmp_path_factory.mktemp("second"), "alone") as second:
        for phase in determined():
            second.publish(phase)
            second.settle()
        second.settle()
        check = Check(second)
        with check.client() as client:
            found = rows(client, "SELECT * FROM second.positions ORDER BY user_id, portfolio_id, symbol")
            assert found == rows(client, "SELECT * FROM first.positions ORDER BY user_id, portfolio_id, symbol")
            assert len(found) > USERS
            assert rows(client, "SELECT * FROM second.balances ORDER BY ALL") == rows(
                client, "SELECT * FROM first.balances ORDER BY ALL"
            )
            same_columns = "* EXCEPT (source_topic, source_partition, source_offset)"
            again = rows(client, f"SELECT {same_columns} FROM second.risk_alerts ORDER BY alert_id")
            before_marks = "WHERE source_topic != 'first.prices'"
            assert again == rows(
                client, f"SELECT {same_columns} FROM first.risk_alerts {before_marks} ORDER BY alert_id"
            )
            assert len(again) > 1000
        check.keys()
