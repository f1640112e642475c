"""A statement made of our own side shows no break; one that was changed shows exactly what was changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from assetstream.models.messages import BreakStatus, BrokerStatement, ReconciliationBreak, StatedTrade
from assetstream.models.reconciliation import EXACT, Ours, Tolerances, differences, judge

START = datetime(2026, 3, 2, tzinfo=UTC)
END = START + timedelta(days=1)
EXACTLY = Tolerances()
UNIT = Decimal("1e-18")

amounts = st.integers(1, 10**30).map(lambda n: EXACT.multiply(n, UNIT))
signed = st.integers(-(10**30), 10**30).map(lambda n: EXACT.multiply(n, UNIT))
#: what is taken from, or added to, a number: never nothing
edits = st.integers(1, 10**20).map(lambda n: EXACT.multiply(n, UNIT))


class Case(NamedTuple):
    """Our side, a statement that differs from it, and what it has to show: (type, subject) → difference."""

    ours: Ours
    statement: BrokerStatement
    expected: dict[tuple[str, str], Decimal]


@st.composite
def trades(draw: st.DrawFn, first: str, most: int = 8) -> list[StatedTrade]:
    """Of a few symbols and sides, more than a minute apart from each other unless they share an id."""
    minutes = draw(st.lists(st.integers(0, 479), max_size=most, unique=True))
    return [
        StatedTrade(
            trade_id=f"{first}{i}",
            symbol=draw(st.sampled_from(["SAP", "BTC/USD"])),
            side=draw(st.sampled_from(["BUY", "SELL"])),
            quantity=draw(amounts),
            price=draw(amounts),
            fee=draw(st.none() | signed),
            currency=draw(st.sampled_from(["EUR", "USD"])),
            executed_at=START + timedelta(minutes=3 * minute),
        )
        for i, minute in enumerate(minutes)
    ]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Every trade, position and balance of ours, stated as it is or with one edit; and some more of either side."""
    own, stated, expected = draw(trades("t")), [], {}
    for trade in own:
        edit = draw(st.sampled_from(["none", "none", "renamed", "lost", "quantity", "price", "fee"]))
        by = draw(edits)
        if edit == "lost":
            expected["UNKNOWN_TRADE", trade.trade_id] = EXACT.minus(trade.quantity)
            continue
        if edit == "renamed":
            trade = trade.model_copy(update={"trade_id": f"broker-{trade.trade_id}"})
        elif edit == "fee":
            trade = trade.model_copy(update={"fee": EXACT.add(trade.fee or 0, by)})
            expected["FEE_MISMATCH", trade.trade_id] = by
        elif edit != "none":
            trade = trade.model_copy(update={edit: EXACT.add(getattr(trade, edit), by)})
            expected[f"{edit.upper()}_MISMATCH", trade.trade_id] = by
        stated.append(trade)
    for more in draw(trades("more", 3)):
        stated.append(more.model_copy(update={"symbol": "IBM"}))
        expected["MISSING_TRADE", more.trade_id] = more.quantity
    elsewhere = [
        each.model_copy(update={"executed_at": each.executed_at + timedelta(days=draw(st.sampled_from([-1, 1])))})
        for each in draw(trades("other", 3))
    ]
    sides: list[dict[str, Decimal]] = [{}, {}]
    for place, type_ in enumerate(("POSITION_MISMATCH", "BALANCE_MISMATCH")):
        for name in draw(st.lists(st.sampled_from(["A", "B/C", "D"]), unique=True)):
            sides[place][name] = draw(signed)
            if by := draw(st.just(Decimal(0)) | edits):
                expected[type_, f"w/{name}" if place else name] = by
    positions = [
        {"symbol": s, "quantity": EXACT.add(q, expected.get(("POSITION_MISMATCH", s), 0))} for s, q in sides[0].items()
    ]
    balances = [
        {"wallet_id": "w", "asset": a, "total": EXACT.add(t, expected.get(("BALANCE_MISMATCH", f"w/{a}"), 0))}
        for a, t in sides[1].items()
    ]
    statement = BrokerStatement(
        statement_id="s",
        broker="B",
        user_id="u",
        period_start=START,
        period_end=END,
        trades=stated,
        positions=positions,
        positions_complete=draw(st.booleans()),
        balances=balances,
    )
    ours = Ours([*own, *elsewhere], sides[0], {("w", asset): total for asset, total in sides[1].items()})
    return Case(ours, statement, expected)


def shown(case: Case) -> dict[tuple[str, str], Decimal]:
    found = differences(case.statement, case.ours, EXACTLY)
    assert len({(each.type, each.subject) for each in found}) == len(found)
    return {(each.type.value, each.subject): each.value for each in found}


@given(cases())
def test_exactly_what_was_changed_is_shown(case: Case) -> None:
    assert shown(case) == case.expected


@given(cases(), st.data())
def test_the_order_of_rows_does_not_matter(case: Case, data: st.DataObject) -> None:
    statement = case.statement.model_copy(
        update={
            name: data.draw(st.permutations(getattr(case.statement, name)))
            for name in ("trades", "positions", "balances")
        }
    )
    ours = Ours(data.draw(st.permutations(list(case.ours.trades))), case.ours.positions, case.ours.balances)
    at = END + timedelta(hours=1)
    assert judge(statement, ours, [], EXACTLY, at) == judge(case.statement, case.ours, [], EXACTLY, at)


close = st.builds(
    lambda seconds, quantity, price: (seconds, Decimal(quantity), Decimal(price)),
    st.integers(0, 240),
    st.integers(1, 2),
    st.integers(1, 2),
)


@given(st.lists(close, max_size=8), st.lists(close, max_size=8), st.data())
def test_matching_by_rules_is_one_to_one_and_leaves_no_pair_that_agrees(
    theirs: list[tuple[int, Decimal, Decimal]], own: list[tuple[int, Decimal, Decimal]], data: st.DataObject
) -> None:
    def side(name: str, given_: list[tuple[int, Decimal, Decimal]]) -> list[StatedTrade]:
        return [
            StatedTrade(
                trade_id=f"{name}{i}",
                symbol="S",
                side="BUY",
                quantity=quantity,
                price=price,
                executed_at=START + timedelta(seconds=seconds),
            )
            for i, (seconds, quantity, price) in enumerate(given_)
        ]

    stated, ours = side("a", theirs), side("b", own)
    statement = BrokerStatement(
        statement_id="s", broker="B", user_id="u", period_start=START, period_end=END, trades=stated
    )
    found = differences(statement, Ours(ours), EXACTLY)
    shuffled = differences(statement, Ours(data.draw(st.permutations(ours))), EXACTLY)
    assert {each.subject for each in shuffled} == {each.subject for each in found}
    missing = [each.statement_trade for each in found if each.statement_trade]
    unknown = [each.our_trade for each in found if each.our_trade]
    assert len(stated) - len(missing) == len(ours) - len(unknown)
    for one in missing:
        for other in unknown:
            apart = abs(one.executed_at - other.executed_at)
            assert (one.quantity, one.price) != (other.quantity, other.price) or apart > EXACTLY.time


@given(st.lists(cases(), min_size=1, max_size=4))
def test_what_stands_after_any_statements_is_what_the_last_one_shows(history: list[Case]) -> None:
    """Versions of one statement: numbers go up by one, nothing is told twice, and what is gone is RESOLVED."""
    standing: dict[str, ReconciliationBreak] = {}
    for version, case in enumerate(history, 1):
        statement = case.statement.model_copy(update={"version": version, "positions_complete": True})
        missing = {name: Decimal(0) for each in history for name in each.ours.positions}
        ours = Ours(case.ours.trades, missing | dict(case.ours.positions), case.ours.balances)
        judgement = judge(statement, ours, standing.values(), EXACTLY, END + timedelta(hours=version))
        for each in judgement.changed:
            old = standing.get(each.break_id)
            assert each.sequence == (old.sequence if old else 0) + 1
            assert old is None or old.model_copy(update={"sequence": each.sequence}) != each
        standing |= {each.break_id: each for each in judgement.changed}
        found = {each.break_id for each in judgement.found}
        named = {f"w/{asset}" for _, asset in case.ours.balances}
        is_open = {each.break_id for each in standing.values() if each.status is BreakStatus.OPEN}
        unnamed = {i for i in is_open if "BALANCE_MISMATCH" in i and i.split("MISMATCH/")[1] not in named}
        assert is_open - unnamed == found
        assert judge(statement, ours, standing.values(), EXACTLY, END).changed == []
