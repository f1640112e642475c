"""Wallet events, worked out by hand."""

from __future__ import annotations

import json
from typing import Any

from assetstream.models.decode import decode_transactions
from assetstream.models.ledger import LedgerResult, apply_transactions
from assetstream.models.messages import TransactionStatus
from assetstream.models.outcomes import Leg, balance_names, legs_of, outcome_values
from assetstream.models.outputs import Account, Code
from assetstream.models.records import records_of
from assetstream.models.state import AccountState, new_account_state, rebuild
from assetstream.models.verdicts import Verdict

UNIT = 10**18
WALLET, EXTERNAL, FEES = Account.WALLET, Account.EXTERNAL, Account.FEES
COMPLETED, FAILED = TransactionStatus.COMPLETED.code, TransactionStatus.FAILED.code


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


def decoded(*events: dict[str, Any]) -> Any:
    records = records_of("transactions", 0, [(b"ann", json.dumps(e).encode()) for e in events], 0, 1_800_000_000_000)
    return decode_transactions(records, 3600 * 10**6)


def book(*events: dict[str, Any], state: AccountState | None = None) -> LedgerResult:
    return apply_transactions(state or new_account_state(b"EUR", 100), decoded(*events))


def published(result: LedgerResult, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """The outcomes of events as `asset_transactions` has them."""
    legs = legs_of(result.state, result.postings)
    return [json.loads(v) for v in outcome_values(decoded(*events), result.outcomes, result.postings, legs, 0)]


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
    assert list(result.outcomes["status"]) == [COMPLETED, FAILED, FAILED, COMPLETED]
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
    assert int(result.state.events.count[0]) == 1


def test_each_asset_of_each_wallet_has_its_own_balance() -> None:
    result = book(
        event(1, "DEPOSIT", "1"),
        event(2, "DEPOSIT", "2", asset="BTC"),
        event(3, "DEPOSIT", "4", wallet_id="v"),
        event(4, "DEPOSIT", "8"),
    )
    assert [units(row, "available") / UNIT for row in result.outcomes] == [1, 2, 4, 9]
    assert list(result.outcomes["balance"]) == [0, 1, 2, 0]


def test_funds_are_locked_while_a_withdrawal_is_on_its_way() -> None:
    result = book(
        event(1, "DEPOSIT", "100"),
        event(2, "WITHDRAWAL", "60", fee="2", status="PENDING"),
        event(2, "WITHDRAWAL", "60", fee="2", status="PROCESSING"),
        event(3, "FEE", "39"),  # 38 are left
        event(2, "WITHDRAWAL", "60", fee="2"),
        event(4, "HOLD", "30", status="PENDING"),
        event(4, "HOLD", "30", status="CANCELLED"),
        event(2, "WITHDRAWAL", "60", fee="2", status="FAILED"),
        event(5, "WITHDRAWAL", "38.5", status="PENDING"),
        event(5, "WITHDRAWAL", "38.5"),  # it was refused, and that is final
    )
    illegal = Verdict.ILLEGAL_TRANSITION
    assert list(result.verdict) == [0] * 7 + [illegal, 0, illegal]
    assert [units(row, "available") / UNIT for row in result.outcomes] == [100, 38, 38, 38, 38, 8, 38, 38]
    assert [units(row, "locked") / UNIT for row in result.outcomes] == [0, 62, 62, 62, 0, 30, 0, 0]
    assert list(result.outcomes["code"]) == [0, 0, 0, Code.INSUFFICIENT_FUNDS, 0, 0, 0, Code.INSUFFICIENT_FUNDS]
    assert legs(result, 1) == legs(result, 2) == legs(result, 5) == legs(result, 6) == []
    assert legs(result, 4) == [(WALLET, -62), (FEES, 2), (EXTERNAL, 60)]


def test_a_reversal_is_the_exact_opposite_also_after_a_restore() -> None:
    method = "wire transfer, ünïcode, of more bytes than an id may have: " + "x" * 900
    events = (
        event(1, "DEPOSIT", "100", fee="1.5", payment_method=method),
        event(2, "CONVERSION", "10", fee="0.25", to_asset="BTC", rate="0.333333333333333333"),
        event(3, "TRANSFER", "20", fee="1", counterparty={"user_id": "ann", "wallet_id": "savings"}),
        event(4, "ADJUSTMENT", "-5", description="counted twice", authorized_by="bob"),
    )
    before = book(*events)
    assert list(before.verdict) == [0] * 4
    found = balance_names(before.state, before.changes["balance"])
    assert [(name.wallet_id, name.asset) for name in found] == [("w", "BTC"), ("savings", "USD")]
    assert [units(row, "total") for row in before.changes] == [3_333_333_333_333_333_330, 20 * UNIT]
    undo = (
        event(5, "REVERSAL", "5", reverses="x4"),
        event(6, "REVERSAL", "20", reverses="x3"),
        event(7, "REVERSAL", "10", reverses="x2"),
        event(8, "REVERSAL", "100", reverses="x1"),
        event(9, "REVERSAL", "100", reverses="x1"),
        event(10, "REVERSAL", "100", reverses="x8"),
        event(11, "REVERSAL", "1", reverses="x0"),
    )
    after = book(*undo, state=rebuild(before.state))
    assert [Code(code).name for code in after.outcomes["code"]] == [
        *["NONE"] * 4, "ALREADY_REVERSED", "UNKNOWN_REFERENCE", "UNKNOWN_REFERENCE",
    ]  # fmt: skip
    there = [
        (leg, -units(row, "amount"))
        for number in (3, 2, 1, 0)
        for leg, row in zip(legs_of(before.state, before.postings), before.postings, strict=True)
        if row["message"] == number
    ]
    amounts = [units(row, "amount") for row in after.postings]
    back = list(zip(legs_of(after.state, after.postings), amounts, strict=True))
    assert back == there
    assert back[-1] == (Leg(f"external:{method}", "USD"), 100 * UNIT)
    assert units(after.outcomes[3], "total") == 0
    assert published(after, *undo)[3]["postings"][-1] == {
        "account": f"external:{method}",
        "asset": "USD",
        "amount": "100",
    }


def test_what_is_open_is_never_forgotten() -> None:
    """The two that became final last are remembered; beside them every open one, however old."""
    state = new_account_state(b"EUR", 2)
    opened = event(1, "HOLD", "5", status="PENDING")
    state = book(event(0, "DEPOSIT", "5"), opened, state=state).state
    state = book(*(event(n, "DEPOSIT", "1") for n in range(2, 12)), state=rebuild(state)).state
    assert int(state.events.count[0]) == 4  # one of them is free, for the next
    again = book(opened, event(10, "DEPOSIT", "1"), event(1, "HOLD", "5"), event(2, "DEPOSIT", "1"), state=state)
    assert list(again.verdict) == [Verdict.DUPLICATE, Verdict.DUPLICATE, Verdict.APPLIED, Verdict.APPLIED]
    assert [units(row, "available") / UNIT for row in again.outcomes] == [15, 16]
    assert [units(row, "locked") for row in again.outcomes] == [0, 0]
