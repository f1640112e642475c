"""Wallet events, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import LedgerResult, apply_transactions
from assetstream.models.outputs import Account, Code
from assetstream.models.records import records_of
from assetstream.models.state import new_account_state
from assetstream.models.verdicts import Verdict

UNIT = 10**18
WALLET, EXTERNAL, FEES = Account.WALLET, Account.EXTERNAL, Account.FEES


def event(number: int, kind: str, amount: str, **fields: Any) -> dict[str, Any]:
    return {
        "transaction_id": f"x{number}",
        "user_id": "ann",
        "wallet_id": "w",
        "type": kind,
        "status": "COMPLETED",
        "asset": "USD",
        "amount": amount,
        "occurred_at": "2026-03-02T09:00:00Z",
        **fields,
    }


def book(*events: dict[str, Any]) -> LedgerResult:
    records = records_of("transactions", 0, [(b"ann", json.dumps(e).encode()) for e in events], 0, 1_800_000_000_000)
    return apply_transactions(new_account_state(b"EUR", 100), decode_transactions(records, 3600 * 10**6))


def units(row: Any, name: str) -> int:
    return (int(row[f"{name}_hi"]) << 64) | int(row[f"{name}_lo"])


def legs(result: LedgerResult, message: int) -> list[tuple[int, float]]:
    rows = result.postings[result.postings["message"] == message]
    assert sum(units(row, "amount") for row in rows) == 0
    assert list(rows["entry"]) == list(range(len(rows)))
    return [(int(row["account"]), units(row, "amount") / UNIT) for row in rows]


def test_money_comes_and_goes_by_postings_that_sum_to_zero() -> None:
    result = book(
        event(1, "DEPOSIT", "100", fee="1"),
        event(2, "WITHDRAWAL", "60", fee="2"),
        event(3, "FEE", "7", fee="5"),  # a fee on a fee has no effect
        event(4, "DEPOSIT", "3", fee="3"),
    )
    assert list(result.verdict) == [Verdict.APPLIED] * 4
    assert [units(row, "available") / UNIT for row in result.outcomes] == [99, 37, 30, 30]
    assert [units(row, "total") / UNIT for row in result.outcomes] == [99, 37, 30, 30]
    assert legs(result, 0) == [(WALLET, 99), (FEES, 1), (EXTERNAL, -100)]
    assert legs(result, 1) == [(WALLET, -62), (FEES, 2), (EXTERNAL, 60)]
    assert legs(result, 2) == [(WALLET, -7), (FEES, 7)]
    assert legs(result, 3) == [(FEES, 3), (EXTERNAL, -3)]


def test_what_is_not_there_is_refused_and_the_refusal_is_remembered() -> None:
    refused = event(2, "WITHDRAWAL", "10", fee="0.000000000000000001")
    result = book(event(1, "DEPOSIT", "10"), refused, event(3, "FEE", "11"), refused, event(4, "WITHDRAWAL", "10"))
    assert list(result.verdict) == [0, 0, 0, Verdict.DUPLICATE, 0]
    assert list(result.outcomes["failed"]) == [0, 1, 1, 0]
    assert list(result.outcomes["code"]) == [0, Code.INSUFFICIENT_FUNDS, Code.INSUFFICIENT_FUNDS, 0]
    assert [units(row, "available") / UNIT for row in result.outcomes] == [10, 10, 10, 0]
    assert legs(result, 1) == legs(result, 2) == []


def test_an_amount_that_reaches_the_limit_changes_nothing() -> None:
    most = "99999999999999999999.999999999999999999"
    result = book(
        event(1, "DEPOSIT", most),
        event(2, "DEPOSIT", "0.000000000000000001"),
        event(3, "WITHDRAWAL", most, fee="0.000000000000000001"),
        event(1, "DEPOSIT", "1"),  # out of range before it is a conflict
        event(1, "FEE", "1"),
    )
    out, conflict = Verdict.OUT_OF_RANGE, Verdict.CONFLICT
    assert list(result.verdict) == [Verdict.APPLIED, out, out, out, conflict]
    assert len(result.outcomes) == 1
    assert int(result.state.transaction_ids.count[0]) == 1


def test_each_asset_of_each_wallet_has_its_own_balance() -> None:
    result = book(
        event(1, "DEPOSIT", "1"),
        event(2, "DEPOSIT", "2", asset="BTC"),
        event(3, "DEPOSIT", "4", wallet_id="v"),
        event(4, "DEPOSIT", "8"),
    )
    assert [units(row, "available") / UNIT for row in result.outcomes] == [1, 2, 4, 9]
    assert list(result.outcomes["wallet"]) == [0, 0, 1, 0]
    assert list(result.outcomes["balance"]) == [0, 1, 2, 0]
