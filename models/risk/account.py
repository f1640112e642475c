"""A portfolio as it is valued now, exactly as the stream values it, and with the prices and currencies moved.

Amounts are ints in units of 10^-18; quantities, market values and costs are signed, a short position's are below 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from assetstream.models.decimals import DecimalError, to_units
from assetstream.models.reference import Book, fill, quote_of
from assetstream.models.reference_reading import ASSET, BOUND, ONE, divide, times


class Mark(NamedTuple):
    """The latest accepted price of a symbol, and the quote that came with it. as_of: microseconds UTC."""

    price: int
    currency: str
    bid: int | None
    ask: int | None
    as_of: int

    @property
    def spread(self) -> int | None:
        """ask − bid; None when that is no quote: a side is missing or below 0, or they cross."""
        return None if self.bid is None or self.ask is None or not 0 <= self.bid <= self.ask else self.ask - self.bid


class Holding(NamedTuple):
    """A position. last_price: of its last fill, which is its mark until there is a price."""

    symbol: str
    currency: str
    asset_type: str
    book: Book
    last_price: int


class Value(NamedTuple):
    """What a position comes to in base currency."""

    market_value: int
    cost_basis: int
    realized_pnl: int
    fees: int

    @property
    def total_pnl(self) -> int:
        """Realised + unrealised − fees."""
        return self.realized_pnl + self.market_value - self.cost_basis - self.fees


class Move(NamedTuple):
    """By what a position's price and the currencies that it depends on are multiplied, ≥ 0.

    exposure  the currency in which its price is (of a currency pair: the currency that is held), against the base
    own       the currency in which its cost is kept, against the base
    """

    price: int = ONE
    exposure: int = ONE
    own: int = ONE


UNMOVED = Move()


@dataclass(frozen=True)
class Account:
    """All positions of a portfolio, flat ones too (what they realised counts), and the marks that value them.

    baseline  total P&L at the beginning of the portfolio's day; None: not known
    cash      beside the positions, in base currency; None: not known
    """

    user_id: str
    portfolio_id: str
    base_currency: str
    holdings: tuple[Holding, ...]
    marks: Mapping[str, Mark]
    baseline: int | None = None
    cash: int | None = None

    def rate(self, have: str, want: str) -> int | None:
        """One `have` in `want` by the contract's three rules; None: there is none."""
        legs = self.legs(have, want)
        if legs is None:
            return None
        found = ONE
        for symbol, inverse in legs:
            price = self.marks[symbol].price
            found = times(found, divide(ONE * ONE, price) if inverse else price)
        return found if found < BOUND else None

    def legs(self, have: str, want: str) -> list[tuple[str, bool]] | None:
        """The prices that make the rate of `have` in `want`, and whether each is taken inversely; None: no rate."""
        direct = self._direct(have, want)
        if direct is not None or "USD" in (have, want):
            return direct
        first, second = self._direct(have, "USD"), self._direct("USD", want)
        return None if first is None or second is None else first + second

    def _direct(self, have: str, want: str) -> list[tuple[str, bool]] | None:
        if have == want:
            return []
        if "/" in have + want:
            return None
        pairs = ((f"{have}/{want}", False), (f"{want}/{have}", True))
        return next(([pair] for pair in pairs if pair[0] in self.marks), None)

    def mark_of(self, holding: Holding) -> tuple[int, str]:
        """(price, its currency) that values a position."""
        mark = self.marks.get(holding.symbol)
        return (mark.price, mark.currency) if mark else (holding.last_price, holding.currency)

    def exposure(self, holding: Holding) -> str:
        """The currency whose move against the base moves a position: of money that is held it is that money itself."""
        if holding.asset_type == "FIAT":
            return holding.symbol.split("/")[0] if quote_of(holding.symbol) else holding.symbol
        return self.mark_of(holding)[1]

    def value(self, holding: Holding, move: Move = UNMOVED) -> Value | None:
        """A position's value in base currency, moved; None: it is unpriced (no rate, or an amount reaches 10^20)."""
        price, currency = self.mark_of(holding)
        to_own, to_base = self.rate(currency, holding.currency), self.rate(holding.currency, self.base_currency)
        if to_own is None or to_base is None:
            return None
        book = holding.book
        price = times(times(price, move.price), to_own)
        own_value = times(book.quantity, price)
        market_value = times(own_value, times(to_base, move.exposure))
        rate = times(to_base, move.own)
        cost, realized, fees = (times(x, rate) for x in (book.cost_basis, book.realized_pnl, book.fees))
        amounts = (price, own_value, market_value, cost, realized, fees, own_value - book.cost_basis)
        if move == UNMOVED and max(map(abs, (*amounts, market_value - cost))) >= BOUND:
            return None
        return Value(market_value, cost, realized, fees)

    @property
    def unpriced(self) -> list[str]:
        """Symbols of positions, flat ones too, that need a rate which there isn't. They are in no total."""
        return sorted(each.symbol for each in self.holdings if self.value(each) is None)

    @property
    def priced(self) -> tuple[Holding, ...]:
        """The others."""
        return tuple(each for each in self.holdings if self.value(each) is not None)

    @property
    def open(self) -> tuple[Holding, ...]:
        """Those of the others that aren't flat."""
        return tuple(each for each in self.priced if each.book.quantity)


# ------------------------------------------------------------------------------------------------- hypothetical trades

_TRADE = re.compile(r"\s*(BUY|SELL)\s+(\S+)\s+(\S+)\s*@\s*(\S+)(?:\s+(\S+))?\s*", re.IGNORECASE)


class TradeError(ValueError):
    """A hypothetical trade that is none; the text says what is wrong with it."""


class Trade(NamedTuple):
    """A hypothetical trade, without a fee. sign: 1 bought, −1 sold; currency None: that of the position or price."""

    sign: int
    quantity: int
    symbol: str
    price: int
    currency: str | None


def read_trade(text: str) -> Trade:
    """`BUY 100 SAP @ 241.31`, or with the currency behind: `… @ 241.31 EUR`. Raises TradeError."""
    found = _TRADE.fullmatch(text)
    if found is None:
        raise TradeError(f"{text!r} is no trade: write it as 'BUY 100 SAP @ 241.31'")
    side, quantity, symbol, price, currency = found.groups()
    try:
        amounts = [to_units(each) for each in (quantity, price)]
    except DecimalError as error:
        raise TradeError(f"{text!r}: quantity or price {error}") from error
    if min(amounts) <= 0:
        raise TradeError(f"{text!r}: quantity and price must be above 0")
    for name in (symbol, currency):
        if name is not None and not ASSET.fullmatch(name):
            raise TradeError(f"{text!r}: {name} is no symbol")
    return Trade(1 if side.upper() == "BUY" else -1, amounts[0], symbol, amounts[1], currency)


def with_trades(account: Account, trades: Iterable[Trade], types: Mapping[str, str]) -> Account:
    """The account after trades, booked as the stream books them; cash, where it is known, pays for them.

    types: asset type by symbol, of those that aren't held yet. Raises TradeError.
    """
    for trade in trades:
        account = _with_trade(account, trade, types.get(trade.symbol, "OTHER"))
    return account


def _with_trade(account: Account, trade: Trade, asset_type: str) -> Account:
    held = {each.symbol: each for each in account.holdings}
    before = held.get(trade.symbol) or Holding(trade.symbol, _currency(account, trade), asset_type, Book(), trade.price)
    if trade.currency not in (None, before.currency):
        raise TradeError(f"{trade.symbol} is held in {before.currency}, not in {trade.currency}")
    notional = times(trade.quantity, trade.price)
    if notional >= BOUND:
        raise TradeError(f"{trade.symbol}: the trade comes to 10^20 or more")
    book = fill(before.book, trade.sign, trade.quantity, trade.price, 0)
    held[trade.symbol] = before._replace(book=book, last_price=trade.price)
    cash = account.cash
    if cash is not None:
        rate = account.rate(before.currency, account.base_currency)
        if rate is None:
            raise TradeError(
                f"{trade.symbol}: no rate of {before.currency} in {account.base_currency} to pay with cash"
            )
        cash -= trade.sign * times(notional, rate)
    return replace(account, holdings=tuple(held[symbol] for symbol in sorted(held)), cash=cash)


def _currency(account: Account, trade: Trade) -> str:
    if trade.currency is not None:
        return trade.currency
    if trade.symbol not in account.marks:
        raise TradeError(f"{trade.symbol} has no price: say in which currency it is, as in '@ 241.31 EUR'")
    return account.marks[trade.symbol].currency
