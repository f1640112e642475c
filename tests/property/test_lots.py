"""Lots against a plain model, the law that nothing is lost, and what the stream computes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from assetstream.models.lots import METHODS, Fill, take
from assetstream.models.reference import ONE, Book, fill

AMOUNTS = st.one_of(
    st.integers(1, 7), st.integers(1, 10**9), st.integers(1, 60).map(lambda n: n * ONE), st.integers(1, 10**6 * ONE)
)
ROWS = st.tuples(st.sampled_from((1, -1)), AMOUNTS, AMOUNTS)
FILLS = st.lists(ROWS, max_size=30).map(
    lambda rows: [Fill(f"t-{number}", number, *row, 0) for number, row in enumerate(rows)]
)


def rounded(numerator: int, denominator: int) -> int:
    return round(Fraction(numerator, denominator))  # half to even


def plain(fills: list[Fill], method: str) -> tuple[list[tuple[Any, ...]], list[list[Any]]]:
    """Gains and open lots [who, sign, price, quantity, cost], by looking through all of them each time."""
    lots: list[list[Any]] = []
    gains = []
    for each in fills:
        brings, rest = rounded(each.quantity * each.price, ONE), each.quantity
        open_quantity = sum(lot[3] for lot in lots if lot[1] != each.sign)
        if 0 < open_quantity < rest:
            closing = rounded(open_quantity * each.price, ONE)
            opening = brings - closing
        elif open_quantity:
            closing, opening = brings, 0
        else:
            closing, opening = 0, brings
        to_close = min(rest, open_quantity)
        rest -= to_close
        while to_close:
            if method == "HIFO":
                best = (max if each.sign < 0 else min)(lot[2] for lot in lots)
                lot = next(lot for lot in lots if lot[2] == best)
            else:
                lot = lots[-1 if method == "LIFO" else 0]
            part = min(lot[3], to_close)
            brought, cost = rounded(closing * part, to_close), rounded(lot[4] * part, lot[3])
            gains.append((lot[0], each.trade_id, lot[1], part, lot[1] * (brought - cost)))
            closing, to_close, lot[3], lot[4] = closing - brought, to_close - part, lot[3] - part, lot[4] - cost
            if not lot[3]:
                lots = [other for other in lots if other is not lot]
        if rest:
            lots.append([each.trade_id, each.sign, each.price, rest, opening])
    return gains, lots


@given(FILLS, st.sampled_from(("FIFO", "LIFO", "HIFO")))
def test_lots_are_those_of_the_plain_model(fills: list[Fill], method: str) -> None:
    book = take(fills, method)
    gains, lots = plain(fills, method)
    assert [
        (each.opened_by and each.opened_by.trade_id, each.closed_by.trade_id, each.sign, each.quantity, each.gain)
        for each in book.gains
    ] == gains
    assert [
        [
            lot.opened_by and lot.opened_by.trade_id,
            lot.sign,
            lot.opened_by and lot.opened_by.price,
            lot.quantity,
            lot.cost,
        ]
        for lot in book.lots
    ] == lots


@given(FILLS)
def test_nothing_is_lost_and_methods_differ_only_in_when(fills: list[Fill]) -> None:
    stream = Book()
    for each in fills:
        stream = fill(stream, *each[2:])
    paid = sum(each.sign * each.notional for each in fills)
    for method in METHODS:
        book = take(fills, method)
        assert book.quantity == stream.quantity
        assert book.cost_basis - book.realized_pnl == paid
        assert all(lot.quantity > 0 and lot.cost >= 0 for lot in book.lots)
        assert all(gain.quantity > 0 and gain.proceeds >= 0 and gain.cost >= 0 for gain in book.gains)
        if stream.quantity == 0:
            assert book.realized_pnl == stream.realized_pnl


@given(FILLS)
def test_average_cost_is_what_the_stream_computes_at_each_fill(fills: list[Fill]) -> None:
    stream, realized = Book(), {}
    for each in fills:
        before = stream.realized_pnl
        stream = fill(stream, *each[2:])
        realized[each.trade_id] = stream.realized_pnl - before
    book = take(fills, "AVERAGE")
    assert (book.quantity, book.cost_basis, book.realized_pnl) == stream[:3]
    assert {gain.closed_by.trade_id: gain.gain for gain in book.gains} == {
        id_: gain for id_, gain in realized.items() if gain or any(g.closed_by.trade_id == id_ for g in book.gains)
    }
