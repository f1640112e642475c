"""Lots by hand. Sources: Publication 564 of the IRS (2009), table 3; an exercise of books on queues and stacks."""

from __future__ import annotations

import pytest

from assetstream.models.decimals import from_units, to_units
from assetstream.models.lots import DAY, METHODS, Fill, Gain, LotBook, take
from assetstream.models.reference import ONE


def fills(*rows: tuple[int | str, int | str]) -> list[Fill]:
    """(signed quantity, price), one a day."""
    found = []
    for number, (quantity, price) in enumerate(rows):
        units = to_units(quantity)
        found.append(Fill(f"t-{number}", number * DAY, 1 if units > 0 else -1, abs(units), to_units(price), 0))
    return found


def told(gain: Gain) -> tuple[str | None, str, str, str, str]:
    """(opened by, closed by, quantity, proceeds, cost)"""
    opened = gain.opened_by.trade_id if gain.opened_by else None
    return opened, gain.closed_by.trade_id, *map(from_units, (gain.quantity, gain.proceeds, gain.cost))  # type: ignore[return-value]


def left(book: LotBook) -> list[tuple[str | None, str, str]]:
    """(opened by, signed quantity, cost) of open lots."""
    return [
        (lot.opened_by.trade_id if lot.opened_by else None, from_units(lot.sign * lot.quantity), from_units(lot.cost))
        for lot in book.lots
    ]


#: table 3: 160 for 4,000, 240 for 4,800, 10 for 300; 210 are sold for 6,720
PUBLICATION_564 = fills((160, 25), (240, 20), (10, 30), (-210, 32))


@pytest.mark.parametrize(
    ("method", "gains", "basis"),
    [
        ("FIFO", [("t-0", "t-3", "160", "5120", "4000"), ("t-1", "t-3", "50", "1600", "1000")], "5000"),
        ("LIFO", [("t-2", "t-3", "10", "320", "300"), ("t-1", "t-3", "200", "6400", "4000")], "4300"),
        (
            "HIFO",
            [
                ("t-2", "t-3", "10", "320", "300"),
                ("t-0", "t-3", "160", "5120", "4000"),
                ("t-1", "t-3", "40", "1280", "800"),
            ],
            "5100",
        ),
        ("AVERAGE", [(None, "t-3", "210", "6720", "4660.975609756097560976")], "4660.975609756097560976"),
    ],
)
def test_the_basis_of_shares_sold(method: str, gains: list[tuple[str, ...]], basis: str) -> None:
    book = take(PUBLICATION_564, method)
    assert [told(gain) for gain in book.gains] == gains
    assert from_units(sum(gain.cost for gain in book.gains)) == basis
    assert book.realized_pnl == 6720 * ONE - to_units(basis)
    assert book.cost_basis == 9100 * ONE - to_units(basis)
    assert book.quantity == 200 * ONE


#: 100 shares each in January at 10, in April at 30, in September at 50; sold in June at 20, in November at 30
EXERCISE = fills((100, 10), (100, 30), (-100, 20), (100, 50), (-100, 30))


@pytest.mark.parametrize(
    ("method", "realized", "open_lot"),
    [("FIFO", [1000, 0], "t-3"), ("LIFO", [-1000, -2000], "t-0"), ("HIFO", [-1000, -2000], "t-0")],
)
def test_a_queue_and_a_stack(method: str, realized: list[int], open_lot: str) -> None:
    book = take(EXERCISE, method)
    assert [gain.gain for gain in book.gains] == [gain * ONE for gain in realized]
    assert [gain.holding_days for gain in book.gains] == [2, 3] if method == "FIFO" else [1, 1]
    assert [lot for lot, *_ in left(book)] == [open_lot]


def test_short_lots_are_sold_first_and_bought_back() -> None:
    """10 sold at 50, 10 at 60, 15 bought back at 40: HIFO takes those that brought least."""
    short = fills((-10, 50), (-10, 60), (15, 40))
    first, second = ("t-0", "t-2", "10", "500", "400"), ("t-1", "t-2", "5", "300", "200")
    assert [told(gain) for gain in take(short, "FIFO").gains] == [first, second]
    assert [told(gain) for gain in take(short, "HIFO").gains] == [first, second]
    assert [told(gain) for gain in take(short, "LIFO").gains] == [
        ("t-1", "t-2", "10", "600", "400"),
        ("t-0", "t-2", "5", "250", "200"),
    ]
    assert [told(gain) for gain in take(short, "AVERAGE").gains] == [(None, "t-2", "15", "825", "600")]
    book = take(short, "FIFO")
    assert left(book) == [("t-1", "-5", "300")]
    assert (book.quantity, book.cost_basis, book.realized_pnl) == (-5 * ONE, -300 * ONE, 200 * ONE)


@pytest.mark.parametrize("method", METHODS)
def test_a_fill_through_zero_closes_all_and_opens_the_rest(method: str) -> None:
    book = take(fills((1, 10), (2, 10), (-5, 12)), method)
    assert book.realized_pnl == 6 * ONE
    assert left(book) == [(None if method == "AVERAGE" else "t-2", "-2", "24")]


def test_of_lots_at_one_price_the_earliest_goes_first() -> None:
    """Also when it has become a hair cheaper than the other one by rounding: its price is what counts."""
    third = fills((3, "0.333333333333333333"), (3, "0.333333333333333333"), (-1, 1), (-1, 1), (-2, 1))
    assert [told(gain)[0] for gain in take(third, "HIFO").gains] == ["t-0", "t-0", "t-0", "t-1"]


def test_no_fraction_is_lost_between_lots() -> None:
    """A third of 10^-18 for each of three lots: 0, 0, and what is left; so is each third of what they cost."""
    dust = fills((1, "0.000000000000000001"), (1, "0.000000000000000002"), (1, "0.000000000000000003"))
    sale = Fill("s", 0, -1, 3 * ONE, 1, 0)  # comes to 3 units
    book = take([*dust, sale._replace(quantity=ONE * 3 // 2)], "FIFO")  # 1.5 units, half to even: 2
    assert [(gain.proceeds, gain.cost) for gain in book.gains] == [(1, 1), (1, 1)]
    assert [lot.cost for lot in book.lots] == [1, 3]
    closing = take([*dust, sale._replace(quantity=ONE * 3 // 2), sale._replace(quantity=ONE * 3 // 2)], "FIFO")
    assert closing.realized_pnl == 2 + 2 - 6
    assert closing.lots == []


def test_a_late_fill_may_close_what_was_opened_after_it() -> None:
    bought, sold = fills((1, 10), (-1, 12))
    (gain,) = take([bought._replace(executed_at=3 * DAY), sold], "FIFO").gains
    assert gain.holding_days == -2
