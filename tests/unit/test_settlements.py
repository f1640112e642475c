"""What trades do to wallets, by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from assetstream.models.clock import apply_ticks
from assetstream.models.decode import TradeBatch, decode_limits, decode_trades
from assetstream.models.encode import encode_settlements
from assetstream.models.fills import TradeResult, apply_trades
from assetstream.models.limits import apply_limits
from assetstream.models.messages import SettlementStatus
from assetstream.models.records import records_of
from assetstream.models.settlement_events import settlements_of
from assetstream.models.state import AccountState, new_account_state, text
from tests.unit.test_fills import trade

NOW_MS = 1_800_000_000_000
UNIT = 10**18
DAY_US = 86_400 * 10**6


def book(*trades: dict[str, Any], days: int = 0, state: AccountState | None = None) -> tuple[TradeResult, TradeBatch]:
    records = records_of("trades", 0, [(b"ann", json.dumps(t).encode()) for t in trades], 0, NOW_MS)
    batch = decode_trades(records, 3600 * 10**6)
    settles = batch.executed_at + days * DAY_US
    return apply_trades(state or new_account_state(b"USD", 100), batch, settles), batch


def balances(state: AccountState) -> dict[str, tuple[str, str]]:
    """(available, locked) by asset of the only wallet."""
    found = {}
    for row in state.balances.rows[: state.balances.count[0]]:
        amounts = [(int(row[f"{n}_hi"]) << 64) | int(row[f"{n}_lo"]) for n in ("available", "locked")]
        assert all(a % 10**15 == 0 for a in amounts)
        found[text(state, int(row["asset"]))] = tuple(f"{a / UNIT:g}" for a in amounts)
    return found


def test_the_known_case() -> None:
    """Of the issue, without its deposit of 1000: buy, then sell 10@100 with fee 1."""
    result, _ = book(trade(1, "BUY", "10", "100", fee="1"), trade(2, "SELL", "10", "100", fee="1"), days=3)
    assert result.verdict.tolist() == [0, 0]
    assert balances(result.state) == {"USD": ("-1002", "1000"), "ACME": ("-10", "10")}


def test_what_settles_at_once_is_not_locked() -> None:
    result, _ = book(trade(1, "BUY", "10", "100", fee="1"), trade(2, "SELL", "4", "110", fee="-0.5"))
    assert balances(result.state) == {"USD": ("-560.5", "0"), "ACME": ("6", "0")}
    assert result.settlements["status"].tolist() == [1, 1]
    assert result.state.settlements.count[0] == 0


def test_a_pair_brings_its_first_half() -> None:
    result, _ = book(
        trade(1, "BUY", "10", "2", symbol="EUR/USD"),
        trade(2, "BUY", "3", "1", symbol="EUR/USD", currency="CHF", portfolio_id="other"),
        trade(3, "BUY", "1", "1", symbol="A/B/USD"),
        trade(4, "BUY", "1", "5", symbol="/USD"),
    )
    assert balances(result.state) == {
        "USD": ("-26", "0"),
        "EUR": ("10", "0"),
        "CHF": ("-3", "0"),
        "EUR/USD": ("3", "0"),
        "A/B/USD": ("1", "0"),
        "/USD": ("1", "0"),
    }


def test_money_for_itself() -> None:
    result, _ = book(trade(1, "BUY", "10", "1", symbol="USD"), trade(2, "SELL", "4", "2", symbol="USD"), days=1)
    assert balances(result.state) == {"USD": ("-14", "18")}
    assert len(result.changes) == 2


def test_a_trade_that_no_balance_can_take_is_a_fill_whose_settlement_failed() -> None:
    big = [trade(n, "BUY", "6e19", "1", symbol=f"S{n}") for n in range(2)]
    result, batch = book(*big, trade(2, "SELL", "1", "1", fee="-99999999999999999999", wallet_id="other"), days=1)
    assert result.verdict.tolist() == [0, 0, 0]
    assert len(result.fills) == 3
    assert [list(SettlementStatus)[code] for code in result.settlements["status"]] == ["PENDING", "FAILED", "FAILED"]
    assert balances(result.state) == {"USD": ("-6e+19", "0"), "S0": ("0", "6e+19")}
    told = settlements_of(batch, result.fills, result.settlements, result.changes)
    assert told.is_booked.tolist() == [1, 0, 0]
    assert told.cash_sequence.tolist() == told.asset_sequence.tolist() == [1, 0, 0]
    assert result.state.settlements.count[0] == 1


def test_the_first_trade_of_a_position_that_limits_opened_may_fail_to_settle() -> None:
    """What it is in isn't known by then, but has to be: the position is in it for ever."""
    limit = {"user_id": "ann", "portfolio_id": "main", "version": 1, "asset_limits": {"ACME": "5"}}
    limit["updated_at"] = "2026-03-02T09:00:00Z"
    limits = decode_limits(records_of("risk_limits", 0, [(b"ann", json.dumps(limit).encode())], 0, NOW_MS), 0)
    state = apply_limits(new_account_state(b"USD", 100), limits).state
    result, _ = book(trade(1, "BUY", "9e19", "1", fee="5e19", currency="XYZ"), state=state)
    assert [list(SettlementStatus)[code] for code in result.settlements["status"]] == ["FAILED"]
    assert text(result.state, int(result.state.positions.rows[0]["currency"])) == "XYZ"
    assert balances(result.state) == {}


def test_what_waits_is_kept_and_unlocked_when_it_is_due() -> None:
    result, _ = book(trade(1, "SELL", "10", "100", fee="1", broker='M"üller'), trade(2, "BUY", "2", "5"), days=2)
    state, due = result.state, 1_772_442_000_000 + 2 * DAY_US // 1000
    assert result.settlements["settles_at"].tolist() == [due * 1000] * 2
    assert result.settlements["status"].tolist() == [0, 0]
    assert state.settlements.rows["is_open"][: state.settlements.count[0]].tolist() == [1, 1]
    for at, settled in ((due - 1, 0), (due, 2), (due, 0)):
        _, _, told = apply_ticks(state, records_of("clock", 0, [(None, b"{}")], 0, at))
        assert len(told.side) == settled
        if settled:
            data, ends = encode_settlements(told, np.zeros(2))
            first = json.loads(data[: ends[0]].tobytes())
            # the SELL's cash, told before by both trades; the BUY's asset
            assert told.cash_sequence.tolist() == [3, 0]
            assert told.asset_sequence.tolist() == [0, 3]
            assert told.is_booked.tolist() == [0, 0]
    assert first == {
        "settlement_id": "ann/t1",
        "trade_id": "t1",
        "user_id": "ann",
        "portfolio_id": "main",
        "wallet_id": "w",
        "broker": 'M"üller',
        "symbol": "ACME",
        "side": "SELL",
        "asset": "ACME",
        "quantity": "10",
        "currency": "USD",
        "amount": "1000",
        "fee": "1",
        "status": "SETTLED",
        "settles_at": "2026-03-04T09:00:00.000000Z",
        "occurred_at": "2026-03-04T09:00:00.000000Z",
        "journal": 3,
        "cause": {"topic": "clock", "partition": 0, "offset": 0},
    }
    assert balances(state) == {"USD": ("989", "0"), "ACME": ("-8", "0")}
    assert state.settlements.rows["is_open"][:2].tolist() == [0, 0]
