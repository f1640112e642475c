"""Fills as analysts look back at them, in exact integers: units of 10^-18, microseconds UTC."""

from __future__ import annotations

from typing import NamedTuple


class Fill(NamedTuple):
    """An accepted trade. sign: 1 bought, −1 sold; quantity, price > 0."""

    trade_id: str
    executed_at: int
    sign: int
    quantity: int
    price: int
    fee: int
