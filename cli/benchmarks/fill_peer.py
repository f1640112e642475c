"""The Python peers' work on one trade: the interface's rule for a fill, in exact decimals. Imports nothing of ours."""

from __future__ import annotations

import os
import time
from decimal import ROUND_HALF_EVEN, Decimal, getcontext

getcontext().prec = 50

#: a trade whose notional is above this raises an alert: one in a hundred
LIMIT = Decimal(960)
UNIT = Decimal("1e-18")


def fill(position: list[str] | None, trade: dict[str, str]) -> tuple[list[str], Decimal]:
    """The position (quantity, cost basis, realised P&L, fees) after the trade, and the trade's notional."""
    held, cost, realized, fees = map(Decimal, position or ("0", "0", "0", "0"))
    size, price = Decimal(trade["quantity"]), Decimal(trade["price"])
    quantity = size if trade["side"] == "BUY" else -size
    notional = rounded(size * price)
    if held == 0 or (held > 0) == (quantity > 0):
        held, cost = held + quantity, cost + notional.copy_sign(quantity)
    else:
        sign = 1 if held > 0 else -1
        closed = min(size, abs(held))
        released = cost if closed == abs(held) else rounded(cost * closed / abs(held))
        part = notional if closed == size else rounded(closed * price)
        realized += sign * part - released
        held += quantity
        cost = cost - released if size == closed else -sign * (notional - part)
    return [str(held), str(cost), str(realized), str(fees + Decimal(trade["fee"]))], notional


def rounded(amount: Decimal) -> Decimal:
    """At 18 decimals, half to even."""
    return amount if amount.as_tuple().exponent >= -18 else amount.quantize(UNIT, ROUND_HALF_EVEN)  # type: ignore[operator]


def alert(trade: dict[str, str], notional: Decimal) -> dict[str, str]:
    """What is published about a trade above the limit."""
    return {"trade_id": trade["trade_id"], "user_id": trade["user_id"], "notional": str(notional)}


def say(word: str) -> None:
    """Print the word and the time now, past whatever a framework does to stdout."""
    os.write(1, f"{word} {time.time()}\n".encode())
