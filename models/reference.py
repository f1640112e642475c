"""A plain model of docs/interface.md, sections 1–5: what the kernels and the whole pipeline are held against, by the
tests and, in a running installation, by `assetstream check`.

Standard library only, exact integers and decimals, one message at a time, nothing shared with the code it
judges. Money is an int in units of 10^-18. How messages are read is in `reference_reading`, wallets (section 5)
are in `reference_ledger`, all else is here.

Where the interface is silent, the readings taken are marked "Reading:".
"""

from __future__ import annotations

import base64
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from assetstream.models.reference_ledger import NO_QUOTE as NO_QUOTE
from assetstream.models.reference_ledger import Ledger, Quote
from assetstream.models.reference_reading import (
    BOUND,
    ONE,
    SECOND,
    Rejected,
    Source,
    body_of,
    day_of,
    divide,
    plain,
    read,
    times,
    timestamp,
    week_of,
)
from assetstream.models.reference_reading import LIMITS as LIMITS
from assetstream.models.reference_settlement_dates import ReferenceDates
from assetstream.models.settlement_rules import settlement_rules

OK, WARNING, CRITICAL = 0, 1, 2
SEVERITIES = ("INFO", "WARNING", "CRITICAL")


def level_of(value: int, limit: int | None) -> int:
    """OK below 0.9·limit, WARNING up to and with the limit, CRITICAL above; without a limit OK."""
    if limit is None or 10 * value < 9 * limit:
        return OK
    return WARNING if value <= limit else CRITICAL


def quote_of(symbol: str) -> str | None:
    """B of a symbol A/B. Reading: exactly one slash with something on both sides, else it is no pair."""
    parts = symbol.split("/")
    return parts[1] if len(parts) == 2 and all(parts) else None


# ----------------------------------------------------------------------------------------------- state


class Price(NamedTuple):
    """An accepted price."""

    fields: dict[str, Any]
    source: Source


class Book(NamedTuple):
    """What the fills of a position add up to, in units."""

    quantity: int = 0
    cost_basis: int = 0
    realized_pnl: int = 0
    fees: int = 0

    @property
    def average_price(self) -> int | None:
        """|cost_basis / quantity|, rounded; None when flat."""
        if self.quantity == 0:
            return None
        return divide(abs(self.cost_basis) * ONE, abs(self.quantity))


def fill(book: Book, sign: int, quantity: int, price: int, fee: int) -> Book:
    """The book after a fill of `sign`·`quantity` at `price` (interface, section 3)."""
    notional = times(quantity, price)
    held, cost, realized, fees = book
    if held * sign >= 0:
        return Book(held + sign * quantity, cost + sign * notional, realized, fees + fee)
    closed = min(quantity, abs(held))
    released = cost if closed == abs(held) else divide(cost * closed, abs(held))
    proceeds = notional if closed == quantity else times(closed, price)
    side = -sign
    realized += side * proceeds - released
    cost -= released
    held += sign * closed
    if quantity > closed:
        held = sign * (quantity - closed)
        cost = sign * (notional - proceeds)
    return Book(held, cost, realized, fees + fee)


class Valuation(NamedTuple):
    """A position in base currency, in units."""

    market_value: int
    cost_basis: int
    realized_pnl: int
    fees: int


@dataclass(eq=False)
class Position:
    """One position; `valuation` is None while it is unpriced."""

    portfolio: Portfolio
    symbol: str
    currency: str
    book: Book = field(default_factory=Book)
    last_price: int = 0
    last_trade_at: int = 0
    valuation: Valuation | None = None


@dataclass(eq=False)
class Portfolio:
    """One portfolio with its totals as last computed, in units of base currency."""

    user_id: str
    portfolio_id: str
    day: int
    week: int
    as_of: int
    day_baseline: int = 0
    week_baseline: int = 0
    limits: dict[str, Any] | None = None
    positions: dict[str, Position] = field(default_factory=dict)
    levels: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    market_value: int = 0
    cost_basis: int = 0
    realized_pnl: int = 0
    fees: int = 0
    gross_exposure: int = 0
    unpriced: list[str] = field(default_factory=list)

    @property
    def unrealized_pnl(self) -> int:
        return self.market_value - self.cost_basis

    @property
    def total_pnl(self) -> int:
        return self.realized_pnl + self.unrealized_pnl - self.fees

    def limit(self, name: str) -> Any:
        """A limit in force, None when there is none."""
        return self.limits[name] if self.limits and self.limits["active"] else None

    def position_limit(self, symbol: str) -> int | None:
        """The limit of one symbol's position."""
        own: dict[str, int] = self.limit("asset_limits") or {}
        return own.get(symbol, self.limit("max_position_size"))


class Reference:
    """The service, one message at a time, in the order in which `feed` gets them.

    id_memory  how many ids are remembered of each input topic and partition
    judging    portfolios are valued and judged message by message; else when `value_all` is called, without alerts
    dates      when trades settle
    conversion_max_age_s, conversion_spread_bps
               of conversions that give no rate: how old marks may be (s), and what is taken off (in units of 10^-18)
    decimals   of assets: amounts of `transactions` that are finer are invalid; None: 18, whatever the asset
    """

    def __init__(
        self,
        base_currency: str = "USD",
        max_future_skew_s: int = 3600,
        id_memory: int = 1_000_000,
        judging: bool = True,
        dates: ReferenceDates | None = None,
        conversion_max_age_s: int = 60,
        conversion_spread_bps: int = 0,
        decimals: Mapping[str, int] | None = None,
    ) -> None:
        self.base_currency = base_currency
        self.max_future_skew_s = max_future_skew_s
        self.id_memory = id_memory
        self.judging = judging
        self.dates = dates or ReferenceDates(settlement_rules())
        #: says when a trade settles, µs
        self.settles_at = self.date_of
        self.decimals = decimals
        self.conversion_max_age_s = conversion_max_age_s
        self.conversion_spread_bps = conversion_spread_bps
        self.timestamp_ms = 0  # of the record that was taken last
        #: finds what conversions that give no rate are done at
        self.quote = self.current_quote
        self.fills: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.dead_letters: list[dict[str, Any]] = []
        self.details: dict[str, str] = {}
        self.prices_accepted: list[dict[str, Any]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.portfolios: dict[tuple[str, str], Portfolio] = {}
        self.latest: dict[str, Price] = {}
        self.marks: dict[str, Price] = {}
        self.ledger = Ledger(id_memory, base_currency)
        #: as in `asset_transactions`, and every balance that an event left or changed
        self.outcomes, self.balance_changes = self.ledger.outcomes, self.ledger.changes
        #: as in `settlement_events`; and of those that trades caused, the legs of each
        self.settlements, self.settled_postings = self.ledger.settlements, self.ledger.settled_postings
        #: by (topic, partition): what was said under each remembered id of a trade, the oldest first
        self._bodies: dict[tuple[str, int], OrderedDict[tuple[str, str], bytes]] = {}
        #: positions whose valuation looked at a symbol's mark, found or not
        self._watchers: dict[str, dict[Position, None]] = {}

    # ------------------------------------------------------------------------------------- the surface

    def feed(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        take_mark: bool = True,
    ) -> str:
        """Take one record: applied, duplicate, ignored, or the reason of its rejection.

        topic         one of trades, transactions, risk_limits, prices, transfers, clock (without prefix)
        timestamp_ms  Kafka's timestamp of the record, milliseconds UTC
        take_mark     an accepted price is at once the mark; else `take_mark()` says when
        """
        source = Source(topic, partition, offset)
        self.timestamp_ms = timestamp_ms
        if topic == "clock":
            result = self.ledger.tick(timestamp_ms, source)  # whatever it says: what counts is when it came
            self.counts[topic, result] += 1
            return result
        try:
            message = read(topic, timestamp_ms, self.max_future_skew_s, key, value, self.decimals)
            result = getattr(self, f"_{topic}")(message, source)
        except Rejected as rejected:
            result = rejected.reason
            self._bury(source, key, value, rejected)
        self.counts[topic, result] += 1
        if topic == "prices" and result == "applied" and take_mark:
            self.take_mark(message["symbol"])
        return result

    def take_mark(self, symbol: str) -> None:
        """The latest accepted price of `symbol` becomes its mark: revaluation and limit checks."""
        mark = self.latest[symbol]
        if self.marks.get(symbol) is mark:
            return
        self.marks[symbol] = mark
        affected: dict[Portfolio, list[Position]] = {}
        for position in self._watchers.get(symbol, ()):
            affected.setdefault(position.portfolio, []).append(position)
        as_of = mark.fields["as_of"]
        for portfolio, positions in affected.items():
            own = portfolio.positions.get(symbol)
            if own and own.book.quantity:
                self._turn(portfolio, as_of)
            for position in positions:
                self._value(position)
            self._total(portfolio)
            self._judge(portfolio, [symbol] if own else [], as_of, mark.source)

    def date_of(self, m: dict[str, Any], source: Source) -> int:
        """When a trade settles by the rules, µs."""
        return self.dates.settles_at(m["asset_type"], m["currency"], m["executed_at"])

    def value_all(self) -> None:
        """Value every portfolio with the marks as they are now; judges nothing."""
        for portfolio in self.portfolios.values():
            for position in portfolio.positions.values():
                self._value(position)
            self._total(portfolio)

    def update(self, user_id: str, portfolio_id: str) -> dict[str, Any]:
        """The current valuation as `portfolio_updates` has it, without `sequence`."""
        p = self.portfolios[user_id, portfolio_id]
        return {
            "user_id": user_id,
            "portfolio_id": portfolio_id,
            "base_currency": self.base_currency,
            "market_value": plain(p.market_value),
            "cost_basis": plain(p.cost_basis),
            "realized_pnl": plain(p.realized_pnl),
            "unrealized_pnl": plain(p.unrealized_pnl),
            "fees": plain(p.fees),
            "total_pnl": plain(p.total_pnl),
            "daily_pnl": plain(p.total_pnl - p.day_baseline),
            "gross_exposure": plain(p.gross_exposure),
            "open_positions": sum(position.book.quantity != 0 for position in p.positions.values()),
            "complete": not p.unpriced,
            "unpriced": list(p.unpriced),
            "as_of": timestamp(p.as_of),
        }

    @property
    def positions(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """Every position ever traded, by (user, portfolio, symbol); decimals in plain form."""
        return {
            (*key, symbol): {
                "currency": position.currency,
                "quantity": plain(position.book.quantity),
                "cost_basis": plain(position.book.cost_basis),
                "average_price": _plain_or_none(position.book.average_price),
                "realized_pnl": plain(position.book.realized_pnl),
                "fees": plain(position.book.fees),
                "last_trade_at": timestamp(position.last_trade_at),
            }
            for key, portfolio in self.portfolios.items()
            for symbol, position in portfolio.positions.items()
        }

    @property
    def balances(self) -> dict[tuple[str, str, str], dict[str, str]]:
        """Every balance, by (user, wallet, asset); decimals in plain form."""
        return {key: balance.plain() for key, balance in self.ledger.balances.items()}

    def remembered(self, topic: str, partition: int) -> dict[tuple[str, ...], Any]:
        """What is remembered by (user, id): of `trades` the body, of `transactions` the bodies by status; a
        credit from another user that was refused by (receiver, sender, id).
        """
        if topic == "trades":
            return dict(self._bodies.get((topic, partition), {}))
        return {identity: dict(each.bodies) for identity, each in self.ledger.transactions(partition).items()}

    def split(self, partition: int, partitions: Iterable[int], home: Callable[[str], int]) -> None:
        """Partitions were added for users of `partition`, home(user_id): each of them begins with all its trade ids,
        and with the transactions of its users.
        """
        for number in partitions:
            self._bodies["trades", number] = self._bodies.get(("trades", partition), OrderedDict()).copy()
        self.ledger.split(partition, partitions, home)

    # -------------------------------------------------------------------------------------- the topics

    def _trades(self, m: dict[str, Any], source: Source) -> str:
        identity, body = (m["user_id"], m["trade_id"]), body_of(m)
        seen = self._seen(source).get(identity)
        if seen == body:
            return "duplicate"
        portfolio = self.portfolios.get((m["user_id"], m["portfolio_id"]))
        position = portfolio.positions.get(m["symbol"]) if portfolio else None
        before = position.book if position else Book()
        sign = 1 if m["side"] == "BUY" else -1
        after = fill(before, sign, m["quantity"], m["price"], m["fee"])
        notional = times(m["quantity"], m["price"])
        settles_at = self.settles_at(m, source)
        effect = self.ledger.exchange(m, notional, settles_at)
        if any(abs(amount) >= BOUND for amount in (*after, after.average_price or 0)):
            raise Rejected("out_of_range", "quantity: a resulting amount of 10^20 or more")
        if seen is not None:
            raise Rejected("conflict", "trade_id: seen before with another body")
        if position and position.currency != m["currency"]:
            raise Rejected("currency_mismatch", f"currency: the position is in {position.currency}")

        self._remember(source, identity, body)
        self.ledger.settle(m, notional, settles_at, effect, source)
        at = m["executed_at"]
        portfolio = self._portfolio(m, at)
        if position is None:
            position = portfolio.positions[m["symbol"]] = Position(portfolio, m["symbol"], m["currency"])
        position.book = after
        position.last_price = m["price"]
        # Reading: the latest by its own time; a late trade does not turn it back.
        position.last_trade_at = max(position.last_trade_at, at)
        self.fills.append(
            {
                **_published(m),
                "notional": plain(notional),
                "fill_realized_pnl": plain(after.realized_pnl - before.realized_pnl),
                "position_quantity": plain(after.quantity),
                "position_cost_basis": plain(after.cost_basis),
                "position_average_price": _plain_or_none(after.average_price),
                "position_realized_pnl": plain(after.realized_pnl),
                "position_fees": plain(after.fees),
                **source.columns(),
            }
        )
        if self.judging:
            self._value(position)
            self._total(portfolio)
            self._judge(portfolio, [m["symbol"]], at, source)
        return "applied"

    def _prices(self, m: dict[str, Any], source: Source) -> str:
        latest = self.latest.get(m["symbol"])
        # Reading: a rejection goes before "older, so ignored".
        if quote_of(m["symbol"]) not in (None, m["currency"]):
            raise Rejected("currency_mismatch", f"currency: {m['symbol']} is quoted in its second half")
        if latest and latest.fields["currency"] != m["currency"]:
            raise Rejected("currency_mismatch", f"currency: {m['symbol']} is in {latest.fields['currency']}")
        if latest and m["as_of"] < latest.fields["as_of"]:
            return "ignored"
        if latest and m == latest.fields:
            return "duplicate"
        self.latest[m["symbol"]] = Price(m, source)
        self.prices_accepted.append({**_published(m), **source.columns()})
        return "applied"

    def _risk_limits(self, m: dict[str, Any], source: Source) -> str:
        portfolio = self.portfolios.get((m["user_id"], m["portfolio_id"]))
        if portfolio and portfolio.limits and m["version"] <= portfolio.limits["version"]:
            return "ignored"
        portfolio = self._portfolio(m, m["updated_at"])
        portfolio.limits = m
        if self.judging:
            self._total(portfolio)
            self._judge(portfolio, portfolio.positions, m["updated_at"], source)
        return "applied"

    def _transactions(self, m: dict[str, Any], source: Source) -> str:
        return self.ledger.take(m, source, self.quote)

    def _transfers(self, m: dict[str, Any], source: Source) -> str:
        return self.ledger.take_transfer(m, source)

    def _seen(self, source: Source) -> OrderedDict[tuple[str, str], bytes]:
        return self._bodies.setdefault(source[:2], OrderedDict())

    def _remember(self, source: Source, identity: tuple[str, str], body: bytes) -> None:
        seen = self._seen(source)
        if len(seen) >= self.id_memory:
            seen.popitem(last=False)
        seen[identity] = body

    # --------------------------------------------------------------------------- portfolios and levels

    def _portfolio(self, m: dict[str, Any], at: int) -> Portfolio:
        """The portfolio of an accepted message, opened or turned to its day before anything else happens."""
        key = (m["user_id"], m["portfolio_id"])
        portfolio = self.portfolios.get(key)
        if portfolio is None:
            portfolio = self.portfolios[key] = Portfolio(*key, day_of(at), week_of(at), at)
        self._turn(portfolio, at)
        portfolio.as_of = max(portfolio.as_of, at)
        return portfolio

    @staticmethod
    def _turn(portfolio: Portfolio, at: int) -> None:
        if day_of(at) > portfolio.day:
            portfolio.day = day_of(at)
            portfolio.day_baseline = portfolio.total_pnl
        if week_of(at) > portfolio.week:
            portfolio.week = week_of(at)
            portfolio.week_baseline = portfolio.total_pnl

    def _rate(self, have: str, want: str, used: list[str]) -> int | None:
        """Units of `want` for one `have`; None when unknown. Adds every pair that was looked at to `used`."""
        rate = self._direct_rate(have, want, used)
        if rate is None and "USD" not in (have, want):
            first = self._direct_rate(have, "USD", used)
            second = self._direct_rate("USD", want, used)
            if first is not None and second is not None:
                rate = times(first, second)
        # Reading: a rate that reaches 10^20 is none, like any other amount that does.
        return rate if rate is None or rate < BOUND else None

    def current_quote(self, m: dict[str, Any], source: Source) -> Quote | None:
        """What a conversion is done at by the marks as they are; None: there is no rate, or it is too old."""
        used: list[str] = []
        rate = self._rate(m["asset"], m["to_asset"], used)
        as_of = min((self.marks[symbol].fields["as_of"] for symbol in used if symbol in self.marks), default=None)
        too_old = as_of is not None and as_of + self.conversion_max_age_s * SECOND < self.timestamp_ms * 1000
        if rate is None or too_old:
            return None
        # (1 − bps/10,000), of 18 decimals: a spread has 14 at most
        rate = times(rate, ONE - self.conversion_spread_bps // 10_000)
        # Reading: what rounds to 0 is no rate.
        return Quote(rate, as_of, self.conversion_spread_bps) if rate else None

    def _direct_rate(self, have: str, want: str, used: list[str]) -> int | None:
        if have == want:
            return ONE
        if "/" in have + want:  # Reading: what has a slash is itself a pair, and has no rate
            return None
        for symbol, inverse in ((f"{have}/{want}", False), (f"{want}/{have}", True)):
            used.append(symbol)
            if symbol in self.marks:
                price = self.marks[symbol].fields["price"]
                return divide(ONE * ONE, price) if inverse else price
        return None

    def _value(self, position: Position) -> None:
        used = [position.symbol]
        position.valuation = self._valuation(position, used)
        for symbol in used:
            self._watchers.setdefault(symbol, {})[position] = None
        times_used = [self.marks[symbol].fields["as_of"] for symbol in used if symbol in self.marks]
        if position.valuation is not None and times_used:
            position.portfolio.as_of = max(position.portfolio.as_of, *times_used)

    def _valuation(self, position: Position, used: list[str]) -> Valuation | None:
        book = position.book
        mark = self.marks.get(position.symbol)
        price = mark.fields["price"] if mark else position.last_price
        # Reading: a flat position needs its mark and rates too.
        to_own = self._rate(mark.fields["currency"], position.currency, used) if mark else ONE
        to_base = self._rate(position.currency, self.base_currency, used)
        if to_own is None or to_base is None:
            return None
        price = times(price, to_own)
        own_value = times(book.quantity, price)
        market_value = times(own_value, to_base)
        cost, realized, fees = (times(x, to_base) for x in (book.cost_basis, book.realized_pnl, book.fees))
        amounts = (price, own_value, market_value, cost, realized, fees)
        differences = (own_value - book.cost_basis, market_value - cost)
        if max(map(abs, (*amounts, *differences))) >= BOUND:
            return None
        return Valuation(market_value, cost, realized, fees)

    @staticmethod
    def _total(portfolio: Portfolio) -> None:
        positions = portfolio.positions
        priced = [p.valuation for p in positions.values() if p.valuation]
        portfolio.unpriced = sorted(s for s, p in positions.items() if not p.valuation)
        Reference._sum(portfolio, priced)
        sums = (
            portfolio.market_value,
            portfolio.cost_basis,
            portfolio.realized_pnl,
            portfolio.fees,
            portfolio.unrealized_pnl,
            portfolio.total_pnl,
            portfolio.gross_exposure,
            portfolio.total_pnl - portfolio.day_baseline,
            portfolio.total_pnl - portfolio.week_baseline,
        )
        if max(map(abs, sums)) >= BOUND:
            portfolio.unpriced = sorted(positions)
            Reference._sum(portfolio, [])

    @staticmethod
    def _sum(portfolio: Portfolio, valuations: list[Valuation]) -> None:
        market_value = cost_basis = realized_pnl = fees = gross_exposure = 0
        for v in valuations:
            market_value += v.market_value
            cost_basis += v.cost_basis
            realized_pnl += v.realized_pnl
            fees += v.fees
            gross_exposure += abs(v.market_value)
        portfolio.market_value = market_value
        portfolio.cost_basis = cost_basis
        portfolio.realized_pnl = realized_pnl
        portfolio.fees = fees
        portfolio.gross_exposure = gross_exposure

    def _judge(self, portfolio: Portfolio, symbols: Iterable[str], at: int, source: Source) -> None:
        """Check POSITION_LIMIT of `symbols` and the portfolio's rules, and publish every change of level."""
        for symbol in sorted(symbols):
            valuation = portfolio.positions[symbol].valuation
            priced = valuation is not None and symbol not in portfolio.unpriced
            value = abs(valuation.market_value) if valuation is not None and priced else 0
            limit = portfolio.position_limit(symbol)
            if priced or limit is None:
                self._level(portfolio, "POSITION_LIMIT", symbol, value, limit, True, at, source)
        complete = not portfolio.unpriced
        loss = -portfolio.total_pnl
        for kind, subject, value, name in (
            ("EXPOSURE_LIMIT", "-", portfolio.gross_exposure, "max_portfolio_value"),
            ("LOSS_LIMIT", "total", loss, "max_total_loss"),
            ("LOSS_LIMIT", "daily", loss + portfolio.day_baseline, "max_daily_loss"),
            ("LOSS_LIMIT", "weekly", loss + portfolio.week_baseline, "max_weekly_loss"),
        ):
            self._level(portfolio, kind, subject, value, portfolio.limit(name), complete, at, source)

    def _level(
        self,
        portfolio: Portfolio,
        kind: str,
        subject: str,
        value: int,
        limit: int | None,
        may_fall: bool,
        at: int,
        source: Source,
    ) -> None:
        before, changes = portfolio.levels.get((kind, subject), (OK, 0))
        level = level_of(value, limit)
        if level == before or (level < before and limit is not None and not may_fall):
            return
        portfolio.levels[kind, subject] = (level, changes + 1)
        hundred = level == CRITICAL or (level == WARNING and before == CRITICAL)
        user, name = portfolio.user_id, portfolio.portfolio_id
        self.alerts.append(
            {
                "alert_id": f"{user}/{name}/{kind}/{subject}/{changes + 1}",
                "user_id": user,
                "portfolio_id": name,
                "type": kind,
                "severity": SEVERITIES[level],
                "symbol": subject if kind == "POSITION_LIMIT" else None,
                "current_value": plain(value),
                "limit_value": _plain_or_none(limit),
                "threshold_percent": "100" if hundred else "90",
                "is_resolved": level == OK,
                "action": "NONE",
                "created_at": timestamp(at),
                "cause": source.cause(),
            }
        )

    def _bury(self, source: Source, key: bytes | None, value: bytes | None, rejected: Rejected) -> None:
        dead_letter_id = f"{source.topic}-{source.partition}-{source.offset}"
        self.details[dead_letter_id] = rejected.detail
        self.dead_letters.append(
            {
                "dead_letter_id": dead_letter_id,
                **source.cause(),
                "key": _base64(key),
                "value": _base64(value),
                "reason": rejected.reason,
            }
        )


def _published(m: dict[str, Any]) -> dict[str, Any]:
    """A message's own fields as they are published: decimals and times as strings."""
    instants = ("executed_at", "as_of")
    return {
        name: timestamp(value) if name in instants else plain(value) if isinstance(value, int) else value
        for name, value in m.items()
    }


def _plain_or_none(units: int | None) -> str | None:
    return None if units is None else plain(units)


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
