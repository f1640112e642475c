"""The contract: every message as a pydantic model, and the strict parser that says what is wrong with a bad one.

`parse` is the slow path of `decode.py` and decides what is accepted; the fast scanner only ever accepts what this
accepts, with the same values. Decimals are `Decimal`, exact; times are aware `datetime`s in UTC. Unknown fields are
ignored, a null is an absent field.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, NoReturn

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StrictBool,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from assetstream.models.decimals import DecimalError, from_units, is_decimal, to_units
from assetstream.models.jsonscan import deeper_than
from assetstream.models.precision import MOST, Precision
from assetstream.models.verdicts import Verdict

MAX_DEPTH = 64
MAX_DETAIL = 500
MAX_ECHO = 60

# ------------------------------------------------------------------------------------------------------ enums


class Coded(StrEnum):
    """An enumeration whose members are published by name and kept as a uint8 code: their place, from 0."""

    @property
    def code(self) -> int:
        """The code in columns."""
        return list(type(self)).index(self)


class Side(Coded):
    BUY = "BUY"
    SELL = "SELL"


class AssetType(Coded):
    CRYPTO = "CRYPTO"
    FIAT = "FIAT"
    STOCK = "STOCK"
    ETF = "ETF"
    OTHER = "OTHER"


class TransactionType(Coded):
    DEPOSIT = "DEPOSIT"
    WITHDRAWAL = "WITHDRAWAL"
    TRANSFER = "TRANSFER"
    CONVERSION = "CONVERSION"
    FEE = "FEE"
    DIVIDEND = "DIVIDEND"
    INTEREST = "INTEREST"
    ADJUSTMENT = "ADJUSTMENT"
    REVERSAL = "REVERSAL"
    HOLD = "HOLD"
    OPEN = "OPEN"
    CLOSE = "CLOSE"
    RESET = "RESET"
    CONFIGURE = "CONFIGURE"


#: those that are about a wallet itself, and move no money but VIRTUAL
WALLET_EVENTS = (TransactionType.OPEN, TransactionType.CLOSE, TransactionType.RESET, TransactionType.CONFIGURE)


class WalletType(Coded):
    REAL = "REAL"
    VIRTUAL = "VIRTUAL"
    MARGIN = "MARGIN"


class TransactionStatus(Coded):
    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class SettlementStatus(Coded):
    PENDING = "PENDING"
    SETTLED = "SETTLED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Step(Coded):
    """Steps of a transfer between users, and of its reversal; who each is addressed to."""

    CREDIT = "CREDIT"  # the receiver: an amount arrives
    RETURN = "RETURN"  # the sender: the receiver couldn't take it
    CLAIM = "CLAIM"  # the receiver: the sender reverses the transfer
    GRANT = "GRANT"  # the sender: the amount comes back
    DENY = "DENY"  # the sender: it doesn't


class AlertType(Coded):
    POSITION_LIMIT = "POSITION_LIMIT"
    EXPOSURE_LIMIT = "EXPOSURE_LIMIT"
    LOSS_LIMIT = "LOSS_LIMIT"


class Severity(Coded):
    INFO = "INFO"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


class Action(Coded):
    NONE = "NONE"
    HALT_TRADING = "HALT_TRADING"
    REDUCE_ONLY = "REDUCE_ONLY"
    LIQUIDATE = "LIQUIDATE"


class OutcomeCode(Coded):
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    WALLET_CLOSED = "WALLET_CLOSED"
    UNKNOWN_REFERENCE = "UNKNOWN_REFERENCE"
    ALREADY_REVERSED = "ALREADY_REVERSED"
    EXPIRED = "EXPIRED"
    NOT_ALLOWED = "NOT_ALLOWED"
    NO_RATE = "NO_RATE"


class BreakType(Coded):
    """How a broker and we, or two accounts of our own, may differ."""

    MISSING_TRADE = "MISSING_TRADE"  # the broker states it, we don't have it
    UNKNOWN_TRADE = "UNKNOWN_TRADE"  # we have it, the broker doesn't state it
    QUANTITY_MISMATCH = "QUANTITY_MISMATCH"
    PRICE_MISMATCH = "PRICE_MISMATCH"
    FEE_MISMATCH = "FEE_MISMATCH"
    BALANCE_MISMATCH = "BALANCE_MISMATCH"
    POSITION_MISMATCH = "POSITION_MISMATCH"
    INTERNAL_BALANCE = "INTERNAL_BALANCE"  # the postings to a balance, and the balance
    INTERNAL_POSITION = "INTERNAL_POSITION"  # the fills of a position, and its quantity
    INTERNAL_POSTINGS = "INTERNAL_POSTINGS"  # the postings of a transaction, and zero


class BreakStatus(Coded):
    OPEN = "OPEN"
    EXPLAINED = "EXPLAINED"
    RESOLVED = "RESOLVED"


def codes(names: type[Coded]) -> tuple[str, ...]:
    """The names of an enumeration, in the order of their codes."""
    return tuple(member.value for member in names)


# ------------------------------------------------------------------------------------------------------ times

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def to_micros(time: datetime) -> int:
    """Microseconds UTC of an aware datetime."""
    return (time - EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of microseconds."""
    return EPOCH + timedelta(microseconds=micros)


def time_text(time: datetime) -> str:
    """A time as it is published: 2026-03-02T09:00:00.000000Z."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def parse_time(text: str) -> datetime:
    """The UTC time of an RFC 3339 text with an offset, cut off to microseconds.

    Raises ValueError when it is none (a second 60 included), or not of the years 1970 – 2299.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("is no RFC 3339 time with an offset")
    *parts, fraction, sign, hours, minutes = found.groups()
    micros = int((fraction or "")[:6].ljust(6, "0"))
    try:
        time = datetime(*map(int, parts), micros, tzinfo=UTC)  # type: ignore[misc, arg-type]
        if sign:
            if int(hours) > 23 or int(minutes) > 59:
                raise ValueError
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            time += offset if sign == "-" else -offset
    except (ValueError, OverflowError):
        raise ValueError("is no time of the calendar") from None
    return _in_years(time)


def _in_years(time: datetime) -> datetime:
    if not 1970 <= time.year <= 2299:
        raise ValueError("is not of the years 1970 to 2299")
    return time


# ------------------------------------------------------------------------------------------------ field types


class Number:
    """A JSON number, kept as its digits."""

    __slots__ = ("digits",)

    def __init__(self, digits: str) -> None:
        self.digits = digits


class Judging(NamedTuple):
    """Context of a validation by `parse`: what "too far in the future" means. Range is then judged afterwards."""

    timestamp_ms: int
    max_skew_us: int


def _invalid(message: str) -> PydanticCustomError:
    return PydanticCustomError("invalid", message)  # type: ignore[arg-type]


def _decimal(value: Any) -> Decimal:
    """Any decimal of the grammar; whether it is in range is another question (`Input.beyond_range`)."""
    if isinstance(value, Number):
        value = value.digits
    elif isinstance(value, Decimal):
        value = str(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if not isinstance(value, str) or not is_decimal(value):
        raise _invalid("is no exact decimal")
    return Decimal(value)


def _positive(value: Any) -> Decimal:
    number = _decimal(value)
    if number <= 0:
        raise _invalid("must be above 0")
    return number


def _not_negative(value: Any) -> Decimal:
    number = _decimal(value)
    if number < 0:
        raise _invalid("must not be negative")
    return number


def _time(value: Any) -> datetime:
    try:
        if isinstance(value, str):
            return parse_time(value)
        if isinstance(value, datetime) and value.tzinfo is not None:
            return _in_years(value.astimezone(UTC))
    except ValueError as error:
        raise _invalid(str(error)) from None
    raise _invalid("is no RFC 3339 time with an offset")


def _past(value: Any, info: ValidationInfo) -> datetime:
    time = _time(value)
    if isinstance(info.context, Judging):
        timestamp_ms, max_skew_us = info.context
        if to_micros(time) > timestamp_ms * 1000 + max_skew_us:
            raise _invalid("is too far after the Kafka timestamp")
    return time


def _version(value: Any) -> int:
    if isinstance(value, Number) and re.fullmatch("-?[0-9]{1,19}", value.digits):
        value = int(value.digits)
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise _invalid("is no integer of 64 bits")
    return value


def _decided(status: BreakStatus) -> BreakStatus:
    if status is BreakStatus.OPEN:
        raise _invalid("must be EXPLAINED or RESOLVED")
    return status


def _without_nulls(value: Any) -> Any:
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


_DECIMAL_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {
                "type": "string",
                "maxLength": 64,
                "pattern": r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?$",
            },
            {"type": "number"},
        ],
        "description": "exact decimal, at most 18 decimals, magnitude below 10^20",
    }
)
_TIME_SCHEMA = WithJsonSchema({"type": "string", "format": "date-time"})


def _units_text(value: Decimal) -> str:
    return from_units(to_units(value))


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


_DECIMAL_TEXT = PlainSerializer(_units_text, return_type=str, when_used="json")
_TIME_TEXT = PlainSerializer(time_text, return_type=str, when_used="json")

Id = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9._:-]{1,64}$")]
Symbol = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9._:/-]{1,32}$")]
Text = Annotated[str, StringConstraints(strict=True, max_length=1024)]
Exact = Annotated[Decimal, PlainValidator(_decimal), _DECIMAL_TEXT, _DECIMAL_SCHEMA]
Positive = Annotated[Decimal, PlainValidator(_positive), _DECIMAL_TEXT, _DECIMAL_SCHEMA]
NotNegative = Annotated[Decimal, PlainValidator(_not_negative), _DECIMAL_TEXT, _DECIMAL_SCHEMA]
#: what decimals add up to: it may be out of their range
Amount = Annotated[
    Decimal, PlainValidator(_decimal), PlainSerializer(_plain, return_type=str, when_used="json"), _DECIMAL_SCHEMA
]
#: a time that may lie ahead, and one that may not lie further after the record's Kafka timestamp than the skew
Time = Annotated[datetime, PlainValidator(_time), _TIME_TEXT, _TIME_SCHEMA]
PastTime = Annotated[datetime, PlainValidator(_past), _TIME_TEXT, _TIME_SCHEMA]
Version = Annotated[int, PlainValidator(_version), WithJsonSchema({"type": "integer", "format": "int64"})]

# --------------------------------------------------------------------------------------------------- messages


class Message(BaseModel):
    """A JSON object of the contract; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Input(Message):
    """A message we read: a null is an absent field, and decimals are in range."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return _without_nulls(data)

    @model_validator(mode="after")
    def _in_range(self, info: ValidationInfo) -> Input:
        if not isinstance(info.context, Judging) and (why := self.beyond_range()):
            raise PydanticCustomError("out_of_range", why)  # type: ignore[arg-type]
        return self

    @property
    def key(self) -> str:
        """What the record's key must be: `user_id`, of a price its `symbol`."""
        return self.user_id  # type: ignore[attr-defined, no-any-return]

    def beyond_range(self) -> str | None:
        """The field whose decimal has too many digits or is too big, and why; None when all are fine."""
        for name, value in self._decimals():
            try:
                to_units(value)
            except DecimalError as error:
                return f"{_shown(name)}: {error}, got {_excerpt(value)}"
        return None

    def too_fine(self, precision: Precision) -> str | None:
        """The field whose amount has more decimals than its asset; None when there is none."""
        return None

    def _decimals(self) -> Iterator[tuple[str, Decimal]]:
        for name, value in self.__dict__.items():
            if isinstance(value, Decimal):
                yield name, value


class Trade(Input):
    """An execution. `fee` is in `currency`, negative is a rebate."""

    trade_id: Id
    user_id: Id
    portfolio_id: Id
    wallet_id: Id
    symbol: Symbol
    currency: Symbol
    side: Side
    quantity: Positive
    price: Positive
    fee: Exact = Decimal(0)
    executed_at: PastTime
    order_id: Id | None = None
    broker: Text | None = None
    asset_type: AssetType | None = None


class Price(Input):
    """A market price, or an FX rate: the price of EUR/USD in USD is one EUR in USD."""

    symbol: Symbol
    price: Positive
    currency: Symbol
    as_of: PastTime
    bid: Exact | None = None  # any sign: the contract has no rule for them
    ask: Exact | None = None
    source: Text | None = None

    @property
    def key(self) -> str:
        return self.symbol


#: the limits of a RiskLimits message, in the order of the columns
LIMIT_FIELDS = (
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


class RiskLimits(Input):
    """The limits of one portfolio, whole; a limit that is null isn't there."""

    user_id: Id
    portfolio_id: Id
    version: Version
    active: StrictBool = True
    updated_at: PastTime
    max_position_size: Positive | None = None
    max_position_percent: Positive | None = None
    max_portfolio_value: Positive | None = None
    max_daily_loss: Positive | None = None
    max_weekly_loss: Positive | None = None
    max_total_loss: Positive | None = None
    max_leverage: Positive | None = None
    max_volatility: Positive | None = None
    max_concentration: Positive | None = None
    max_correlation: Positive | None = None
    asset_limits: Annotated[dict[Symbol, Positive], BeforeValidator(_without_nulls)] = {}

    def _decimals(self) -> Iterator[tuple[str, Decimal]]:
        yield from super()._decimals()
        for symbol, limit in self.asset_limits.items():
            yield f"asset_limits.{symbol}", limit


class Counterparty(Input):
    """The other wallet of a transfer."""

    user_id: Id
    wallet_id: Id


#: assets that the allocation of a VIRTUAL wallet may name
MAX_ALLOCATION = 100


class Configuration(Input):
    """What a VIRTUAL wallet begins with: `initial_capital` of its currency, and beside it what `allocation` says."""

    initial_capital: NotNegative = Decimal(0)
    allocation: Annotated[
        dict[Symbol, Positive], BeforeValidator(_without_nulls), Field(max_length=MAX_ALLOCATION)
    ] = {}

    def _decimals(self) -> Iterator[tuple[str, Decimal]]:
        yield "configuration.initial_capital", self.initial_capital
        for asset, amount in self.allocation.items():
            yield f"configuration.allocation.{asset}", amount


#: fields that only these types have
_OF_WALLETS = {
    TransactionType.OPEN: ("wallet_type", "currency", "configuration"),
    TransactionType.CONFIGURE: ("configuration",),
}
#: what a type of transaction can't do without
_NEEDED = {
    TransactionType.TRANSFER: ("counterparty",),
    TransactionType.CONVERSION: ("to_asset",),
    TransactionType.ADJUSTMENT: ("description", "authorized_by"),
    TransactionType.REVERSAL: ("reverses",),
}


class Transaction(Input):
    """A wallet event. `expires_at` may lie ahead; `amount` is above 0, of an ADJUSTMENT just not 0.

    WALLET_EVENTS can do without `asset` and `amount`. Only OPEN has `wallet_type` and `currency`, only OPEN and
    CONFIGURE have a `configuration`: of all others they are unknown fields.
    """

    transaction_id: Id
    user_id: Id
    wallet_id: Id
    type: TransactionType
    status: TransactionStatus
    asset: Symbol | None = None
    amount: Exact | None = None
    occurred_at: PastTime
    fee: NotNegative = Decimal(0)
    counterparty: Counterparty | None = None
    to_asset: Symbol | None = None
    rate: Positive | None = None
    reverses: Id | None = None
    expires_at: Time | None = None
    external_id: Id | None = None
    payment_method: Text | None = None
    description: Text | None = None
    authorized_by: Text | None = None
    metadata: dict[Text, Text] = {}
    wallet_type: WalletType = WalletType.REAL
    currency: Symbol | None = None
    configuration: Configuration = Configuration()

    @model_validator(mode="before")
    @classmethod
    def _others_are_unknown(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kind = data.get("type")
        own = _OF_WALLETS.get(kind, ()) if isinstance(kind, str) else ()  # type: ignore[call-overload]
        return {k: v for k, v in data.items() if k in own or k not in _OF_WALLETS[TransactionType.OPEN]}

    @model_validator(mode="after")
    def _amounts(self) -> Transaction:
        if self.type not in WALLET_EVENTS:
            for name in ("asset", "amount"):
                if getattr(self, name) is None:
                    raise _invalid(f"{name}: is missing")
        if self.amount is None:
            return self
        if self.type is TransactionType.ADJUSTMENT:
            if self.amount == 0:
                raise _invalid("amount: must not be 0")
        elif self.amount <= 0:
            raise _invalid("amount: must be above 0")
        if self.type is TransactionType.DEPOSIT and self.fee > self.amount:
            raise _invalid("fee: must not be above the amount of a DEPOSIT")
        return self

    @model_validator(mode="after")
    def _needs(self) -> Transaction:
        for name in _NEEDED.get(self.type, ()):
            if not getattr(self, name):
                raise _invalid(f"{name}: a {self.type} needs it")
        return self

    def _decimals(self) -> Iterator[tuple[str, Decimal]]:
        yield from super()._decimals()
        yield from self.configuration._decimals()

    def too_fine(self, precision: Precision) -> str | None:
        # what only gives back, or lets go, isn't held up: it may be of a time when nobody asked
        lets_go = self.status in (TransactionStatus.FAILED, TransactionStatus.CANCELLED)
        if lets_go or self.type is TransactionType.REVERSAL:
            return None
        for name, asset, value in self._amounts_of_assets():
            scale = precision.get(asset, MOST)
            if scale < MOST and _places(value) > scale:
                return f"{name}: {asset} has {scale} decimals, got {_excerpt(value)}"
        return None

    def _amounts_of_assets(self) -> Iterator[tuple[str, str, Decimal]]:
        """What it would book of an asset that it names: field, asset, amount."""
        if self.type not in WALLET_EVENTS and self.asset is not None and self.amount is not None:
            yield "amount", self.asset, self.amount
            yield "fee", self.asset, self.fee
        if self.currency is not None:
            yield "configuration.initial_capital", self.currency, self.configuration.initial_capital
        for asset, amount in self.configuration.allocation.items():
            yield f"configuration.allocation.{asset}", asset, amount


class Transfer(Input):
    """Internal: a step of a transfer to another user, or of its reversal, addressed to `user_id`.

    `transaction_id` is that of the TRANSFER (CREDIT, RETURN) or of the REVERSAL, which is the sender's; `fee` is the
    reversal's own, `refund` the fee of the transfer that it gives back.
    """

    step: Step
    transaction_id: Id
    user_id: Id
    wallet_id: Id
    other_user_id: Id
    other_wallet_id: Id
    asset: Symbol
    amount: Positive
    fee: NotNegative = Decimal(0)
    refund: NotNegative = Decimal(0)
    reverses: Id | None = None
    code: OutcomeCode | None = None
    occurred_at: PastTime


class Tick(Message):
    """Internal: the partition's earliest due time has come. What counts is the record's Kafka timestamp."""

    due: Time


class StatedTrade(Input):
    """A trade as a broker states it. An absent `fee` or `currency` is not compared."""

    trade_id: Id
    symbol: Symbol
    side: Side
    quantity: Positive
    price: Positive
    executed_at: Time
    fee: Exact | None = None
    currency: Symbol | None = None


class StatedPosition(Input):
    """What a broker says is held of a symbol; negative is short."""

    symbol: Symbol
    quantity: Exact


class StatedBalance(Input):
    """What a broker says a wallet of ours holds of an asset."""

    wallet_id: Id
    asset: Symbol
    total: Exact


class BrokerStatement(Input):
    """What a broker says of a user's account: all trades of period_start ≤ time < period_end, positions and balances
    at its end. What is absent is not judged; `trades: []` says that there was none.
    """

    statement_id: Id
    broker: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=1024)]
    user_id: Id
    period_start: Time
    period_end: PastTime
    portfolio_id: Id | None = None
    version: Version = 1
    trades: list[StatedTrade] | None = None
    positions: list[StatedPosition] | None = None
    positions_complete: StrictBool = False
    balances: list[StatedBalance] | None = None

    @model_validator(mode="after")
    def _says_it_once(self) -> BrokerStatement:
        if self.period_start >= self.period_end:
            raise _invalid("period_end: must be after period_start")
        for trade in self.trades or ():
            if not self.period_start <= trade.executed_at < self.period_end:
                raise _invalid(f"trades: {trade.trade_id} is not of the period")
        for name, ids in (
            ("trades", [trade.trade_id for trade in self.trades or ()]),
            ("positions", [position.symbol for position in self.positions or ()]),
            ("balances", [f"{balance.wallet_id}/{balance.asset}" for balance in self.balances or ()]),
        ):
            if twice := next((each for each, n in Counter(ids).items() if n > 1), None):
                raise _invalid(f"{name}: {twice} is there twice")
        return self

    def _decimals(self) -> Iterator[tuple[str, Decimal]]:
        for name in ("trades", "positions", "balances"):
            for i, each in enumerate(getattr(self, name) or ()):
                yield from ((f"{name}.{i}.{field}", value) for field, value in each._decimals())


class BreakDecision(Input):
    """What somebody says of a break: EXPLAINED, the difference is known and stays; RESOLVED, it is gone."""

    break_id: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=4096)]
    user_id: Id
    status: Annotated[BreakStatus, AfterValidator(_decided)]
    by: Annotated[Text, StringConstraints(min_length=1)]
    reason: Annotated[Text, StringConstraints(min_length=1)]


class Cause(Message):
    """The input record that caused an output."""

    topic: str
    partition: int
    offset: int


class Mark(Message):
    """Internal: the latest validated price of a symbol, and the record of `prices` it came from."""

    symbol: Symbol
    price: Positive
    currency: Symbol
    as_of: Time
    cause_partition: Annotated[int, Field(ge=0, lt=1 << 31)]
    cause_offset: Annotated[int, Field(ge=0, lt=1 << 63)]


class PortfolioUpdate(Message):
    """Valuation of a portfolio after it changed, in `base_currency`."""

    user_id: str
    portfolio_id: str
    base_currency: str
    market_value: Exact
    cost_basis: Exact
    realized_pnl: Exact
    unrealized_pnl: Exact
    fees: Exact
    total_pnl: Exact
    daily_pnl: Exact
    gross_exposure: Exact
    open_positions: int
    complete: bool
    unpriced: list[str]
    as_of: Time
    sequence: int


class RiskAlert(Message):
    """One change of level of one rule on one subject."""

    alert_id: str
    user_id: str
    portfolio_id: str
    type: AlertType
    severity: Severity
    symbol: str | None
    message: str
    current_value: Exact
    limit_value: Exact | None
    threshold_percent: str
    is_resolved: bool
    action: Action
    created_at: Time
    cause: Cause


class Balance(Message):
    """A wallet's balance of one asset: total = available + locked."""

    total: Exact
    available: Exact
    locked: Exact


class Posting(Message):
    """One leg of a double entry; they sum to zero per asset."""

    account: str
    asset: str
    amount: Exact


class AssetTransaction(Message):
    """The outcome of a wallet event; `code` says why it FAILED, or that it EXPIRED.

    `wallet_type` and `resets`, how often it was RESET, are those of the wallet, told where its own state is the event.
    """

    transaction_id: str
    user_id: str
    wallet_id: str
    type: TransactionType
    asset: str
    amount: Exact
    fee: Exact
    status: TransactionStatus
    code: OutcomeCode | None
    balance: Balance
    postings: list[Posting]
    wallet_type: WalletType | None = None
    resets: int | None = None
    occurred_at: Time
    #: grows by one with each outcome and settlement event of a partition: the order in which they were booked
    journal: int
    cause: Cause
    #: of a CONVERSION only, null until it is done; `rate_as_of` is null when the message gave the rate
    rate: Exact | None = None
    rate_as_of: Time | None = None
    spread_bps: Exact | None = None


class ReconciliationBreak(Message):
    """A difference between a statement and us, as it stands after its `sequence`-th change; difference: statement −
    ours, what one side lacks counting as 0. Of the INTERNAL types `statement_value` is what the entries add up to.
    """

    break_id: str
    sequence: int
    type: BreakType
    status: BreakStatus
    broker: str | None
    user_id: str
    portfolio_id: str | None
    subject: str
    statement_value: Amount | None
    our_value: Amount | None
    difference: Amount
    statement_trade: StatedTrade | None
    our_trade: StatedTrade | None
    about: Time
    statement_id: str | None
    statement_version: int | None
    opened_at: Time
    changed_at: Time
    decided_by: str
    reason: str | None
    cause: Cause | None


class SettlementEvent(Message):
    """What a trade moved in its wallet is PENDING, what it brought being locked, until it is SETTLED.

    `quantity` of `asset` was traded for `amount` of `currency`, and the trade's `fee`; `settles_at` says when.
    """

    settlement_id: str
    trade_id: str
    user_id: str
    portfolio_id: str
    wallet_id: str
    broker: str | None
    symbol: str
    side: Side
    asset: str
    quantity: Exact
    currency: str
    amount: Exact
    fee: Exact
    status: SettlementStatus
    settles_at: Time
    occurred_at: Time
    #: grows by one with each outcome and settlement event of a partition: the order in which they were booked
    journal: int
    cause: Cause


class DeadLetter(Message):
    """A rejected record, whole: key and value in base64."""

    dead_letter_id: str
    topic: str
    partition: int
    offset: int
    key: str | None
    value: str | None
    reason: str
    detail: str
    rejected_at: Time


def _base64(value: Any) -> bytes:
    try:
        return value if isinstance(value, bytes) else b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise _invalid("is no base64") from None


#: bytes, as JSON in base64
Base64 = Annotated[
    bytes,
    PlainValidator(_base64),
    PlainSerializer(lambda value: b64encode(value).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


class AuditHead(Message):
    """What the notary says of one partition of a log: so many records up to here, under this root.

    models/audit_heads.py has what the hashes and the signature are of; newest_ms: −1 without records.
    """

    topic: str
    partition: int = Field(ge=0)
    size: int = Field(ge=0)
    first_offset: int = Field(ge=0)
    next_offset: int = Field(ge=0)
    newest_ms: int
    root: Base64
    frontier: list[Base64]
    previous: Base64 | None
    recorded_at: Time
    signature: Base64 | None


#: topic → model of its messages
SCHEMAS: dict[str, type[Message]] = {
    "trades": Trade,
    "transactions": Transaction,
    "risk_limits": RiskLimits,
    "prices": Price,
    "marks": Mark,
    "transfers": Transfer,
    "clock": Tick,
    "portfolio_updates": PortfolioUpdate,
    "risk_alerts": RiskAlert,
    "asset_transactions": AssetTransaction,
    "settlement_events": SettlementEvent,
    "dead_letters": DeadLetter,
    "audit_heads": AuditHead,
    "broker_statements": BrokerStatement,
    "break_decisions": BreakDecision,
    "reconciliation_breaks": ReconciliationBreak,
}

# --------------------------------------------------------------------------------------------- strict parsing


class Rejection(NamedTuple):
    """Why a message is not accepted: MALFORMED, INVALID, UNSUPPORTED or OUT_OF_RANGE, and what was wrong where."""

    verdict: Verdict
    detail: str


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


#: topic → model of the messages that `parse` takes
INPUTS: dict[str, type[Input]] = {
    "trades": Trade,
    "transactions": Transaction,
    "risk_limits": RiskLimits,
    "prices": Price,
    "transfers": Transfer,
    "broker_statements": BrokerStatement,
    "break_decisions": BreakDecision,
}

_decoder = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=_no_constant)


def load(value: bytes | None) -> dict[str, Any] | Rejection:
    """The JSON object of a message, numbers as `Number`; a Rejection (MALFORMED) when it is none.

    Stricter than `json.loads`: UTF-8 only, no byte order mark, no NaN or Infinity, no lone surrogates, and at most
    MAX_DEPTH levels of nesting.
    """
    try:
        if not value:
            raise ValueError("empty" if value is not None else "null")
        if deeper_than(np.frombuffer(value, np.uint8), MAX_DEPTH):
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
        found = _decoder.decode(value.decode())
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        if b"\\u" in value:
            _refuse_surrogates(found)
        return found
    except UnicodeDecodeError as error:
        return Rejection(Verdict.MALFORMED, f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return Rejection(Verdict.MALFORMED, f"not JSON: {error}"[:MAX_DETAIL])
    except ValueError as error:
        return Rejection(Verdict.MALFORMED, str(error))


def _refuse_surrogates(found: Any) -> None:
    """Raise ValueError when a string in it is no Unicode text; as deep as MAX_DEPTH."""
    if isinstance(found, str):
        try:
            found.encode()
        except UnicodeEncodeError:
            raise ValueError("a lone surrogate is no text") from None
    elif isinstance(found, dict):
        for name, value in found.items():
            _refuse_surrogates(name)
            _refuse_surrogates(value)
    elif isinstance(found, list):
        for value in found:
            _refuse_surrogates(value)


def parse(
    kind: str, value: bytes | None, timestamp_ms: int, max_skew_us: int, precision: Precision | None = None
) -> Input | Rejection:
    """The message of topic `kind` (without prefix), or why it is refused, by the first reason that applies.

    `timestamp_ms` is the record's Kafka timestamp; a time more than `max_skew_us` after it is invalid (not so
    `expires_at`, which is meant to lie ahead). One broken rule beats any number out of range. With a `precision`, an
    amount that has more decimals than its asset is invalid too.
    """
    found = load(value)
    if isinstance(found, Rejection):
        return found
    try:
        message = INPUTS[kind].model_validate(found, context=Judging(timestamp_ms, max_skew_us))
    except ValidationError as error:
        return Rejection(Verdict.INVALID, _detail(error))
    if precision is not None and (why := message.too_fine(precision)):
        return Rejection(Verdict.INVALID, why[:MAX_DETAIL])
    if why := message.beyond_range():
        return Rejection(Verdict.OUT_OF_RANGE, why[:MAX_DETAIL])
    return message


def _detail(error: ValidationError) -> str:
    parts: list[str] = []
    room = MAX_DETAIL
    for one in error.errors(include_url=False, include_context=False):
        where = ".".join(_shown(str(part)) for part in one["loc"])
        if one["type"] == "missing":
            text = f"{where}: is missing"
        elif where:
            text = f"{where}: {one['msg']}, got {_excerpt(one['input'])}"
        else:
            text = one["msg"]
        parts.append(text)
        room -= len(text) + 2
        if room <= 0:
            break
    return "; ".join(parts)[:MAX_DETAIL]


def _places(value: Decimal) -> int:
    """Its decimals, zeros at their end not counted."""
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    zeros = next((n for n, digit in enumerate(reversed(digits)) if digit), len(digits))
    return 0 if value == 0 else max(0, -exponent - zeros)


def _shown(name: str) -> str:
    return name if name.isprintable() and len(name) <= MAX_ECHO else repr(name[:MAX_ECHO])[:MAX_ECHO]


def _excerpt(value: Any) -> str:
    """A value as a rejection echoes it: short, and printable."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, Number):
        text = value.digits
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = repr(value[:MAX_ECHO]) if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_ECHO else text[: MAX_ECHO - 1] + "…"
