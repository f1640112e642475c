"""What `assetstream gains` makes of fills: years, currencies, and that it says so when lots don't tie out."""

from __future__ import annotations

import pytest

from assetstream.cli import gains
from assetstream.cli.gains import compute
from assetstream.cli.history import Place
from assetstream.models.lots import Fill, LotBook
from assetstream.models.messages import parse_time, to_micros
from assetstream.models.reference import ONE

EUR, USD = Place("main", "SAP", "EUR"), Place("main", "ACME", "USD")


def trade(id_: str, day: str, quantity: int, price: int) -> Fill:
    time = to_micros(parse_time(f"{day}T23:59:59.999999Z"))
    return Fill(id_, time, 1 if quantity > 0 else -1, abs(quantity) * ONE, price * ONE, 0)


FILLS = {
    EUR: [trade("e-1", "2024-12-31", 2, 10), trade("e-2", "2025-12-31", -1, 11), trade("e-3", "2026-01-01", -2, 12)],
    USD: [trade("u-1", "2025-06-01", -1, 100), trade("u-2", "2025-06-02", 1, 130)],
}


def test_a_year_is_that_of_the_fill_that_closed() -> None:
    told = compute("u", "FIFO", 2025, FILLS)
    assert [(line["closed_by"], line["side"], line["entry"], line["holding_days"]) for line in told.gains] == [
        ("e-2", "LONG", 1, 365),
        ("u-2", "SHORT", 1, 1),
    ]
    assert told.totals == [
        {"currency": "EUR", "proceeds": "11", "cost": "10", "gain": "1"},
        {"currency": "USD", "proceeds": "100", "cost": "130", "gain": "-30"},
    ]
    (later,) = compute("u", "FIFO", 2026, FILLS).gains
    assert (later["entry"], later["gain"], later["holding_days"]) == (2, "2", 366)


def test_lots_that_are_open_are_as_they_are_whatever_the_year() -> None:
    told = compute("u", "LIFO", 2024, FILLS)
    assert told.gains == []
    assert [(line["opened_by"], line["quantity"], line["cost_basis"]) for line in told.lots] == [("e-3", "-1", "-12")]
    assert [line["realized_pnl"] for line in told.positions] == ["3", "-30"]


def test_lots_that_do_not_tie_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gains, "take", lambda fills, method: LotBook([], []))
    assert compute("u", "AVERAGE", None, FILLS).differences == [
        "main/SAP quantity: 0, not -1",
        "main/SAP cost basis − realised P&L: 0, not -15",
        "main/SAP realised P&L: 0, not 3",
        "main/ACME cost basis − realised P&L: 0, not 30",
        "main/ACME realised P&L: 0, not -30",
    ]
