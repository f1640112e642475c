"""How the reference model reads: numbers, times, and the messages of docs/interface.md, sections 1 and 2.

Standard library only, and nothing shared with the code it judges; see `reference`, which also says what "Reading:" is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
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


def _configuration(value: Any) -> dict[str, Any]:
    """Reading: absent, null and 0 are the same; an amount of null is one that isn't there."""
    capital, allocation = _object(value).get("initial_capital"), value.get("allocation")
    amounts = {_asset(k): _positive(v) for k, v in sorted(_object(allocation or {}).items()) if v is not None}
    if len(amounts) > 100:
        raise Broken("more than 100 assets")
    return {"initial_capital": Decimal(0) if capital is None else _not_negative(capital), "allocation": amounts}


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
                "OPEN",
                "CLOSE",
                "RESET",
                "CONFIGURE",
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
    "transfers": {
        "step": Rule(_one_of("CREDIT", "RETURN", "CLAIM", "GRANT", "DENY")),
        **{name: Rule(_id) for name in ("transaction_id", "user_id", "wallet_id", "other_user_id", "other_wallet_id")},
        "asset": Rule(_asset),
        "amount": Rule(_positive),
        "fee": _optional(_not_negative, Decimal(0)),
        "refund": _optional(_not_negative, Decimal(0)),
        "reverses": _optional(_id),
        "code": _optional(_one_of("INSUFFICIENT_FUNDS", "WALLET_CLOSED", "UNKNOWN_REFERENCE", "NOT_ALLOWED")),
        "occurred_at": Rule(_instant),
    },
}
_NO_CONFIGURATION = {"initial_capital": Decimal(0), "allocation": {}}
#: how fields of events of a wallet itself are read, where otherwise than of others
OF_WALLETS: dict[str, dict[str, Rule]] = {
    kind: {"asset": _optional(_asset), "amount": _optional(_any_amount), **fields}
    for kind, fields in {
        "OPEN": {
            "wallet_type": _optional(_one_of("REAL", "VIRTUAL", "MARGIN"), "REAL"),
            "currency": _optional(_asset),
            "configuration": _optional(_configuration, _NO_CONFIGURATION),
        },
        "CONFIGURE": {"configuration": _optional(_configuration, _NO_CONFIGURATION)},
        "CLOSE": {},
        "RESET": {},
    }.items()
}
#: the time that the record's Kafka timestamp bounds; `expires_at` lies in the future by nature
OWN_TIME = {
    "trades": "executed_at",
    "prices": "as_of",
    "risk_limits": "updated_at",
    "transactions": "occurred_at",
    "transfers": "occurred_at",
}
#: what a transaction of a type needs besides
NEEDED = {
    "TRANSFER": ("counterparty",),
    "CONVERSION": ("to_asset",),
    "ADJUSTMENT": ("description", "authorized_by"),
    "REVERSAL": ("reverses",),
}

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
    topic: str,
    timestamp_ms: int,
    max_future_skew_s: int,
    key: bytes | None,
    value: bytes | None,
    decimals: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """The known fields of a message, decimals in units, times in microseconds; raises Rejected.

    Looks, in this order, for malformed, invalid, out_of_range (without state) and key_mismatch.
    """
    raw = parse(value)
    message: dict[str, Any] = {}
    rules = SCHEMAS[topic]
    if topic == "transactions" and isinstance(raw.get("type"), str):
        rules = {**rules, **OF_WALLETS.get(raw["type"], {})}
    for name, rule in rules.items():
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
        if decimals is not None:
            _check_decimals(message, decimals)
        _check_transaction(message)
    for name, given in message.items():
        if isinstance(given, (Decimal, dict)):
            message[name] = _units(name, given)
    if topic == "trades":
        _check_notional(message)
    if topic == "transactions":
        _check_amounts(message)
    identity = message["symbol" if topic == "prices" else "user_id"]
    if key != identity.encode():
        raise Rejected("key_mismatch", "key: not that of the message")
    return message


def _check_decimals(m: dict[str, Any], decimals: Mapping[str, int]) -> None:
    """Reading: what gives back or lets go isn't held up. An asset that isn't named has 18, as everything."""
    if m["type"] == "REVERSAL" or m["status"] in ("FAILED", "CANCELLED"):
        return
    amounts = [("amount", m["asset"], m["amount"]), ("fee", m["asset"], m["fee"])]
    if m["type"] in OF_WALLETS:
        # Reading: what it begins with, not what it says beside that; capital is of a currency if one is named here.
        amounts = [("allocation", *each) for each in m.get("configuration", _NO_CONFIGURATION)["allocation"].items()]
        if m.get("currency"):
            amounts.append(("initial_capital", m["currency"], m["configuration"]["initial_capital"]))
    for name, asset, amount in amounts:
        scale = decimals.get(asset, 18)
        numerator, denominator = amount.as_integer_ratio()
        if scale < 18 and numerator * 10**scale % denominator:
            raise Rejected("invalid", f"{name}: {asset} has {scale} decimals")


def _check_transaction(m: dict[str, Any]) -> None:
    """What the fields of a wallet event must be together; raises Rejected: invalid."""
    kind, amount = m["type"], m["amount"]
    if amount is not None and (amount == 0 or (amount < 0 and kind != "ADJUSTMENT")):
        raise Rejected("invalid", "amount: not above zero")
    if kind == "DEPOSIT" and m["fee"] > amount:
        raise Rejected("invalid", "fee: more than the amount")
    for name in NEEDED.get(kind, ()):
        if not m[name]:
            raise Rejected("invalid", f"{name}: {kind} needs it")


def _check_notional(m: dict[str, Any]) -> None:
    if times(m["quantity"], m["price"]) >= BOUND:
        raise Rejected("out_of_range", "quantity: notional of 10^20 or more")


def _check_amounts(m: dict[str, Any]) -> None:
    """Reading: what an event takes and what it arrives as, whatever its status, are amounts that need no state."""
    if m["type"] in ("WITHDRAWAL", "TRANSFER", "CONVERSION") and m["amount"] + m["fee"] >= BOUND:
        raise Rejected("out_of_range", "amount: amount + fee of 10^20 or more")
    if m["type"] == "CONVERSION" and m["rate"] is not None and times(m["amount"], m["rate"]) >= BOUND:
        raise Rejected("out_of_range", "rate: amount · rate of 10^20 or more")


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


def body_of(message: dict[str, Any]) -> bytes:
    """Stands for all that a message says: memory for a million of them, not of what they said."""
    return blake2b(repr(message).encode(), digest_size=16).digest()
