"""What a user's statement is of, and that it says what doesn't add up; its SQL is tried in tests/integration."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from assetstream.cli.history import Place
from assetstream.cli.statement import period, write
from assetstream.models.lots import Fill
from assetstream.models.messages import parse_time, to_micros
from assetstream.models.reference import ONE

#: 100 at first, of which 30 are locked; 30 leave, 5 come in
BALANCE = {
    "wallet_id": "w",
    "asset": "USD",
    "opening_total": "100",
    "opening_available": "70",
    "opening_locked": "30",
    "closing_total": "75",
    "closing_available": "75",
    "closing_locked": "0",
}
EVENT = {"wallet_id": "w", "asset": "USD", "code": None, "fee": "0", "status": "COMPLETED"}
MOVEMENTS = (
    {
        **EVENT,
        "occurred_at": "5",
        "transaction_id": "w-7",
        "type": "WITHDRAWAL",
        "amount": "30",
        "total": "-30",
        "available": "0",
        "locked": "-30",
        "posted": "-30",
    },
    {
        **EVENT,
        "occurred_at": "6",
        "transaction_id": "i-1",
        "type": "INTEREST",
        "amount": "5",
        "total": "5",
        "available": "5",
        "locked": "0",
        "posted": "5",
    },
)
POSTED = {"wallet_id": "w", "asset": "USD", "opening": "100", "closing": "75"}


def differences(
    balance: dict[str, Any] = BALANCE,
    posted: dict[str, Any] = POSTED,
    movements: tuple[dict[str, Any], ...] = MOVEMENTS,
) -> list[str]:
    return write("u", 1, 10, [balance], [posted], movements, {}).differences


def test_what_adds_up() -> None:
    told = write("u", 1, 10, [BALANCE], [POSTED], MOVEMENTS, {})
    assert told.differences == []
    assert [line["balance"]["total"] for line in told.movements] == ["70", "75"]


def test_every_law_can_be_broken() -> None:
    tiny = "0.000000000000000001"
    assert differences({**BALANCE, "closing_available": f"75{tiny[1:]}"}) == [
        f"w/USD available: 75{tiny[1:]}, but opening + movements come to 75"
    ]
    assert differences(posted={**POSTED, "opening": "99"}) == ["w/USD opening: 100, but all postings come to 99"]
    assert differences(posted={**POSTED, "asset": "BTC"}) == [
        "w/BTC opening: 0, but all postings come to 100",
        "w/BTC closing: 0, but all postings come to 75",
        "w/USD opening: 100, but all postings come to 0",
        "w/USD closing: 75, but all postings come to 0",
    ]
    first, second = MOVEMENTS
    assert differences(movements=({**first, "posted": None}, second)) == [
        "w/USD w-7 COMPLETED: -30, but its postings come to 0"
    ]
    assert differences(movements=(first, {**second, "locked": tiny})) == [
        f"w/USD i-1 COMPLETED: 5, but available + locked come to 5{tiny[1:]}",
        f"w/USD locked: 0, but opening + movements come to {tiny}",
    ]
    assert differences(movements=(first,)) == [
        "w/USD total: 75, but opening + movements come to 70",
        "w/USD available: 75, but opening + movements come to 70",
    ]


def test_positions_are_of_those_traded_by_the_end() -> None:
    def trade(id_: str, time: int) -> Fill:
        return Fill(id_, time, 1, ONE, 7 * ONE, 0)

    places = [Place("main", name, "USD") for name in ("A", "B", "C")]
    told = write(
        "u", 1, 10, [], [], [], dict(zip(places, ([trade("a", 0)], [trade("b", 9)], [trade("c", 10)]), strict=True))
    )
    assert [(line["symbol"], line["opening_quantity"], line["quantity"]) for line in told.positions] == [
        ("A", "1", "1"),
        ("B", "0", "1"),
    ]
    assert [line["trade_id"] for line in told.trades] == ["b"]


@pytest.mark.parametrize(
    ("day", "start", "end", "expected"),
    [
        (None, None, None, ("2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z")),  # yesterday
        ("2024-02-29T00:00:00Z", None, None, ("2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z")),
        (None, "2026-03-01T09:00:00Z", "2026-03-04T00:00:00Z", ("2026-03-01T09:00:00Z", "2026-03-04T00:00:00Z")),
    ],
)
def test_a_period(day: str | None, start: str | None, end: str | None, expected: tuple[str, str]) -> None:
    def time(text: str | None) -> datetime | None:
        return None if text is None else parse_time(text)

    found = period(time(day), time(start), time(end), parse_time("2026-03-01T00:00:00.000001Z"))
    assert found == tuple(to_micros(parse_time(text)) for text in expected)
