"""What differs between a statement and us, and the life of each difference: by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from assetstream.models.messages import (
    BreakDecision,
    BreakStatus,
    BreakType,
    BrokerStatement,
    Cause,
    ReconciliationBreak,
    StatedTrade,
)
from assetstream.models.reconciliation import (
    Account,
    Difference,
    Judgement,
    Ours,
    Tolerances,
    decided,
    differences,
    judge,
    judge_internal,
    matched,
)

D = Decimal
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
DAY = timedelta(days=1)
EXACTLY = Tolerances()
NOTHING = Ours()
CAUSE = Cause(topic="broker_statements", partition=0, offset=0)


def trade(trade_id: str, **other: Any) -> StatedTrade:
    """A trade of Monday at ten."""
    usual = {"symbol": "SAP", "side": "BUY", "quantity": "10", "price": "241.30", "executed_at": "2026-03-02T10:00:00Z"}
    return StatedTrade.model_validate({"trade_id": trade_id, **usual, "fee": "1", "currency": "EUR", **other})


def statement(*trades: StatedTrade, day: int = 0, **other: Any) -> BrokerStatement:
    """IBKR's statement for alice of Monday, or `day` days later."""
    start = MONDAY + day * DAY
    usual = {"statement_id": f"s-{day}", "broker": "IBKR", "user_id": "alice", "trades": list(trades)}
    return BrokerStatement.model_validate({**usual, "period_start": start, "period_end": start + DAY, **other})


def told(found: list[Difference]) -> set[tuple[str, str, Decimal]]:
    """(type, subject, difference) of each."""
    return {(each.type.value, each.subject, each.value) for each in found}


def judged(
    stated: BrokerStatement, ours: Ours = NOTHING, standing: Sequence[ReconciliationBreak] = (), hours: int = 0
) -> Judgement:
    return judge(stated, ours, standing, EXACTLY, NOW + timedelta(hours=hours), CAUSE)


# -- what differs -----------------------------------------------------------------------------------------------------


def test_the_same_trades_differ_in_nothing() -> None:
    ours = Ours([trade("t-1"), trade("t-2", side="SELL")])
    stated = statement(trade("t-2", side="SELL", price="241.3"), trade("t-1", fee=None, currency=None))
    assert differences(stated, ours, EXACTLY) == []


def test_every_type_of_break_and_its_difference() -> None:
    ours = Ours(
        [trade("q"), trade("p"), trade("f"), trade("ours")],
        {"SAP": D("30"), "BTC": D("0.000000000000000001")},
        {("w-1", "USD"): D("100.5")},
    )
    stated = statement(
        trade("q", quantity="10.5"),
        trade("p", price="241.299999999999999999"),
        trade("f", fee="-0.25"),
        trade("theirs", symbol="IBM", quantity="3"),
        positions=[{"symbol": "SAP", "quantity": "-30"}, {"symbol": "BTC", "quantity": "0"}],
        balances=[
            {"wallet_id": "w-1", "asset": "USD", "total": "99.25"},
            {"wallet_id": "w-9", "asset": "EUR", "total": "7"},
        ],
    )
    assert told(differences(stated, ours, EXACTLY)) == {
        ("QUANTITY_MISMATCH", "q", D("0.5")),
        ("PRICE_MISMATCH", "p", D("-0.000000000000000001")),
        ("FEE_MISMATCH", "f", D("-1.25")),
        ("MISSING_TRADE", "theirs", D("3")),
        ("UNKNOWN_TRADE", "ours", D("-10")),
        ("POSITION_MISMATCH", "SAP", D("-60")),
        ("POSITION_MISMATCH", "BTC", D("-0.000000000000000001")),
        ("BALANCE_MISMATCH", "w-1/USD", D("-1.25")),
        ("BALANCE_MISMATCH", "w-9/EUR", D("7")),
    }


def test_a_difference_has_all_its_digits() -> None:
    ours = Ours(positions={"SAP": D("-99999999999999999999.999999999999999999")})
    stated = statement(positions=[{"symbol": "SAP", "quantity": "99999999999999999999.999999999999999999"}])
    (found,) = judged(stated, ours).found
    assert found.model_dump(mode="json")["difference"] == "199999999999999999999.999999999999999998"


def test_what_a_statement_does_not_speak_of_is_not_judged() -> None:
    ours = Ours([trade("t-1")], {"SAP": D(10), "IBM": D(1)}, {("w-1", "USD"): D(5)})
    assert differences(statement(trades=None), ours, EXACTLY) == []
    assert told(differences(statement(), ours, EXACTLY)) == {("UNKNOWN_TRADE", "t-1", D(-10))}
    some = statement(trades=None, positions=[{"symbol": "SAP", "quantity": "10"}])
    assert differences(some, ours, EXACTLY) == []
    every = statement(trades=None, positions=[{"symbol": "SAP", "quantity": "10"}], positions_complete=True)
    assert told(differences(every, ours, EXACTLY)) == {("POSITION_MISMATCH", "IBM", D(-1))}
    assert differences(statement(trades=None, positions_complete=True), ours, EXACTLY) == []


def test_the_same_id_is_the_same_trade_wherever_we_have_its_time_but_not_of_another_symbol_or_side() -> None:
    late = trade("t-1", executed_at="2026-03-03T00:00:01Z")
    assert differences(statement(trade("t-1")), Ours([late]), EXACTLY) == []
    for other in ({"symbol": "IBM"}, {"side": "SELL"}, {"currency": "USD"}):
        found = differences(statement(trade("t-1", **other)), Ours([trade("t-1")]), EXACTLY)
        assert told(found) == {("MISSING_TRADE", "t-1", D(10)), ("UNKNOWN_TRADE", "t-1", D(-10))}


def test_without_the_same_id_the_closest_within_the_tolerances_is_the_same_trade() -> None:
    ours = [
        trade("a", executed_at="2026-03-02T10:00:59Z"),
        trade("b", executed_at="2026-03-02T10:00:30Z"),
        trade("c", executed_at="2026-03-02T09:59:30Z"),
        trade("d", executed_at="2026-03-02T09:58:59.999999Z"),
        trade("e", price="241.31"),
        trade("f", quantity="10.000000000000000001"),
        trade("g", side="SELL"),
        trade("h", currency="USD"),
    ]

    def pairs(stated: list[StatedTrade], by: Tolerances) -> set[tuple[str, str]]:
        return {(one.trade_id, other.trade_id) for one, other in matched(stated, ours, lambda each: True, by)}

    one = trade("x")
    assert pairs([one], EXACTLY) == {("x", "b")}  # 30 s like c, but b comes first
    assert pairs([one, trade("y"), trade("z"), trade("zz")], EXACTLY) == {("x", "b"), ("y", "c"), ("z", "a")}
    assert pairs([one], EXACTLY._replace(price=D("0.01"))) == {("x", "e")}
    assert pairs([one], EXACTLY._replace(quantity=D("1e-18"))) == {("x", "f")}
    assert pairs([one], EXACTLY._replace(time=timedelta(seconds=29))) == set()
    assert pairs([one, trade("e", price="200")], EXACTLY._replace(price=D(100))) == {("x", "b"), ("e", "e")}


def test_a_trade_of_another_period_is_not_taken_by_rule() -> None:
    """Else the statement of Monday could take a trade that Tuesday's states, and one that is missing stay hidden."""
    ours = Ours([trade("t-2", executed_at="2026-03-03T00:00:00Z")])
    found = differences(statement(trade("t-1", executed_at="2026-03-02T23:59:59Z")), ours, EXACTLY)
    assert told(found) == {("MISSING_TRADE", "t-1", D(10))}


def test_what_is_within_the_tolerances_is_no_break() -> None:
    by = Tolerances(D("0.5"), D("0.01"))
    stated = statement(trade("t", quantity="10.5", price="241.29"))
    assert differences(stated, Ours([trade("t")]), by) == []
    stated = statement(trade("t", quantity="10.500000000000000001", price="241.289999999999999999"))
    assert {each.type for each in differences(stated, Ours([trade("t")]), by)} == {
        BreakType.QUANTITY_MISMATCH,
        BreakType.PRICE_MISMATCH,
    }


# -- lives ------------------------------------------------------------------------------------------------------------


def test_a_break_says_both_sides() -> None:
    (found,) = judged(statement(trade("t", price="241.31")), Ours([trade("t")])).changed
    assert found.model_dump(mode="json") == {
        "break_id": "IBKR/alice/*/PRICE_MISMATCH/t",
        "sequence": 1,
        "type": "PRICE_MISMATCH",
        "status": "OPEN",
        "broker": "IBKR",
        "user_id": "alice",
        "portfolio_id": None,
        "subject": "t",
        "statement_value": "241.31",
        "our_value": "241.3",
        "difference": "0.01",
        "statement_trade": trade("t", price="241.31").model_dump(mode="json"),
        "our_trade": trade("t").model_dump(mode="json"),
        "about": "2026-03-02T10:00:00.000000Z",
        "statement_id": "s-0",
        "statement_version": 1,
        "opened_at": "2026-03-09T12:00:00.000000Z",
        "changed_at": "2026-03-09T12:00:00.000000Z",
        "decided_by": "statement s-0 version 1",
        "reason": None,
        "cause": {"topic": "broker_statements", "partition": 0, "offset": 0},
    }


def test_ids_tell_accounts_apart_whatever_a_broker_is_called() -> None:
    one = Account("A/B", "u", None).break_id(BreakType.POSITION_MISMATCH, "C/D")
    other = Account("A", "u", "B").break_id(BreakType.POSITION_MISMATCH, "C/D")
    assert one == "A%2FB/u/*/POSITION_MISMATCH/C/D"
    assert other == "A/u/B/POSITION_MISMATCH/C/D"
    assert Account("%2F", "u").break_id(BreakType.MISSING_TRADE, "t").startswith("%252F/")


def test_the_same_statement_again_raises_nothing_and_tells_nothing() -> None:
    stated, ours = statement(trade("t-1"), trade("t-2")), Ours([trade("t-2", price="1"), trade("t-3", side="SELL")])
    first = judged(stated, ours)
    assert [each.type for each in first.raised] == [
        BreakType.MISSING_TRADE,
        BreakType.PRICE_MISMATCH,
        BreakType.UNKNOWN_TRADE,
    ]
    again = judged(stated, ours, first.changed, hours=1)
    assert again == Judgement(first.found, [], [])


def test_a_corrected_statement_resolves_what_is_gone() -> None:
    first = judged(statement(trade("t-1"), trade("t-2")))
    corrected = judged(statement(trade("t-2"), version=2), standing=first.changed, hours=1)
    assert [each.subject for each in corrected.found] == ["t-2"]
    (gone,) = corrected.changed
    assert (gone.break_id, gone.sequence, gone.status) == ("IBKR/alice/*/MISSING_TRADE/t-1", 2, BreakStatus.RESOLVED)
    assert (gone.decided_by, gone.statement_version) == ("statement s-0 version 2", 1)
    assert (gone.opened_at, gone.changed_at) == (NOW, NOW + timedelta(hours=1))
    anew = judged(statement(trade("t-1"), trade("t-2"), version=3), standing=[*first.changed, gone], hours=2)
    (back,) = anew.raised
    assert (back.subject, back.sequence, back.opened_at) == ("t-1", 3, NOW + timedelta(hours=2))


def test_a_statement_judges_only_the_breaks_of_its_own_period_and_sections() -> None:
    monday = judged(
        statement(
            trade("t-1"),
            positions=[{"symbol": "SAP", "quantity": "10"}, {"symbol": "IBM", "quantity": "1"}],
            balances=[{"wallet_id": "w", "asset": "USD", "total": "3"}],
        )
    ).changed
    assert len(monday) == 4

    def gone(**other: Any) -> list[str]:
        return [each.subject for each in judged(statement(**other), standing=monday).changed]

    assert gone(day=1) == []  # of trades, but not of Monday's
    assert gone(day=1, positions=[{"symbol": "SAP", "quantity": "0"}]) == ["SAP"]
    assert gone(day=1, positions=[], positions_complete=True) == ["IBM", "SAP"]
    assert gone(day=1, balances=[{"wallet_id": "w", "asset": "USD", "total": "0"}]) == ["w/USD"]
    assert gone(day=1, balances=[{"wallet_id": "w", "asset": "EUR", "total": "0"}]) == []
    assert gone(day=0) == ["t-1"]
    assert gone(day=-1, positions=[], positions_complete=True) == []  # what Sunday was like says nothing of Monday
    assert gone(day=-1, period_end=MONDAY + DAY) == ["t-1"]


def test_of_positions_the_latest_time_counts() -> None:
    def stated(day: int, quantity: str) -> BrokerStatement:
        return statement(day=day, trades=None, positions=[{"symbol": "SAP", "quantity": quantity}])

    (opened,) = judged(stated(1, "10")).changed
    assert judged(stated(0, "7"), standing=[opened]) == Judgement([opened], [], [])
    (gone,) = judged(stated(2, "0"), standing=[opened]).changed
    assert gone.status is BreakStatus.RESOLVED
    assert judged(stated(1, "10"), standing=[gone]) == Judgement([], [], [])
    (back,) = judged(stated(3, "10"), standing=[gone]).raised
    assert back.sequence == 3


def test_an_explanation_holds_while_the_difference_is_the_same() -> None:
    def stated(day: int, quantity: str) -> BrokerStatement:
        return statement(day=day, trades=None, positions=[{"symbol": "SAP", "quantity": quantity}])

    (opened,) = judged(stated(0, "10"), Ours(positions={"SAP": D(8)})).changed
    decision = BreakDecision(
        break_id=opened.break_id, user_id="alice", status=BreakStatus.EXPLAINED, by="ops-4", reason="in transfer"
    )
    explained = decided(opened, decision, NOW, CAUSE)
    assert explained is not None
    assert (explained.status, explained.sequence, explained.decided_by) == (BreakStatus.EXPLAINED, 2, "ops-4")

    same = judged(stated(1, "110"), Ours(positions={"SAP": D(108)}), [explained], hours=1)
    (moved,) = same.changed
    assert (moved.status, moved.decided_by, moved.reason) == (BreakStatus.EXPLAINED, "ops-4", "in transfer")
    assert (moved.sequence, moved.our_value, moved.difference) == (3, D(108), D(2))
    assert same.raised == []

    (worse,) = judged(stated(2, "111"), Ours(positions={"SAP": D(108)}), [moved], hours=2).raised
    assert (worse.status, worse.reason, worse.difference) == (BreakStatus.OPEN, None, D(3))
    assert worse.opened_at == NOW


def test_what_is_resolved_by_hand_and_found_again_is_open_again() -> None:
    stated = statement(trade("t"))
    (opened,) = judged(stated).changed
    decision = BreakDecision(
        break_id=opened.break_id, user_id="alice", status=BreakStatus.RESOLVED, by="ops-4", reason="booked"
    )
    resolved = decided(opened, decision, NOW, CAUSE)
    assert resolved is not None
    assert decided(resolved, decision, NOW, CAUSE) is None
    (back,) = judged(stated, standing=[resolved], hours=1).raised
    assert (back.status, back.sequence) == (BreakStatus.OPEN, 3)
    assert judged(stated, Ours([trade("t")]), [resolved]) == Judgement([], [], [])


def test_accounts_of_our_own() -> None:
    off = Difference(BreakType.INTERNAL_BALANCE, "w-1/USD", NOW, D("5"), D("5.01"))
    first = judge_internal({"alice": [off]}, [], NOW)
    (opened,) = first.raised
    assert opened.break_id == "internal/alice/*/INTERNAL_BALANCE/w-1/USD"
    assert (opened.broker, opened.difference, opened.decided_by) == (None, D("-0.01"), "reconciler")
    assert opened.cause is None
    gone = judge_internal({}, [opened], NOW + DAY)
    assert [(each.status, each.sequence) for each in gone.changed] == [(BreakStatus.RESOLVED, 2)]
    assert judge_internal({}, gone.changed, NOW + 2 * DAY) == Judgement([], [], [])
