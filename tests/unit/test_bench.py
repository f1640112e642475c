"""The benchmarks' own parts: the load they feed, the tables they write, and what they make of what they saw."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from assetstream.agents.partition import AccountPartition
from assetstream.agents.transactions import take_transactions
from assetstream.agents.transfers import take_transfers
from assetstream.cli.audit.states import Account
from assetstream.cli.benchmarks import core, kernels, latency, load
from assetstream.cli.benchmarks.fill_peer import fill
from assetstream.cli.benchmarks.profile import record_batch
from assetstream.cli.benchmarks.report import BenchError, Table, text, write
from assetstream.cli.main import app
from assetstream.models.decode import decode_limits, decode_prices, decode_trades
from assetstream.models.fills import apply_trades
from assetstream.models.messages import TransactionStatus, TransactionType
from assetstream.models.records import records_of
from assetstream.models.state import new_account_state
from assetstream.models.transfers import messages_of
from assetstream.models.verdicts import Verdict
from assetstream.streams.embedded_kafka import silent
from assetstream.streams.records import parse
from assetstream.streams.settings import Settings

TABLE = Table("raw", "Title", ("what", "n", "share"), [("a", 1_234_567, 0.5), ("b", None, 1234.5)], "A note.")


def test_tables_in_every_form() -> None:
    assert TABLE.as_dict() == {
        "part": "raw",
        "title": "Title",
        "rows": [{"what": "a", "n": 1_234_567, "share": 0.5}, {"what": "b", "n": None, "share": 1234.5}],
        "note": "A note.",
    }
    assert TABLE.markdown() == (
        "**Title**\n\n| what | n | share |\n| --- | ---: | ---: |\n"
        "| a | 1,234,567 | 0.5 |\n| b | – | 1,234 |\n\nA note.\n"
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12345, "0.123"), (12.345, "12.3"), (True, "yes"), (99_999, "99,999"), ("x", "x"), (0.0, "0")],
)
def test_values_as_people_read_them(value: object, shown: str) -> None:
    assert text(value) == shown  # type: ignore[arg-type]


def test_write_renews_a_part_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# T\n<!-- bench:raw -->\nold\n<!-- end:raw -->\n<!-- bench:peers -->\nkept\n<!-- end:peers -->\n")
    write(page, [TABLE], "*machine*")
    write(page, [TABLE], "*machine*")
    shown = page.read_text()
    assert shown.count("**Title**") == shown.count("*machine*\n") == 1
    assert "old" not in shown
    assert "<!-- bench:peers -->\nkept\n<!-- end:peers -->" in shown


def test_write_refuses_a_page_without_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with pytest.raises(BenchError, match="not there"):
        write(page, [TABLE], "")
    page.write_text("nothing\n")
    with pytest.raises(BenchError, match="no <!-- bench:raw -->"):
        write(page, [TABLE], "")
    assert page.read_text() == "nothing\n"


def test_every_part_has_its_place_in_the_page() -> None:
    from assetstream.cli.bench import PARTS

    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    for part in PARTS:
        assert page.count(f"<!-- bench:{part} -->") == page.count(f"<!-- end:{part} -->") == 1


def test_the_load_is_accepted_whole_and_adds_up() -> None:
    trades = load.Trades(2_000)
    messages = list(trades)
    assert messages == list(load.Trades(2_000))
    batch = decode_trades(records_of("trades", 0, messages, 0, core.APPENDED_MS), core.SKEW_US)
    result = apply_trades(new_account_state(b"USD", 10_000), batch)
    assert batch.key_ok.all()
    assert (result.verdict == Verdict.APPLIED).all()
    held = sum(Decimal(json.loads(v)["quantity"]) * (1 if b'"BUY"' in v else -1) for _, v in messages)
    assert held == trades.traded()
    limits = decode_limits(records_of("l", 0, [load.limits(7, load.LIMITS)], 0, core.APPENDED_MS), core.SKEW_US)
    prices = decode_prices(records_of("p", 0, [load.price(3, 9_505, 1)], 0, core.APPENDED_MS), core.SKEW_US)
    assert (limits.verdict[0], limits.key_ok[0], prices.verdict[0], prices.key_ok[0]) == (0, 1, 0, 1)
    assert limits.has_limit.sum() == len(load.LIMITS)


def test_the_wallet_events_are_accepted_whole_and_add_up() -> None:
    """Also in the middle of a turn; what transfers bring to their receivers comes after all else here."""
    events = load.WalletEvents(33 * 20 + 7, users=33)
    partition = AccountPartition(0, Settings(_env_file=None, partitions=1))
    take_transactions(partition, records_of("transactions", 0, list(events), 0, core.APPENDED_MS))
    ((batch, result),) = partition.work.booked
    steps = messages_of(result.state, batch, result.sent)
    assert len(steps) == events.transfers == 2 * 33
    take_transfers(partition, records_of("transfers", 0, steps, 0, core.APPENDED_MS))
    assert {tuple(verdict) for _, verdict in partition.work.verdicts} == {(0,) * events.n, (0,) * events.transfers}
    assert not any(result.outcomes["code"].any() for _, result in partition.work.booked)
    held: Counter[str] = Counter()
    for (_, _, asset), (available, locked) in Account(partition.store.state).balances().items():
        held[asset] += available + locked
    assert (held["USD"], held["EUR"]) == tuple(amount * 10**18 for amount in events.held())


def test_moments_are_in_one_day_and_read_back() -> None:
    assert load.moment(0) == "2026-03-02T09:00:00.000000Z"
    assert load.moment(load.MOST - 1) == "2026-03-02T22:59:59.999999Z"
    assert [latency._us(load.moment(us)) for us in (0, 61_000_001, load.MOST - 1)] == [0, 61_000_001, load.MOST - 1]


def test_a_record_batch_reads_back() -> None:
    pairs = [(b"k%d" % i, b"v" * i) for i in range(5)]
    records, following = parse("t", 3, record_batch(pairs, 100, 42), 100)
    assert following == 105
    assert [(records.key(i), records.value(i)) for i in range(5)] == pairs
    assert records.offset.tolist() == [100, 101, 102, 103, 104]
    assert (records.timestamp == 42).all()


def test_peers_book_fills_as_we_do() -> None:
    """The known case of the issue, flips included: the peers' work must be real work."""
    case = [("BUY", "12", "100"), ("BUY", "17", "99"), ("SELL", "9", "101"), ("SELL", "4", "105"), ("BUY", "3", "103")]
    case += [("SELL", "40", "97.31"), ("BUY", "0.7", "96.5")]
    peer: list[str] | None = None
    for side, quantity, price in case:
        peer, notional = fill(peer, {"side": side, "quantity": quantity, "price": price, "fee": "0.1"})
        assert notional == Decimal(quantity) * Decimal(price)
    assert peer is not None
    held, cost, realized, fees = map(Decimal, peer)
    signed = sum((1 if side == "BUY" else -1) * Decimal(q) * Decimal(p) for side, q, p in case)
    assert (held, fees) == (Decimal("-20.3"), Decimal("0.7"))
    assert cost - realized == signed


def test_latency_takes_the_first_update_that_has_the_trade() -> None:
    planned = latency.Load(1_000, 100, 1.0)
    trades = latency.trades_of(planned)
    none = np.zeros(0, np.int64)
    sent = latency.Sent(np.full(1_000, 1_000_000, np.int64), np.zeros(100, np.int64), none, none, 0.0)

    def update(user: int, number: int, ms: int) -> tuple[int, bytes]:
        as_of = load.moment(trades.first + number)
        return ms * 1_000_000, json.dumps({"user_id": f"u{user}", "as_of": as_of}).encode()

    # user 0 makes trades 0 and 500: one update with the first, a later one, of a price, that adds nothing, then both
    received = latency.Received([update(0, 0, 3), update(0, 0, 5), update(0, 500, 9), update(1, 1, 4)], [])
    waits = latency._to_updates(planned, sent, received)
    assert (waits[0], waits[500], waits[1]) == (2.0, 8.0, 3.0)
    assert np.isnan(waits[501])
    assert np.isfinite(waits).sum() == 3


def test_latency_requests_bring_every_message_once_in_order() -> None:
    planned = latency.Load(1_000, 100, 0.1)
    pairs = [*latency.trades_of(planned), *latency.prices_of(planned)]
    messages = [(i % 8, key, value) for i, (key, value) in enumerate(pairs)]
    requests = latency._requests(Settings(_env_file=None, topic_prefix="x-"), planned, messages)
    assert len(requests) == 0.1 / (latency.LINGER_MS / 1_000)
    assert [i for request in requests for i in request.trades] == [*range(100)]
    assert [i for request in requests for i in request.prices] == [*range(100, 110)]
    sent: dict[tuple[str, int], list[bytes | None]] = {}
    for batch in (batch for request in requests for batches in request.rounds for batch in batches):
        found, _ = parse(batch.topic, batch.partition, bytes(batch.data), 0)
        sent.setdefault((batch.topic, batch.partition), []).extend(found.value(i) for i in range(found.n))
    for topic, its in (("x-trades", messages[:100]), ("x-prices", messages[100:])):
        for partition in range(8):
            assert sent[topic, partition] == [value for number, _, value in its if number == partition]


def test_latency_finds_the_cause_of_an_alert() -> None:
    planned = latency.Load(1_000, 100, 1.0)
    placed = {b"u%d" % user: user % 8 for user in range(load.USERS)} | {b"S%d" % s: 5 for s in range(load.SYMBOLS)}
    # offsets from 10 on: partition 2 gets trades 2, 10, 18, …; partition 5 all prices
    trade_offsets = 10 + np.arange(1_000) % load.USERS // 8 + np.arange(1_000) // load.USERS * (load.USERS // 8 + 1)
    sent = latency.Sent(np.arange(1_000), np.arange(100), trade_offsets, 10 + np.arange(100), 0.0)

    def alert(topic: str, partition: int, offset: int, ms: int) -> tuple[int, bytes]:
        cause = {"topic": f"x-{topic}", "partition": partition, "offset": offset}
        return ms * 1_000_000, json.dumps({"cause": cause}).encode()

    alerts = [alert("trades", 2, 11, 7), alert("trades", 2, 11, 6), alert("prices", 5, 13, 2), alert("trades", 1, 9, 1)]
    by_trade, by_price = latency._to_alerts(planned, sent, latency.Received([], alerts), placed)
    assert by_trade[10] == pytest.approx(6 - 10 / 1e6)
    assert by_price[3] == pytest.approx(2 - 3 / 1e6)
    assert np.isfinite(by_trade).sum() == np.isfinite(by_price).sum() == 1


def test_a_state_of_so_many_positions_is_revalued_whole() -> None:
    from assetstream.models.marks import apply_marks

    state = core.filled(300, 100)
    assert (int(state.positions.count[0]), int(state.portfolios.count[0])) == (300, 3)
    for k in (1, 2):
        result = apply_marks(state, core.marks(100, k))
        assert (result.verdict == Verdict.APPLIED).all()
        state = result.state


def test_the_wallet_events_are_of_every_type_and_status_and_none_is_rejected() -> None:
    events = [json.loads(value) for _, value in islice(kernels.wallet_events(), 3_000)]
    assert {event["type"] for event in events} == set(TransactionType)
    assert {event["status"] for event in events} == set(TransactionStatus)
    (table,) = kernels.ledger(3_000, (1_000,), silent)  # which raises when one is
    ((batch, decode_us, kernel_us, rate, wanted),) = table.rows
    assert (batch, wanted) == (1_000, 100_000)
    assert rate == pytest.approx(1e6 / (decode_us + kernel_us))  # type: ignore[operator]


def test_unknown_parts_are_wrong_use() -> None:
    done = CliRunner().invoke(app, ["bench", "speed"])
    assert done.exit_code == 2
    assert "the parts are revaluation, memory" in " ".join(done.output.replace("│", " ").split())
