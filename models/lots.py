"""What fills realised, lot by lot: FIFO, LIFO and HIFO beside average cost, in exact integers.

A fill opens a lot: its quantity and what it cost. A fill of the other side closes lots in the order of the method, and
opens one of its own with what is left. The rounding is the contract's (interface, section 3): what a fill brings for
all that it closes, at once, and what of a lot's cost goes with a part of it; the last part takes all that is left. So
nothing is ever lost: over any run of fills, whatever the method, Σ sign(q)·N = cost basis − realised P&L. Whenever a
position is flat all methods have realised the same; they differ only in when.

Amounts are ints in units of 10^-18, times microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NamedTuple

from assetstream.models.reference import divide, times

DAY = 86_400_000_000


class Fill(NamedTuple):
    """An accepted trade. sign: 1 bought, −1 sold; quantity, price > 0."""

    trade_id: str
    executed_at: int
    sign: int
    quantity: int
    price: int
    fee: int

    @property
    def notional(self) -> int:
        return times(self.quantity, self.price)


@dataclass(slots=True)
class Lot:
    """What is left of what a fill opened; of average cost there is one, of all fills that opened (opened_by: None).

    sign: 1 long, −1 short; quantity > 0 and cost ≥ 0: paid for a long lot, received for a short one.
    """

    opened_by: Fill | None
    sign: int
    quantity: int
    cost: int


class Gain(NamedTuple):
    """What closing a lot, or a part of one, realised before fees: proceeds − cost.

    Of a short lot the proceeds are those of the sale that opened it, the cost is what it was bought back for.
    """

    opened_by: Fill | None
    closed_by: Fill
    sign: int
    quantity: int
    proceeds: int
    cost: int

    @property
    def gain(self) -> int:
        return self.proceeds - self.cost

    @property
    def holding_days(self) -> int | None:
        """UTC days from the one to the other fill; below 0 when the one that opened it was executed later."""
        if self.opened_by is None:
            return None
        return self.closed_by.executed_at // DAY - self.opened_by.executed_at // DAY


class LotBook(NamedTuple):
    """gains: in the order in which they were realised; lots: what is open, in the order in which it was opened."""

    gains: list[Gain]
    lots: list[Lot]

    @property
    def quantity(self) -> int:
        return sum(lot.sign * lot.quantity for lot in self.lots)

    @property
    def cost_basis(self) -> int:
        return sum(lot.sign * lot.cost for lot in self.lots)

    @property
    def realized_pnl(self) -> int:
        return sum(gain.gain for gain in self.gains)


#: which lot is closed first, the one with the least of these; n counts lots as they are opened. HIFO: what realises
#: least: of long lots the highest price, of short ones the lowest; of equal ones the earliest
ORDERS: dict[str, Callable[[int, Fill], Any]] = {
    "FIFO": lambda n, opened_by: n,
    "LIFO": lambda n, opened_by: -n,
    "HIFO": lambda n, opened_by: (-opened_by.sign * opened_by.price, n),
    "AVERAGE": lambda n, opened_by: 0,
}
METHODS = tuple(ORDERS)


def take(fills: Iterable[Fill], method: str) -> LotBook:
    """The gains and open lots of one position's fills, given in the order in which they were booked."""
    order, pooled = ORDERS[method], method == "AVERAGE"
    gains: list[Gain] = []
    queue: list[tuple[Any, int, Lot]] = []  # of one side only
    held = 0
    for n, fill in enumerate(fills):
        quantity, notional = fill.quantity, fill.notional
        if held * fill.sign < 0:
            closed = min(quantity, abs(held))
            proceeds = notional if closed == quantity else times(closed, fill.price)
            gains += _close(queue, fill, closed, proceeds)
            quantity, notional = quantity - closed, notional - proceeds
        held += fill.sign * fill.quantity
        if quantity and pooled and queue:
            pool = queue[0][2]
            pool.quantity, pool.cost = pool.quantity + quantity, pool.cost + notional
        elif quantity:
            lot = Lot(None if pooled else fill, fill.sign, quantity, notional)
            heappush(queue, (order(n, fill), n, lot))
    return LotBook(gains, [lot for _, _, lot in sorted(queue, key=lambda each: each[1])])


def _close(queue: list[tuple[Any, int, Lot]], fill: Fill, quantity: int, notional: int) -> Iterable[Gain]:
    """Close lots for `quantity` of a fill, which comes to `notional`, shared out by quantity."""
    while quantity:
        lot = queue[0][2]
        part = min(lot.quantity, quantity)
        share, cost = _share(notional, part, quantity), _share(lot.cost, part, lot.quantity)
        yield Gain(lot.opened_by, fill, lot.sign, part, *((share, cost) if lot.sign > 0 else (cost, share)))
        quantity, notional = quantity - part, notional - share
        lot.quantity, lot.cost = lot.quantity - part, lot.cost - cost
        if lot.quantity == 0:
            heappop(queue)


def _share(amount: int, part: int, whole: int) -> int:
    """What falls to a part of a quantity; to all of it, all."""
    return amount if part == whole else divide(amount * part, whole)
