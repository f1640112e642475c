"""What the auditor compares, without servers: every comparison finds what differs, and only that."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from assetstream.cli.audit import laws
from assetstream.cli.audit.identities import hashes
from assetstream.cli.audit.partitions import Partitions
from assetstream.cli.audit.published import Alert, Found, Published, judge_alerts, judge_skips, judge_updates, letter
from assetstream.cli.audit.rebuild import Letter, _determined, feed, forget
from assetstream.cli.audit.report import Difference, Report
from assetstream.cli.audit.snapshots import Kept, judge_snapshots
from assetstream.cli.audit.states import Account, Level, Witness
from assetstream.models import state as states
from assetstream.models.decode import decode_limits, decode_trades, decode_transactions
from assetstream.models.fills import apply_trades
from assetstream.models.ledger import apply_transactions
from assetstream.models.limits import apply_limits
from assetstream.models.records import records_of
from assetstream.models.reference import CRITICAL, OK, ONE, WARNING, Reference
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings

NOW_MS, HOUR = 1_800_000_000_000, 3_600_000_000
AT = "2026-03-02T09:00:00Z"
TRADE = {
    "trade_id": "t1",
    "user_id": "ann",
    "portfolio_id": "main",
    "wallet_id": "w",
    "symbol": "VOD",
    "currency": "USD",
    "side": "SELL",
    "quantity": "3",
    "price": "1.5",
    "fee": "0.1",
    "executed_at": AT,
}
LIMITS = {"user_id": "ann", "portfolio_id": "main", "version": 7, "updated_at": AT, "max_portfolio_value": "4"}
DEPOSIT = {
    "transaction_id": "d1",
    "user_id": "ann",
    "wallet_id": "w",
    "type": "DEPOSIT",
    "status": "COMPLETED",
    "asset": "EUR",
    "amount": "12.5",
    "occurred_at": AT,
}


class Sent:
    """A consumed record."""

    def __init__(self, offset: int, message: dict[str, Any] | bytes, key: bytes = b"ann") -> None:
        self._offset, self._key = offset, key
        self._value = message if isinstance(message, bytes) else json.dumps(message).encode()

    def offset(self) -> int:
        return self._offset

    def partition(self) -> int:
        return 0

    def timestamp(self) -> tuple[int, int]:
        return 2, NOW_MS

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return self._value


def test_a_report_says_what_differs_of_a_row_and_counts_all() -> None:
    report = Report()
    report.same("rows", "a@1", {"x": 1, "y": None, "z": 3}, {"x": 1, "y": 2, "z": 3})
    report.all_same(
        "keys", {("a", "b"): {"v": 1}, ("c", "d"): {"v": 2}}, {("c", "d"): {"v": 2}, ("e",): {"v": 3}}, "<{}>"
    )
    assert report.differences == [
        Difference("rows", "a@1", "y=None", "y=2"),
        Difference("keys", "<a/b>", "v=1", "nothing"),
        Difference("keys", "<e>", "nothing", "v=3"),
    ]
    assert report.checked == {"rows": 1, "keys": 3}
    assert not report.ok
    assert report.as_dict()["differences"][0] == {"check": "rows", "where": "a@1", "expected": "y=None", "found": "y=2"}


@pytest.fixture(scope="module")
def account() -> Account:
    """A partition in which ann sold 3 VOD at 1.5, which is more than her limit, and paid in 12.5 EUR."""

    def sent(topic: str, message: dict[str, Any]) -> Any:
        return records_of(topic, 0, [(b"ann", json.dumps(message).encode())], 0, NOW_MS)

    state = states.new_account_state(b"USD", 100)
    limits = {**LIMITS, "asset_limits": {"VOD": "5", "SAP": "2"}}
    state = apply_limits(state, decode_limits(sent("risk_limits", limits), HOUR)).state
    trades = decode_trades(sent("trades", TRADE), HOUR)
    state = apply_trades(state, trades, trades.executed_at).state
    state = apply_transactions(state, decode_transactions(sent("transactions", DEPOSIT), HOUR)).state
    states.set_applied(state, 0, 4)
    return Account(state)


def test_what_the_rows_of_a_partition_say(account: Account) -> None:
    assert account.applied == {"trades": 4, "transactions": -1, "risk_limits": -1, "transfers": -1, "clock": -1}
    assert account.base_currency == "USD"
    assert account.users() == {"ann"}
    wallet = {"type": "REAL", "currency": "USD", "status": "OPEN", "resets": 0, "grants": []}
    assert account.wallets() == {("ann", "w"): wallet}
    position = {
        "currency": "USD",
        "last_trade_at": 1_772_442_000_000_000,
        "quantity": -3 * ONE,
        "cost_basis": -45 * ONE // 10,
        "realized_pnl": 0,
        "fees": ONE // 10,
        "last_price": 15 * ONE // 10,
    }
    assert account.positions() == {("ann", "main", "VOD"): position}
    assert account.balances() == {
        ("ann", "w", "EUR"): (125 * ONE // 10, 0),
        ("ann", "w", "USD"): (44 * ONE // 10, 0),
        ("ann", "w", "VOD"): (-3 * ONE, 0),
    }
    limits = account.limits()["ann", "main"]
    assert {name: value for name, value in limits.items() if value is not None} == {
        "version": 7,
        "active": True,
        "max_portfolio_value": 4 * ONE,
        "asset_limits": {"SAP": 2 * ONE, "VOD": 5 * ONE},
    }
    # 4.5 is above 4, and not below 0.9 · 5
    assert account.levels() == {
        "ann/main/EXPOSURE_LIMIT/-": Level(CRITICAL, 1),
        "ann/main/POSITION_LIMIT/VOD": Level(WARNING, 1),
    }
    assert account.sequences() == {("ann", "main"): 0}
    assert account.marks() == {}


def test_ids_are_known_by_their_hashes(account: Account) -> None:
    for topic, ids in (("trades", [("ann", "t1")]), ("transactions", [("ann", "d1")])):
        seen = account.remembered(topic)
        assert hashes(ids) == list(zip(seen["id_lo"].tolist(), seen["id_hi"].tolist(), strict=True))
    assert hashes([("ann", "t2")]) != hashes([("ann", "t1")])


def test_a_copy_of_the_rows_stays_as_it_was(account: Account) -> None:
    state = states.new_account_state(b"USD", 100)
    before = Account(state)
    states.set_applied(state, 1, 9)
    assert before.applied["transactions"] == -1
    assert Account(state).applied["transactions"] == 9


def test_what_is_fed_and_what_is_to_be_in_dead_letters() -> None:
    reference = Reference(judging=False)
    records: Any = [
        Sent(3, TRADE),
        Sent(4, b"{", key=b"x"),
        Sent(6, {**TRADE, "trade_id": "t2"}),
        Sent(7, TRADE),
        Sent(8, {**TRADE, "quantity": "4"}),
    ]
    letters = feed(reference, "trades", records, skipped={6})
    assert {offset: each.reason for offset, each in letters.items()} == {4: "malformed", 6: "skipped", 8: "conflict"}
    assert letters[4] == Letter("malformed", "eA==", "ew==")
    assert [fill["source_offset"] for fill in reference.fills] == [3]
    assert reference.portfolios["ann", "main"].positions["VOD"].book.quantity == -3 * ONE
    forget(reference)
    assert reference.fills == reference.dead_letters == []
    assert feed(reference, "trades", [records[0]], skipped=set()) == {}  # a duplicate still


def test_levels_that_do_not_depend_on_the_way_there() -> None:
    reference = Reference(judging=False)
    for topic, message in (("risk_limits", LIMITS), ("trades", TRADE)):
        feed(reference, topic, [Sent(0, message)], set())  # type: ignore[list-item]
    reference.value_all()
    portfolio = reference.portfolios["ann", "main"]
    assert dict(_determined(portfolio)) == {
        "EXPOSURE_LIMIT/-": CRITICAL,
        "LOSS_LIMIT/total": OK,
        "LOSS_LIMIT/daily": OK,
        "LOSS_LIMIT/weekly": OK,
    }
    # while something is unpriced, a limit's level may be above what the partial totals say; without a limit it is OK
    portfolio.unpriced = ["VOD"]
    assert "EXPOSURE_LIMIT/-" not in dict(_determined(portfolio))
    assert dict(_determined(portfolio))["LOSS_LIMIT/total"] == OK


def alerts(*severities: str) -> list[Alert]:
    return [Alert({"alert_id": f"s/{n}", "severity": each}, f"@{n}") for n, each in enumerate(severities, 1)]


@pytest.mark.parametrize(
    ("published", "before", "after", "differences"),
    [
        (("WARNING",), Level(1, 1), Level(1, 1), []),
        (("WARNING", "INFO"), Level(1, 1), Level(0, 2), []),
        (("WARNING",), Level(1, 1), Level(0, 2), []),
        ((), Level(0, 0), Level(2, 1), []),
        (("WARNING",), Level(2, 1), Level(2, 1), [("CRITICAL", "WARNING"), ("CRITICAL", "WARNING")]),
        (("WARNING", "INFO"), Level(1, 1), Level(1, 1), [("1 alerts", "2 alerts")]),
        (("WARNING",), Level(0, 2), Level(2, 3), [("2 to 3 alerts", "1 alerts")]),
        ((), Level(1, 1), Level(1, 1), [("1 alerts", "0 alerts")]),
    ],
)
def test_alerts_lie_between_two_states(
    published: tuple[str, ...], before: Level, after: Level, differences: list[tuple[str, str]]
) -> None:
    report, found = Report(), Published(begins={("risk_alerts", 0): 0})
    if published:
        found.alerts["s"] = alerts(*published)
    judge_alerts(found, {"s": before}, {"s": after}, report)
    assert [(each.expected, each.found) for each in report.differences] == differences


def test_alerts_that_expired_are_not_missed() -> None:
    report = Report()
    judge_alerts(Published(begins={("risk_alerts", 0): 5}), {"s": Level(1, 1)}, {"s": Level(1, 1)}, report)
    assert report.ok


@pytest.mark.parametrize(("last", "told"), [(3, None), (4, None), (2, "sequence 3 to 4"), (5, "sequence 3 to 4")])
def test_updates_lie_between_two_states(last: int, told: str | None) -> None:
    report, key = Report(), ("ann", "main")
    judge_updates(Published(updates={key: (last, "@9")}), {key: 3}, {key: 4}, report)
    assert [each.expected for each in report.differences] == ([told] if told else [])


def test_group_offsets_lie_between_two_states() -> None:
    report = Report()
    places = {name: ("trades", number) for number, name in enumerate(("none", "first", "last", "below", "above"))}
    committed = dict(zip(places.values(), (-1, 5, 7, 4, 8), strict=True))
    laws.judge_offsets(committed, dict.fromkeys(committed, 4), dict.fromkeys(committed, 6), report)
    assert [(each.where, each.expected, each.found) for each in report.differences] == [
        ("trades-3", "5 to 7, as the state", "4 committed"),
        ("trades-4", "5 to 7, as the state", "8 committed"),
    ]
    assert report.checked["group offsets"] == 4


def test_skips_are_on_the_record() -> None:
    settings = Settings(topic_prefix="x.", _env_file=None)
    report, published = Report(), Published()
    published.letters["x.trades", 2] = {
        offset: [Found(letter("a", "b"), f"@{offset}", reason)]
        for offset, reason in ((5, "skipped"), (6, "invalid"), (7, "skipped"))
    }
    assert published.skipped(("x.trades", 2)) == {5, 7}
    judge_skips(published, {"skip/trades-2-5": {}}, settings, report)
    assert [each.where for each in report.differences] == ["x.trades-2@7"]


@pytest.mark.parametrize(
    ("kept", "position", "told"),
    [
        ({4: b"d", 5: b"e"}, 6, {}),
        ({4: b"d"}, 5, {}),  # the tail is still to come
        ({1: b"?", 3: b"c", 4: b"d", 5: b"e"}, 6, {}),  # 1 was swept from the log
        ({}, 2, {}),  # all of it was
        ({3: b"c", 5: b"e"}, 6, {4: "nothing"}),
        ({3: b"c", 4: b"D"}, 5, {4: "other bytes"}),
        ({3: b"c", 4: b"d"}, 6, {5: "nothing"}),
        ({3: b"c", 4: b"d", 5: b"e", 7: b"x"}, 8, {7: "a record"}),
    ],
)
def test_a_snapshot_is_a_part_of_its_log(kept: dict[int, bytes], position: int, told: dict[int, str]) -> None:
    witness, report = Witness(), Report()
    witness.digests = {3: b"c", 4: b"d", 5: b"e"}
    judge_snapshots([Kept("account_changelog", 1, kept, position)], {"account_changelog": {1: witness}}, report)
    assert {int(each.where.rpartition("@")[2]): each.found for each in report.differences} == told


def test_keys_stay_in_their_family_when_partitions_are_added() -> None:
    ends = {2: {"trades-0": 10, "trades-1": 11}, 4: {"trades-0": 20, "trades-1": 11, "trades-2": 5, "trades-3": 0}}
    partitions = Partitions(ends, 8)
    assert partitions.counts == [2, 4, 8]
    assert [list(family) for family in partitions.families()] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    for key in map(str, range(50)):
        homes = partitions.homes(key)
        assert homes == tuple(partition_of(key.encode(), count) for count in (2, 4, 8))
        assert sorted(homes) == list(homes)
        assert any(set(homes) <= set(family) for family in partitions.families())
    now = {("trades", 0): 30, ("trades", 2): 25, ("trades", 4): 3, ("trades", 6): 0}
    assert list(partitions.eras(range(0, 8, 2), ("trades",), now)) == [
        (2, [("trades", 0, 0, 10)]),
        (4, [("trades", 0, 10, 20), ("trades", 2, 0, 5)]),
        (8, [("trades", 0, 20, 30), ("trades", 2, 5, 25), ("trades", 4, 0, 3), ("trades", 6, 0, 0)]),
    ]
    alone = Partitions({}, 4)
    assert [list(family) for family in alone.families()] == [[0], [1], [2], [3]]
    assert np.array_equal(alone.homes("x"), (partition_of(b"x", 4),))
