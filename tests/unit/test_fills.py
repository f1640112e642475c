"""Fills, worked out by hand."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest

from assetstream.models.decode import decode_trades
from assetstream.models.fills import TradeResult, apply_trades
from assetstream.models.records import records_of
from assetstream.models.state import AccountState, new_account_state
from assetstream.models.verdicts import Verdict

NOW_MS = 1_800_000_000_000
UNIT = 10**18


def trade(number: int, side: str, quantity: str, price: str, **fields: Any) -> dict[str, Any]:
    return {
        "trade_id": f"t{number}",
        "user_id": "ann",
        "portfolio_id": "main",
        "wallet_id": "w",
        "symbol": "ACME",
        "currency": "USD",
        "side": side,
        "quantity": quantity,
        "price": price,
        "executed_at": "2026-03-02T09:00:00Z",
        **fields,
    }


def book(*trades: dict[str, Any], state: AccountState | None = None, key: bytes = b"ann") -> TradeResult:
    records = records_of("trades", 0, [(key, json.dumps(t).encode()) for t in trades], 0, NOW_MS)
    batch = decode_trades(records, 3600 * 10**6)
    return apply_trades(state or new_account_state(b"USD", 100), batch, batch.executed_at)


def units(row: Any, name: str) -> int:
    return (int(row[f"{name}_hi"]) << 64) | int(row[f"{name}_lo"])


def dec(text: str) -> int:
    """A decimal in units."""
    value = Fraction(text) * UNIT
    assert value.denominator == 1
    return int(value)


#: after each fill: notional, realised by it, quantity, cost basis, average price, realised, fees.
#: sell 9 releases 2883·9/29 = 894.724137931034482758(6…) → …759; 909 less that is realised.
#: sell 4 releases 1988.275862068965517241·4/20 = 397.655172413793103448(2) → …448.
KNOWN = [
    ("1200", "0", "12", "1200", "100", "0", "0.12"),
    ("1683", "0", "29", "2883", "99.413793103448275862", "0", "0.2883"),
    (
        "909",
        "14.275862068965517241",
        "20",
        "1988.275862068965517241",
        "99.413793103448275862",
        "14.275862068965517241",
        "0.3792",
    ),
    (
        "420",
        "22.344827586206896552",
        "16",
        "1590.620689655172413793",
        "99.413793103448275862",
        "36.620689655172413793",
        "0.4212",
    ),
    (
        "309",
        "0",
        "19",
        "1899.620689655172413793",
        "99.980036297640653358",
        "36.620689655172413793",
        "0.4521",
    ),
]


def test_the_known_case() -> None:
    trades = [
        trade(1, "BUY", "12", "100", fee="0.12"),
        trade(2, "BUY", "17", "99", fee="0.1683"),
        trade(3, "SELL", "9", "101", fee="0.0909"),
        trade(4, "SELL", "4", "105", fee="0.042"),
        trade(5, "BUY", "3", "103", fee="0.0309"),
    ]
    result = book(*trades)
    assert list(result.verdict) == [Verdict.APPLIED] * 5
    names = (
        "notional",
        "fill_realized_pnl",
        "position_quantity",
        "position_cost_basis",
        "position_average_price",
        "position_realized_pnl",
        "position_fees",
    )
    got = [tuple(units(row, name) for name in names) for row in result.fills]
    assert got == [tuple(map(dec, row)) for row in KNOWN]
    # 1200 + 1683 − 909 − 420 + 309 = cost basis − realised
    assert dec("1863") == got[-1][3] - got[-1][5]


def test_a_flip_realises_all_and_opens_the_rest_at_the_price() -> None:
    row = book(trade(1, "BUY", "2", "10"), trade(2, "SELL", "5", "12")).fills[1]
    assert units(row, "fill_realized_pnl") == dec("4")
    assert units(row, "position_quantity") == dec("-3")
    assert units(row, "position_cost_basis") == dec("-36")
    assert units(row, "position_average_price") == dec("12")


def test_a_short_position_gains_when_it_is_bought_back_lower_and_is_flat() -> None:
    row = book(trade(1, "SELL", "2", "10"), trade(2, "BUY", "2", "9.5")).fills[1]
    assert units(row, "fill_realized_pnl") == dec("1")
    assert units(row, "position_quantity") == 0
    assert units(row, "position_cost_basis") == 0
    assert row["has_average_price"] == 0


def test_a_released_cost_of_half_a_unit_goes_to_the_even_neighbour() -> None:
    # 3 units of cost on 2 units of quantity, one is sold: 1.5 → 2 are released, 1 stays
    tiny = "0.000000000000000001"
    two = "0.000000000000000002"
    row = book(trade(1, "BUY", two, "1.5"), trade(2, "SELL", tiny, "1")).fills[1]
    assert units(row, "fill_realized_pnl") == 1 - 2
    assert units(row, "position_cost_basis") == 1


def test_a_repeat_is_a_duplicate_and_another_body_a_conflict() -> None:
    first = trade(1, "BUY", "1", "10")
    result = book(first, first, {**first, "quantity": "1.0", "fee": "0"}, {**first, "price": "11"})
    expected = [Verdict.APPLIED, Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.CONFLICT]
    assert list(result.verdict) == expected
    assert len(result.fills) == 1


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [
        ({"currency": "EUR"}, Verdict.CURRENCY_MISMATCH),
        ({"trade_id": "t1", "price": "7", "currency": "EUR"}, Verdict.CONFLICT),
        ({"quantity": "1e19", "price": "1e19"}, Verdict.OUT_OF_RANGE),  # the notional
        ({"quantity": "99999999999999999999", "price": "0.1"}, Verdict.OUT_OF_RANGE),  # the resulting quantity
        ({"trade_id": "t1", "fee": "99999999999999999999"}, Verdict.OUT_OF_RANGE),  # before the conflict
        ({"side": "SELL", "quantity": "1e-18", "price": "1e19", "fee": "99999999999999999999"}, Verdict.OUT_OF_RANGE),
    ],
)
def test_a_rejected_trade_changes_nothing(fields: dict[str, Any], verdict: Verdict) -> None:
    opened = trade(1, "BUY", "1", "10", fee="1")
    result = book(opened, {**trade(2, "BUY", "1", "10"), **fields}, trade(3, "BUY", "1", "20"))
    assert list(result.verdict) == [Verdict.APPLIED, verdict, Verdict.APPLIED]
    without = book(opened, trade(3, "BUY", "1", "20"))
    for name in ("strings", "positions", "trade_ids"):
        ours, theirs = getattr(result.state, name), getattr(without.state, name)
        assert ours.rows[: ours.count[0]].tobytes() == theirs.rows[: theirs.count[0]].tobytes()


def test_a_rejected_first_trade_opens_nothing() -> None:
    state = book(trade(1, "BUY", "1", "1e19", fee="1"), key=b"bob").state
    assert [int(table.count[0]) for table in (state.portfolios, state.positions, state.trade_ids)] == [0, 0, 0]
    assert int(state.strings.count[0]) == 1  # the base currency, which is USD


def test_the_key_is_looked_at_before_the_id() -> None:
    first = trade(1, "BUY", "1", "10")
    state = book(first).state
    result = book({**first, "price": "11"}, {**first, "quantity": "1e19", "price": "1e19"}, state=state, key=b"bob")
    assert list(result.verdict) == [Verdict.KEY_MISMATCH, Verdict.OUT_OF_RANGE]


@pytest.mark.parametrize("between", range(16))
def test_a_currency_that_is_new_in_this_batch_is_that_of_the_position(between: int) -> None:
    """What the kernel finds ahead of its turn may be out of date when its turn comes: the position and its currency
    are new, all other names were known, and the next fill of it is so many messages on."""
    known = book(trade(0, "BUY", "1", "10"), trade(1, "BUY", "1", "10", user_id="bob", symbol="TM"), key=b"ann")
    assert known.verdict.tolist() == [Verdict.APPLIED, Verdict.KEY_MISMATCH]
    state = book(trade(2, "BUY", "1", "10", portfolio_id="TM"), state=known.state).state  # a name like the symbol's
    yen = {"symbol": "TM", "currency": "JPY"}
    others = [trade(10 + i, "BUY", "1", "10") for i in range(between)]
    result = book(trade(3, "BUY", "1", "7000", **yen), *others, trade(4, "SELL", "1", "7100", **yen), state=state)
    assert result.verdict.tolist() == [Verdict.APPLIED] * (between + 2)
    assert units(result.fills[-1], "fill_realized_pnl") == 100 * UNIT
