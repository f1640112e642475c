"""A plain model of docs/interface.md, sections 1–5: what the kernels and the whole pipeline are held against, by the
tests and, in a running installation, by `assetstream check`.

Standard library only, exact integers and decimals, one message at a time, nothing shared with the code it
judges. Money is an int in units of 10^-18. Of section 5 it books DEPOSIT, WITHDRAWAL and FEE with status
COMPLETED; every other type or status is `unsupported`.

Where the interface is silent, the readings taken are marked "Reading:".
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

ONE = 10**18
#: every amount stays below 10^20
BOUND = 10**20 * ONE
MAX_NESTING = 64

EPOCH = datetime(1970, 1, 1)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
DAY = 86_400 * SECOND
END_OF_TIME = (datetime(2300, 1, 1) - EPOCH) // MICROSECOND

OK, WARNING, CRITICAL = 0, 1, 2
SEVERITIES = ("INFO", "WARNING", "CRITICAL")
LIMITS = (
    "max_position_size",
    "max_position_percent",
    "max_portfolio_value",
    "max_daily_loss",
    "max_weekly_loss",
    "max_total_loss",
    "max_leverage",
    "max_volatility",
    "max_concentration",
    "max_correlation",
)


class Rejected(Exception):
    """The message cannot be accepted; `reason` as in a dead letter."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


# ----------------------------------------------------------------------------------- numbers and times


def divide(numerator: int, denominator: int) -> int:
    """numerator / denominator (> 0), rounded half to even."""
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2 == 1):
        quotient += 1
    return quotient


def times(a: int, b: int) -> int:
    """The product of two amounts in units, in units, rounded half to even."""
    return divide(a * b, ONE)


def plain(units: int) -> str:
    """Units of 10^-18 as the interface writes them: "1.5", "-0.25", "0"."""
    whole, fraction = divmod(abs(units), ONE)
    text = f"{whole}.{fraction:018d}".rstrip("0") if fraction else str(whole)
    return f"-{text}" if units < 0 else text


def timestamp(microseconds: int) -> str:
    """Microseconds UTC as the interface writes them."""
    return (EPOCH + microseconds * MICROSECOND).isoformat(timespec="microseconds") + "Z"


def day_of(microseconds: int) -> int:
    """Number of the UTC day."""
    return microseconds // DAY


def week_of(microseconds: int) -> int:
    """Number of the ISO week (UTC): weeks begin on Mondays, 1970-01-01 was a Thursday."""
    return (microseconds // DAY + 3) // 7


# -------------------------------------------------------------------------------------- reading fields


class Number(str):
    """A JSON number, by its digits."""


DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
ASSET = re.compile(r"[A-Za-z0-9._:/-]{1,32}")


class Broken(Exception):
    """A field's value breaks its rule."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or isinstance(value, Number):
        raise Broken("not a string")
    return value


def _matching(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def rule(value: Any) -> str:
        if not pattern.fullmatch(_text(value)):
            raise Broken("not of the allowed form")
        return value

    return rule


def _string(value: Any) -> str:
    if len(_text(value)) > 1024:
        raise Broken("longer than 1,024 characters")
    return value


def _one_of(*names: str) -> Callable[[Any], str]:
    def rule(value: Any) -> str:
        if _text(value) not in names:
            raise Broken(f"not one of {names}")
        return value

    return rule


def _any_amount(value: Any) -> Decimal:
    """Exact: making a `Decimal` of a text never rounds, and here none is reckoned with."""
    if not isinstance(value, str) or len(value) > 64 or not DECIMAL.fullmatch(value):
        raise Broken("not a decimal")
    return Decimal(value)


def _positive(value: Any) -> Decimal:
    amount = _any_amount(value)
    if amount <= 0:
        raise Broken("not above zero")
    return amount


def _not_negative(value: Any) -> Decimal:
    amount = _any_amount(value)
    if amount < 0:
        raise Broken("below zero")
    return amount


def _integer(value: Any) -> int:
    """Reading: a JSON integer that fits 64 bits, not a string, not 1.0."""
    if not isinstance(value, Number) or not INTEGER.fullmatch(value) or len(value) > 20:
        raise Broken("not an integer")
    if not -(2**63) <= int(value) < 2**63:
        raise Broken("not a 64-bit integer")
    return int(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Broken("not true or false")
    return value


def _instant(value: Any) -> int:
    """Microseconds UTC. Reading: the year that counts is that of the UTC instant; there is no second 60."""
    match = INSTANT.fullmatch(_text(value))
    if not match:
        raise Broken("not an RFC 3339 time with an offset")
    *date_and_time, fraction, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat("{}-{}-{}T{}:{}:{}".format(*date_and_time))
    except ValueError as error:
        raise Broken(str(error)) from None
    offset = 0
    if sign:
        if int(hours) > 23 or int(minutes) > 59:
            raise Broken("no such offset")
        offset = (int(hours) * 60 + int(minutes)) * 60 * SECOND * (1 if sign == "+" else -1)
    instant = (local - EPOCH) // MICROSECOND + int(((fraction or "") + "000000")[:6]) - offset
    if not 0 <= instant < END_OF_TIME:
        raise Broken("not in the years 1970–2299")
    return instant


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Broken("not an object")
    return value


def _asset_limits(value: Any) -> dict[str, Decimal]:
    """Reading: a limit of null is one that isn't there."""
    return {_asset(k): _positive(v) for k, v in _object(value).items() if v is not None}


def _metadata(value: Any) -> dict[str, str]:
    """By name, so that messages that say the same are written the same."""
    return {_string(k): _string(v) for k, v in sorted(_object(value).items())}


def _counterparty(value: Any) -> tuple[str, str]:
    return _id(_object(value).get("user_id")), _id(value.get("wallet_id"))


_id = _matching(ID)
_asset = _matching(ASSET)


class Rule(NamedTuple):
    """How a field is read, and whether it must be there; `default` stands for absent and for null."""

    read: Callable[[Any], Any]
    required: bool = True
    default: Any = None


def _optional(read: Callable[[Any], Any], default: Any = None) -> Rule:
    return Rule(read, False, default)


SCHEMAS: dict[str, dict[str, Rule]] = {
    "trades": {
        "trade_id": Rule(_id),
        "user_id": Rule(_id),
        "portfolio_id": Rule(_id),
        "wallet_id": Rule(_id),
        "symbol": Rule(_asset),
        "currency": Rule(_asset),
        "side": Rule(_one_of("BUY", "SELL")),
        "quantity": Rule(_positive),
        "price": Rule(_positive),
        "fee": _optional(_any_amount, Decimal(0)),
        "executed_at": Rule(_instant),
        "order_id": _optional(_id),
        "broker": _optional(_string),
        "asset_type": _optional(_one_of("CRYPTO", "FIAT", "STOCK", "ETF", "OTHER")),
    },
    "prices": {
        "symbol": Rule(_asset),
        "price": Rule(_positive),
        "currency": Rule(_asset),
        "as_of": Rule(_instant),
        "bid": _optional(_any_amount),
        "ask": _optional(_any_amount),
        "source": _optional(_string),
    },
    "risk_limits": {
        "user_id": Rule(_id),
        "portfolio_id": Rule(_id),
        "version": Rule(_integer),
        "active": _optional(_boolean, True),
        "updated_at": Rule(_instant),
        **{name: _optional(_positive) for name in LIMITS},
        "asset_limits": _optional(_asset_limits, {}),
    },
    "transactions": {
        "transaction_id": Rule(_id),
        "user_id": Rule(_id),
        "wallet_id": Rule(_id),
        "type": Rule(
            _one_of(
                "DEPOSIT",
                "WITHDRAWAL",
                "TRANSFER",
                "CONVERSION",
                "FEE",
                "DIVIDEND",
                "INTEREST",
                "ADJUSTMENT",
                "REVERSAL",
                "HOLD",
            )
        ),
        "status": Rule(_one_of("PENDING", "PROCESSING", "COMPLETED", "FAILED", "CANCELLED")),
        "asset": Rule(_asset),
        "amount": Rule(_any_amount),
        "occurred_at": Rule(_instant),
        "fee": _optional(_not_negative, Decimal(0)),
        "counterparty": _optional(_counterparty),
        "to_asset": _optional(_asset),
        "rate": _optional(_positive),
        "reverses": _optional(_id),
        "expires_at": _optional(_instant),
        "external_id": _optional(_id),
        "payment_method": _optional(_string),
        "description": _optional(_string),
        "authorized_by": _optional(_string),
        "metadata": _optional(_metadata, {}),
    },
}
#: the time that the record's Kafka timestamp bounds; `expires_at` lies in the future by nature
OWN_TIME = {
    "trades": "executed_at",
    "prices": "as_of",
    "risk_limits": "updated_at",
    "transactions": "occurred_at",
}
BOOKED = ("DEPOSIT", "WITHDRAWAL", "FEE")

STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _nesting(text: str) -> int:
    """How deep the brackets lie in one another; 0 where there are too few to lie too deep."""
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return 0
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


JSON = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=_no_constant)


def parse(value: bytes | None) -> dict[str, Any]:
    """The message as a JSON object with numbers kept as their digits; raises Rejected("malformed")."""
    if not value:
        raise Rejected("malformed", "empty")
    try:
        text = value.decode("utf-8")
        if _nesting(text) > MAX_NESTING:
            raise ValueError("nested too deeply")
        message = JSON.decode(text)
        # Reading: an escaped lone surrogate is no text, so the message is no JSON of Unicode characters.
        if "\\u" in text:
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Rejected("malformed", str(error)) from None
    if not isinstance(message, dict):
        raise Rejected("malformed", "not a JSON object")
    return message


def read(
    topic: str, timestamp_ms: int, max_future_skew_s: int, key: bytes | None, value: bytes | None
) -> dict[str, Any]:
    """The known fields of a message, decimals in units, times in microseconds; raises Rejected.

    Looks, in this order, for malformed, invalid, unsupported, out_of_range (without state) and key_mismatch.
    """
    raw = parse(value)
    message: dict[str, Any] = {}
    for name, rule in SCHEMAS[topic].items():
        given = raw.get(name)
        if given is None:
            if rule.required:
                raise Rejected("invalid", f"{name}: missing")
            message[name] = rule.default
            continue
        try:
            message[name] = rule.read(given)
        except Broken as error:
            raise Rejected("invalid", f"{name}: {error}") from None
    own_time = OWN_TIME[topic]
    if message[own_time] > timestamp_ms * 1000 + max_future_skew_s * SECOND:
        raise Rejected("invalid", f"{own_time}: in the future")
    if topic == "transactions":
        _check_transaction(message)
    for name, given in message.items():
        if isinstance(given, (Decimal, dict)):
            message[name] = _units(name, given)
    if topic == "trades" and times(message["quantity"], message["price"]) >= BOUND:
        raise Rejected("out_of_range", "quantity: notional of 10^20 or more")
    # Reading: what a withdrawal takes, amount + fee, is a resulting amount that needs no state.
    if topic == "transactions" and message["type"] == "WITHDRAWAL" and message["amount"] + message["fee"] >= BOUND:
        raise Rejected("out_of_range", "amount: amount + fee of 10^20 or more")
    identity = message["symbol" if topic == "prices" else "user_id"]
    if key != identity.encode():
        raise Rejected("key_mismatch", "key: not that of the message")
    return message


def _check_transaction(message: dict[str, Any]) -> None:
    kind, amount = message["type"], message["amount"]
    if amount == 0 or (amount < 0 and kind != "ADJUSTMENT"):
        raise Rejected("invalid", "amount: not above zero")
    if kind == "DEPOSIT" and message["fee"] > amount:
        raise Rejected("invalid", "fee: more than the amount")
    if kind not in BOOKED or message["status"] != "COMPLETED":
        raise Rejected("unsupported", f"type: {kind} {message['status']} is not booked by this version")


def _units(name: str, value: Any) -> Any:
    """Decimals of a field in units of 10^-18; raises Rejected("out_of_range")."""
    if isinstance(value, dict):
        return {key: _units(name, inner) for key, inner in value.items()}
    if not isinstance(value, Decimal):
        return value
    numerator, denominator = value.as_integer_ratio()
    units, rest = divmod(numerator * ONE, denominator)
    if rest or abs(units) >= BOUND:
        raise Rejected("out_of_range", f"{name}: more than 18 decimals or 10^20 or more")
    return units


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


class Source(NamedTuple):
    """Where a message came from."""

    topic: str
    partition: int
    offset: int

    def cause(self) -> dict[str, Any]:
        """As published."""
        return self._asdict()

    def columns(self) -> dict[str, Any]:
        """As in every ClickHouse row."""
        return {f"source_{name}": value for name, value in self._asdict().items()}


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
    """

    def __init__(
        self,
        base_currency: str = "USD",
        max_future_skew_s: int = 3600,
        id_memory: int = 1_000_000,
        judging: bool = True,
    ) -> None:
        self.base_currency = base_currency
        self.max_future_skew_s = max_future_skew_s
        self.id_memory = id_memory
        self.judging = judging
        self.fills: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.dead_letters: list[dict[str, Any]] = []
        self.details: dict[str, str] = {}
        self.prices_accepted: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.portfolios: dict[tuple[str, str], Portfolio] = {}
        self.latest: dict[str, Price] = {}
        self.marks: dict[str, Price] = {}
        self._available: dict[tuple[str, str, str], int] = {}
        #: by (topic, partition): what was said under each remembered id, the oldest first
        self._bodies: dict[tuple[str, int], OrderedDict[tuple[str, ...], bytes]] = {}
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

        topic         one of trades, transactions, risk_limits, prices (without prefix)
        timestamp_ms  Kafka's timestamp of the record, milliseconds UTC
        take_mark     an accepted price is at once the mark; else `take_mark()` says when
        """
        source = Source(topic, partition, offset)
        try:
            message = read(topic, timestamp_ms, self.max_future_skew_s, key, value)
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
        return {key: _balance(available) for key, available in self._available.items()}

    # -------------------------------------------------------------------------------------- the topics

    def _trades(self, m: dict[str, Any], source: Source) -> str:
        identity, body = (m["user_id"], m["trade_id"]), _body(m)
        seen = self._seen(source).get(identity)
        if seen == body:
            return "duplicate"
        portfolio = self.portfolios.get((m["user_id"], m["portfolio_id"]))
        position = portfolio.positions.get(m["symbol"]) if portfolio else None
        before = position.book if position else Book()
        sign = 1 if m["side"] == "BUY" else -1
        after = fill(before, sign, m["quantity"], m["price"], m["fee"])
        if any(abs(amount) >= BOUND for amount in (*after, after.average_price or 0)):
            raise Rejected("out_of_range", "quantity: a resulting amount of 10^20 or more")
        if seen is not None:
            raise Rejected("conflict", "trade_id: seen before with another body")
        if position and position.currency != m["currency"]:
            raise Rejected("currency_mismatch", f"currency: the position is in {position.currency}")

        self._remember(source, identity, body)
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
                "notional": plain(times(m["quantity"], m["price"])),
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
        identity, body = (m["user_id"], m["transaction_id"], m["status"]), _body(m)
        seen = self._seen(source).get(identity)
        if seen == body:
            return "duplicate"
        account = (m["user_id"], m["wallet_id"], m["asset"])
        available = self._available.get(account, 0)
        postings = _postings(m)
        moved = postings[0][1]
        refused = moved < 0 and available + moved < 0
        if not refused and available + moved >= BOUND:
            raise Rejected("out_of_range", "amount: a balance of 10^20 or more")
        if seen is not None:
            raise Rejected("conflict", "transaction_id: seen before with another body")

        self._remember(source, identity, body)
        self._available[account] = available if refused else available + moved
        self.outcomes.append(
            {
                "transaction_id": m["transaction_id"],
                "user_id": m["user_id"],
                "wallet_id": m["wallet_id"],
                "type": m["type"],
                "asset": m["asset"],
                "amount": plain(m["amount"]),
                "fee": plain(m["fee"]),
                "status": "FAILED" if refused else "COMPLETED",
                "code": "INSUFFICIENT_FUNDS" if refused else None,
                "balance": _balance(self._available[account]),
                "postings": [
                    {"account": name, "asset": m["asset"], "amount": plain(amount)}
                    for name, amount in ([] if refused else postings)
                    if amount
                ],
                "occurred_at": timestamp(m["occurred_at"]),
                "cause": source.cause(),
            }
        )
        return "applied"

    def _seen(self, source: Source) -> OrderedDict[tuple[str, ...], bytes]:
        return self._bodies.setdefault(source[:2], OrderedDict())

    def _remember(self, source: Source, identity: tuple[str, ...], body: bytes) -> None:
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


def _body(m: dict[str, Any]) -> bytes:
    """Stands for all that a message says: memory for a million of them, not of what they said."""
    return blake2b(repr(m).encode(), digest_size=16).digest()


def _postings(m: dict[str, Any]) -> list[tuple[str, int]]:
    """(account, amount) of a booked transaction, the wallet's first; they sum to zero."""
    wallet = f"wallet:{m['user_id']}/{m['wallet_id']}"
    external = f"external:{'unspecified' if m['payment_method'] is None else m['payment_method']}"
    amount, fee = m["amount"], m["fee"]
    if m["type"] == "DEPOSIT":
        return [(wallet, amount - fee), ("fees", fee), (external, -amount)]
    if m["type"] == "WITHDRAWAL":
        return [(wallet, -amount - fee), ("fees", fee), (external, amount)]
    return [(wallet, -amount), ("fees", amount)]


def _balance(available: int) -> dict[str, str]:
    return {"total": plain(available), "available": plain(available), "locked": "0"}


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
