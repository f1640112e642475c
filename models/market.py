"""A simulated market: a deterministic stream of input messages, for demos, tests and load.

Everything comes from the seed and from `start`: the same arguments give the same messages, byte for byte,
on every machine. So prices are whole cents, and every random choice is made of `random()` and whole numbers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import Any

#: (topic, key, value): a record to publish; the topic is without prefix
Message = tuple[str, bytes | None, bytes | None]

#: a Monday morning long ago: later than this is never in the future of a record's Kafka timestamp
START = datetime(2024, 1, 1, 9, tzinfo=UTC)
STEP = timedelta(seconds=1)

#: shares of the mix, in thousandths; the rest are trades
PRICES = 150
TRANSACTIONS = 30
LIMITS = 3

# fmt: off
NAMES = (
    "AAPL", "MSFT", "SAP", "NVDA", "AMZN", "VOD", "BTC", "ETH", "TM", "GOOG",
    "META", "JPM", "ASML", "V", "WMT", "BARC", "XOM", "UNH", "SONY", "PG",
)
# fmt: on
CRYPTO = ("BTC", "ETH")
#: currency of every tenth symbol, by its place
CURRENCIES = ("USD", "USD", "EUR", "USD", "USD", "GBP", "USD", "USD", "JPY", "USD")
#: FX pairs and their first rate in 1/10,000; JPY is valued by the inverse of its pair
PAIRS = (("EUR/USD", 10_850), ("GBP/USD", 12_700), ("USD/JPY", 1_496_000))
#: cents of a currency for one of USD, roughly: what makes positions about as big in every currency
CENTS = {"USD": 100, "EUR": 92, "GBP": 79, "JPY": 15_000}
SYMBOLS_PER_PORTFOLIO = 8
#: users who trade on paper, too, at most
PAPER_USERS = 3
#: what a position usually stays below, in USD; its limit lies a little above
POSITION_SIZE = 40_000
RECENT = 512

FAR = "9999-01-01T00:00:00Z"
#: a hold that expires then ends before
LATE = "2299-12-31T00:00:00Z"
INJECTED: tuple[Any, ...] = (
    "a'b",
    'a"b',
    "a\nb",
    "x'; DROP TABLE fills; --",
    "a" * 65,
    "",
    " a",
    "ä",
    "a\0b",
    7,
    True,
    {},
    None,
)


def market(
    users: int = 100,
    symbols: int = 20,
    seed: int = 0,
    *,
    bad: float = 0.0,
    start: datetime = START,
    step: timedelta = STEP,
) -> Iterator[Message]:
    """An endless market: first limits, prices and deposits for everyone, then a mix of everything.

    users    how many; every third has two portfolios, each trading up to 8 of the symbols, long and short
    symbols  how many; most in USD, some in EUR, GBP and JPY, with the FX pairs that value them
    seed     same seed (and same other arguments), same messages
    bad      share, 0 to 1, of messages of the mix that are rejected, repeated or stale; see `Mischief`
    start    time of the first message (aware); also in ids and limit versions, so that runs don't collide
    step     market time between messages

    Raises ValueError for arguments out of these ranges.
    """
    if users < 1 or symbols < 1:
        raise ValueError("a market needs at least one user and one symbol")
    if not 0 <= bad <= 1:
        raise ValueError("bad is a share between 0 and 1")
    if start.tzinfo is None or step <= timedelta(0):
        raise ValueError("start needs a time zone, and step must be above zero")
    return _stream(Market(users, symbols, seed, start, step), bad)


def _stream(m: Market, bad: float) -> Iterator[Message]:
    yield from m.head()
    mischief = Mischief(m)
    random = m.random.random
    prices, transactions, limits = PRICES, PRICES + TRANSACTIONS, PRICES + TRANSACTIONS + LIMITS
    while True:
        if bad and random() < bad:
            yield mischief.next()
            continue
        choice = int(random() * 1000)
        if choice >= limits:
            yield m.trade()
        elif choice < prices:
            yield m.price()
        elif choice < transactions:
            yield m.transaction()
        else:
            yield m.limits()


class Instrument:
    """A symbol and its price in cents of its currency."""

    __slots__ = ("asset_type", "cents", "currency", "key", "symbol")

    def __init__(self, place: int, random: Random) -> None:
        self.symbol = NAMES[place] if place < len(NAMES) else f"SYM{place:04d}"
        self.key = self.symbol.encode()
        self.asset_type = "CRYPTO" if self.symbol in CRYPTO else "STOCK"
        self.currency = "USD" if self.symbol in CRYPTO else CURRENCIES[place % len(CURRENCIES)]
        dollars = 10 + int(random.random() * 400)
        self.cents = dollars * CENTS[self.currency] * (100 if self.symbol in CRYPTO else 1)


class Holding:
    """What a portfolio holds of a symbol, in 1/10,000, and the currency it trades it in."""

    __slots__ = ("currency", "instrument", "quantity")

    def __init__(self, instrument: Instrument, currency: str) -> None:
        self.instrument = instrument
        self.currency = currency
        self.quantity = 0


class Account:
    """A portfolio of a user."""

    __slots__ = ("holdings", "key", "portfolio", "user", "version")

    def __init__(self, user: str, portfolio: str, holdings: list[Holding], version: int) -> None:
        self.user = user
        self.portfolio = portfolio
        self.key = user.encode()
        self.holdings = holdings
        self.version = version


class Market:
    """State of the simulation; each of its methods makes one good message and moves the time on by a step."""

    def __init__(self, users: int, symbols: int, seed: int, start: datetime, step: timedelta) -> None:
        self.random = random = Random(seed)
        self.instruments = [Instrument(i, random) for i in range(symbols)]
        self.rates = dict(PAIRS)
        self.run = f"{seed}-{int(start.timestamp())}"
        self.numbers = count(1)
        self._micros = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        self._step = step // timedelta(microseconds=1)
        self._second = -1
        self._text = ""
        version = int(start.timestamp())
        self.accounts = [
            Account(f"u{user:05d}", portfolio, self._choose(portfolio == "alt"), version)
            for user in range(users)
            for portfolio in (("main", "alt") if user % 3 == 2 else ("main",))
        ]
        #: good messages of late, for what refers to something seen before; of quotes the last one
        self.trades: list[Message] = []
        self.deposits: list[Message] = []
        self.transfers: list[Message] = []
        #: wallet events that are open, and by user the cents of `w2` that nothing was set aside of yet
        self.open: list[dict[str, Any]] = []
        self.aside: dict[str, int] = {}
        #: users with a VIRTUAL wallet
        self.paper: set[str] = set()
        self.quotes: list[Message] = []

    def _choose(self, converts: bool) -> list[Holding]:
        """Up to SYMBOLS_PER_PORTFOLIO instruments; who `converts` trades those in GBP in USD."""
        total = len(self.instruments)
        first = self.below(total)
        chosen = [self.instruments[(first + i) % total] for i in range(min(SYMBOLS_PER_PORTFOLIO, total))]
        return [Holding(c, "USD" if converts and c.currency == "GBP" else c.currency) for c in chosen]

    def head(self) -> Iterator[Message]:
        """Limits, prices and deposits for everyone, in this order."""
        for account in self.accounts:
            yield self._limits(account)
        for pair in self.rates:
            yield self._rate(pair)
        for instrument in self.instruments:
            yield self._quote(instrument)
        for account in self.accounts:
            if account.portfolio == "main":
                yield self._transaction(account, "DEPOSIT", 200_000_000 + self.below(90_000_000), "USD")

    def below(self, n: int) -> int:
        """A whole number from 0 to n − 1."""
        return int(self.random.random() * n)

    def now(self) -> str:
        """The time of the next message."""
        self._micros = micros = self._micros + self._step
        second = micros // 1_000_000
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{micros % 1_000_000:06d}Z"

    def account(self) -> Account:
        """Any of them."""
        return self.accounts[int(self.random.random() * len(self.accounts))]

    def trade(self) -> Message:
        """A trade near the mark, either side; the bigger a position, the likelier it is brought back."""
        random = self.random.random
        account = self.accounts[int(random() * len(self.accounts))]
        holding = account.holdings[int(random() * len(account.holdings))]
        instrument = holding.instrument
        # A limit order's price, up to 0.2% from the mark.
        cents = instrument.cents * (9_980 + int(random() * 41)) // 10_000
        currency = holding.currency
        if currency != instrument.currency:
            cents = cents * self.rates["GBP/USD"] // 10_000
        # In 1/10,000 of a unit: up to half of what a position may usually be.
        cap = POSITION_SIZE * CENTS[currency] * 10_000 // cents
        quantity = 1 + int(random() * cap) // 2
        if instrument.asset_type == "STOCK" and quantity > 10_000:
            quantity -= quantity % 10_000
        held = holding.quantity
        buys = random() * 2 * cap > cap + held
        holding.quantity = held + quantity if buys else held - quantity
        fee = quantity * cents  # 0.01% of the notional, in 10^-10; sometimes a rebate of as much
        number = next(self.numbers)
        rebate = "-" if number % 50 == 0 else ""
        message = (
            "trades",
            account.key,
            (
                f'{{"trade_id":"t{self.run}-{number}","user_id":"{account.user}",'
                f'"portfolio_id":"{account.portfolio}","wallet_id":"w1","symbol":"{instrument.symbol}",'
                f'"currency":"{currency}","side":"{"BUY" if buys else "SELL"}",'
                f'"quantity":"{quantity // 10_000}.{quantity % 10_000:04d}",'
                f'"price":"{cents // 100}.{cents % 100:02d}",'
                f'"fee":"{rebate}{fee // 10**10}.{fee % 10**10:010d}","executed_at":"{self.now()}",'
                f'"broker":"sim","asset_type":"{instrument.asset_type}"}}'
            ).encode(),
        )
        self._remember(self.trades, message)
        return message

    def _remember(self, messages: list[Message], message: Message) -> None:
        if len(messages) < RECENT:
            messages.append(message)
        else:
            messages[int(self.random.random() * RECENT)] = message

    def price(self) -> Message:
        """The next price of some symbol, or now and then a rate."""
        choice = self.below(len(self.instruments) * 10 + len(PAIRS) * 5)
        if choice >= len(self.instruments) * 10:
            return self._rate(PAIRS[choice % len(PAIRS)][0])
        instrument = self.instruments[choice // 10]
        # Up to 0.3% either way, in millionths.
        step = instrument.cents * (self.below(6_001) - 3_000)
        instrument.cents = max(100, instrument.cents + step // 1_000_000)
        return self._quote(instrument)

    def _quote(self, instrument: Instrument) -> Message:
        cents = instrument.cents
        message = (
            "prices",
            instrument.key,
            (
                f'{{"symbol":"{instrument.symbol}","price":"{cents // 100}.{cents % 100:02d}",'
                f'"currency":"{instrument.currency}","as_of":"{self.now()}",'
                f'"bid":"{(cents - 1) // 100}.{(cents - 1) % 100:02d}",'
                f'"ask":"{(cents + 1) // 100}.{(cents + 1) % 100:02d}","source":"sim"}}'
            ).encode(),
        )
        self.quotes = [message]
        return message

    def _rate(self, pair: str) -> Message:
        rate = self.rates[pair]
        rate = self.rates[pair] = max(1, rate + rate * (self.below(2_001) - 1_000) // 1_000_000)
        value = (
            f'{{"symbol":"{pair}","price":{rate // 10_000}.{rate % 10_000:04d},'
            f'"currency":"{pair[4:]}","as_of":"{self.now()}","source":"sim"}}'
        )
        return "prices", pair.encode(), value.encode()

    def transaction(self) -> Message:
        """A deposit, a withdrawal (now and then of more than there is), a fee, or anything else that wallets know."""
        choice = self.below(212)
        if choice >= 200:
            return self._paper(self.accounts[self.below(min(PAPER_USERS, len(self.accounts)))])
        if choice >= 100:
            return self._wallet_event(choice - 100)
        asset = "USD" if choice % 5 else "EUR"
        kind = "DEPOSIT" if choice < 50 else "WITHDRAWAL" if choice < 85 else "FEE"
        cents = self.below(5_000) if kind == "FEE" else self.below(2_000_000)
        if choice == 84:
            cents *= 10_000
        return self._transaction(self.account(), kind, cents + 100, asset)

    def _wallet_event(self, choice: int) -> Message:
        """One of the other types, or the next status of one that is open."""
        if choice < 40 and len(self.open) > 20:
            return self._advance(self.open.pop(self.below(len(self.open))))
        account, cents = self.account(), 1_000 + self.below(100_000)
        if choice < 60:
            return self._set_aside(account, cents, "HOLD" if choice % 3 else "WITHDRAWAL")
        if choice < 70:
            other = {"user_id": account.user, "wallet_id": "w2"}
            if choice % 2:
                other = {"user_id": self.accounts[cents % len(self.accounts)].user, "wallet_id": "w3"}
            transfer = self._event(account, "TRANSFER", cents, fee="0.35", counterparty=other)
            self._remember(self.transfers, transfer)
            return transfer
        if choice < 80:
            # a few at the current mark: its price is the inverse of the rate
            given = {} if choice < 75 else {"rate": f"0.{10**8 // self.rates['EUR/USD']:04d}"}
            return self._event(account, "CONVERSION", cents, to_asset="EUR", **given)
        if choice < 90:
            return self._event(account, "DIVIDEND" if choice % 2 else "INTEREST", cents)
        if choice < 93:
            amount = -cents if choice % 2 else cents
            return self._event(account, "ADJUSTMENT", amount, description="a correction", authorized_by="ops")
        seen = self.transfers if choice > 95 and self.transfers else self.deposits
        undone = json.loads(seen[self.below(len(seen))][2] or b"")
        fields = {"reverses": undone["transaction_id"], "user_id": undone["user_id"], "amount": undone["amount"]}
        return self._event(account, "REVERSAL", 0, asset=undone["asset"], wallet_id=undone["wallet_id"], **fields)

    def _paper(self, account: Account) -> Message:
        """Something in the VIRTUAL wallet `paper`, or with the wallet `gone`, which is closed when it is empty."""
        choice, cents = self.below(8), 1_000 + self.below(100_000)
        if account.user not in self.paper:
            self.paper.add(account.user)
            return self._of_wallet(account, "OPEN", "paper", wallet_type="VIRTUAL", configuration=self._capital())
        if choice == 0:
            return self._of_wallet(account, "RESET", "paper")
        if choice == 1:
            return self._of_wallet(account, "CONFIGURE", "paper", configuration=self._capital())
        if choice == 2:
            return self._of_wallet(account, "CLOSE", "gone")
        if choice == 3:
            return self._event(account, "WITHDRAWAL" if cents % 2 else "DEPOSIT", 1_000, wallet_id="gone")
        if choice == 4:
            other = {"user_id": account.user, "wallet_id": "w2"}
            return self._event(account, "TRANSFER", cents, wallet_id="paper", counterparty=other)
        if choice == 5:
            rate = {"to_asset": "BTC", "rate": "0.00001"}
            return self._event(account, "CONVERSION", cents, wallet_id="paper", fee="0.1", **rate)
        return self._event(account, "DEPOSIT" if choice == 6 else "WITHDRAWAL", cents, wallet_id="paper")

    def _capital(self) -> dict[str, Any]:
        """A configuration of a VIRTUAL wallet."""
        return {
            "initial_capital": f"{1 + self.below(100)}000",
            "allocation": {"EUR": "250.5", "ETH": self.below(9) + 1},
        }

    def _of_wallet(self, account: Account, kind: str, wallet: str, **fields: Any) -> Message:
        event = {
            "transaction_id": f"x{self.run}-{next(self.numbers)}",
            "user_id": account.user,
            "wallet_id": wallet,
            "type": kind,
            "status": "COMPLETED",
            "occurred_at": self.now(),
        }
        return self._publish(event | fields)

    def _set_aside(self, account: Account, cents: int, kind: str) -> Message:
        """Funds of wallet `w2` are locked; they are put there when it hasn't enough, so that it is never refused."""
        if self.aside.get(account.user, 0) < cents:
            self.aside[account.user] = self.aside.get(account.user, 0) + 20 * cents
            return self._event(account, "DEPOSIT", 20 * cents, wallet_id="w2", payment_method="card")
        self.aside[account.user] -= cents
        status = "PENDING" if cents % 4 else "PROCESSING"
        fields = {"expires_at": self._expiry(cents)} if kind == "HOLD" and cents % 5 < 3 else {}
        return self._event(account, kind, cents, wallet_id="w2", status=status, **fields)

    def _expiry(self, cents: int) -> str:
        """When a hold expires: mostly a few seconds of the market ahead, else so late that it ends before."""
        return LATE if cents % 5 == 2 else time_of(self._micros + (1 + cents % 8) * 1_000_000 + cents)

    def _advance(self, opened: dict[str, Any]) -> Message:
        """The next status of an open transaction."""
        ends = ("COMPLETED", "COMPLETED", "CANCELLED", "FAILED")
        status = "PROCESSING" if opened["status"] == "PENDING" and self.below(3) == 0 else ends[self.below(4)]
        return self._publish({**opened, "status": status, "occurred_at": self.now()})

    def _event(self, account: Account, kind: str, cents: int, **fields: Any) -> Message:
        sign, cents = "-" if cents < 0 else "", abs(cents)
        event = {
            "transaction_id": f"x{self.run}-{next(self.numbers)}",
            "user_id": account.user,
            "wallet_id": "w1",
            "type": kind,
            "status": "COMPLETED",
            "asset": "USD",
            "amount": f"{sign}{cents // 100}.{cents % 100:02d}",
            "occurred_at": self.now(),
        }
        return self._publish(event | fields)

    def _publish(self, event: dict[str, Any]) -> Message:
        # what expires soon is left alone: what comes of another status would hang on which of both is first
        if event["status"] in ("PENDING", "PROCESSING") and event.get("expires_at") in (None, LATE):
            self.open.append(event)
        return "transactions", event["user_id"].encode(), _json(event)

    def _transaction(self, account: Account, kind: str, cents: int, asset: str) -> Message:
        fee = 0 if kind == "FEE" else cents % 97
        message = (
            "transactions",
            account.key,
            (
                f'{{"transaction_id":"x{self.run}-{next(self.numbers)}","user_id":"{account.user}",'
                f'"wallet_id":"w1","type":"{kind}","status":"COMPLETED","asset":"{asset}",'
                f'"amount":"{cents // 100}.{cents % 100:02d}","fee":"{fee // 100}.{fee % 100:02d}",'
                f'"occurred_at":"{self.now()}","payment_method":"bank"}}'
            ).encode(),
        )
        if kind == "DEPOSIT":
            self._remember(self.deposits, message)
        return message

    def limits(self) -> Message:
        """New limits for some portfolio; one in ten turns them off."""
        return self._limits(self.account())

    def _limits(self, account: Account) -> Message:
        account.version += 1
        size = POSITION_SIZE * (110 + self.below(50)) // 100
        kind = self.below(10)
        # A loss that wanders about its line alerts again and again: so not everyone has every loss limit.
        daily = f'"{size // 32}"' if kind < 4 else "null"
        weekly = f'"{size // 18}"' if 2 < kind < 6 else "null"
        total = f'"{size // 12}.50"' if kind > 6 else "null"
        own = account.holdings[0].instrument.symbol
        value = (
            f'{{"user_id":"{account.user}","portfolio_id":"{account.portfolio}","version":{account.version},'
            f'"active":{"false" if kind == 9 else "true"},"updated_at":"{self.now()}",'
            f'"max_position_size":"{size}","max_portfolio_value":{size * 4},"max_daily_loss":{daily},'
            f'"max_weekly_loss":{weekly},"max_total_loss":{total},'
            f'"asset_limits":{{"{own}":"{size * 3 // 4}.25"}}}}'
        )
        return "risk_limits", account.key, value.encode()


class Mischief:
    """Messages that a worker must reject, ignore or not choke on: every kind once a round, in random order.

    They change nothing for the market's own users; the user `absurd` gets a holding that can't be valued.
    """

    def __init__(self, market: Market) -> None:
        self.market = market
        self._round: list[Callable[[], Message]] = []
        self._first = True

    def next(self) -> Message:
        """The next one."""
        if not self._round:
            kinds = self._kinds()
            order = sorted((self.market.random.random(), i) for i in range(len(kinds)))
            self._round = [kinds[i] for _, i in order]
        return self._round.pop()()

    def _kinds(self) -> list[Callable[[], Message]]:
        topics = ("trades", "transactions", "risk_limits", "prices")
        kinds: list[Callable[[], Message]] = [
            lambda: self._repeat(self.market.trades),
            lambda: self._repeat(self.market.deposits),
            lambda: self._repeat(self.market.quotes),
            self._respelt,
            lambda: self._again(self.market.trades, price="123.45"),
            lambda: self._again(self.market.trades, executed_at="2020-02-29T23:59:59+01:00"),
            lambda: self._again(self.market.deposits, amount="987654.32"),
            lambda: self._again(self.market.deposits, status="PROCESSING"),
            lambda: self._again(self.market.trades, trade_id=self._id(), currency="XAU"),
            lambda: self._again(self.market.quotes, currency="XAU", as_of=self.market.now()),
            lambda: self._again(self.market.quotes, as_of="2020-01-01T00:00:00Z"),
            lambda: self._spoilt("prices", symbol="EUR/USD", currency="EUR"),
            self._absurd_trade,
            self._absurd_price,
            self._stale_limits,
            *(self._partial(self._raw, topics[i % 4], data) for i, data in enumerate(self._garbage())),
            *(self._partial(self._wrong_key, topic, key) for topic in topics for key in (None, b"", b"nobody")),
            *(self._partial(self._spoilt, topic, **fields) for topic, fields in SPOILT),
        ]
        self._first = False
        return kinds

    @staticmethod
    def _partial(make: Callable[..., Message], *args: Any, **fields: Any) -> Callable[[], Message]:
        return lambda: make(*args, **fields)

    def _id(self) -> str:
        return f"b{self.market.run}-{next(self.market.numbers)}"

    def _garbage(self) -> list[bytes | None]:
        """Values that are no JSON object; 1 MiB of noise in the first round only, later a little."""
        size = 1 << 20 if self._first else 1 << 10
        return [
            None,
            b"",
            bytes(self.market.below(256) for _ in range(1 << 10)) * (size >> 10),
            b'{"trade_id":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
            b'{"unknown":' + b'{"a":' * 64 + b"1" + b"}" * 65,
            b'{"trade_id":"\xff\xfe","user_id":"u00000"}',
            b'{"trade_id":"t1"',
            b'{"price":NaN}',
            b"[1,2,3]",
            b'"trade"',
            b"null",
            b" ",
            b"{} {}",
            b"\xef\xbb\xbf{}",
            b"{'trade_id':'t1'}",
            b"{}",
        ]

    def _raw(self, topic: str, value: bytes | None) -> Message:
        account = self.market.account()
        return topic, self.market.instruments[0].key if topic == "prices" else account.key, value

    def _good(self, topic: str) -> dict[str, Any]:
        """The fields of a good new message that nobody has published; it leaves no trace in the market."""
        account, now = self.market.account(), self.market.now()
        holding = account.holdings[0]
        if topic == "trades":
            return {
                "trade_id": self._id(),
                "user_id": account.user,
                "portfolio_id": account.portfolio,
                "wallet_id": "w1",
                "symbol": holding.instrument.symbol,
                "currency": holding.instrument.currency,
                "side": "BUY",
                "quantity": "1",
                "price": "10.5",
                "executed_at": now,
            }
        if topic == "transactions":
            return {
                "transaction_id": self._id(),
                "user_id": account.user,
                "wallet_id": "w1",
                "type": "DEPOSIT",
                "status": "COMPLETED",
                "asset": "USD",
                "amount": "10",
                "occurred_at": now,
            }
        if topic == "prices":
            instrument = holding.instrument
            price = f"{instrument.cents // 100}.{instrument.cents % 100:02d}"
            return {
                "symbol": instrument.symbol,
                "price": price,
                "currency": instrument.currency,
                "as_of": now,
            }
        return {
            "user_id": account.user,
            "portfolio_id": account.portfolio,
            "version": account.version + 1,
            "updated_at": now,
            "max_position_size": "1",
        }

    def _spoilt(self, topic: str, **fields: Any) -> Message:
        """A message that would be good but for these fields."""
        message = self._good(topic) | fields
        name = "symbol" if topic == "prices" else "user_id"
        return topic, str(message[name]).encode(), _json(message)

    def _wrong_key(self, topic: str, key: bytes | None) -> Message:
        _, _, value = self._spoilt(topic)
        return topic, key, value

    def _repeat(self, seen: list[Message]) -> Message:
        """Something seen before, byte for byte."""
        return seen[self.market.below(len(seen))] if seen else self._spoilt("trades", quantity="0")

    def _again(self, seen: list[Message], **fields: Any) -> Message:
        """Something seen before, with other fields."""
        topic, key, value = self._repeat(seen)
        return topic, key, _json(json.loads(value or b"{}") | fields)

    def _respelt(self) -> Message:
        """A trade seen before that says the same otherwise."""
        topic, key, value = self._repeat(self.market.trades)
        fields = json.loads(value or b"{}")
        fields["quantity"] = f"+00{fields['quantity']}00e0"
        fields["executed_at"] = fields["executed_at"].replace("Z", "999+00:00")
        return topic, key, _json({"order_id": None, "novelty": [1, {"a": 2.5}], **fields})

    def _absurd_trade(self) -> Message:
        return self._spoilt(
            "trades",
            user_id="absurd",
            portfolio_id="p",
            symbol="ABSURD",
            currency="USD",
            quantity="1e15",
            price="1",
        )

    def _absurd_price(self) -> Message:
        return self._spoilt("prices", symbol="ABSURD", currency="USD", price="1e19")

    def _stale_limits(self) -> Message:
        account = self.market.account()
        return self._spoilt(
            "risk_limits", user_id=account.user, portfolio_id=account.portfolio, version=account.version
        )


def _each(topic: str, name: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(topic, {name: value}) for value in values]


#: what makes a good message a bad one: broken rules, numbers out of range, what this version doesn't book
SPOILT: list[tuple[str, dict[str, Any]]] = [
    *_each("trades", "trade_id", *INJECTED),
    *_each("prices", "symbol", "a b", "x'; DROP TABLE prices; --", "S" * 33),
    *_each("risk_limits", "portfolio_id", 'p"', "p\n", "a/b"),
    *_each("transactions", "wallet_id", "w'", "w\\", "w" * 65),
    *_each("trades", "quantity", "0", "-1", "abc", "", "1e99999", "1_0", "1" * 65, True, []),
    *_each("trades", "quantity", "1e-19", "100000000000000000000", "1e9999"),
    ("trades", {"quantity": "1e19", "price": "1e19"}),
    ("trades", {"quantity": 1e19, "price": "10000000000000000000"}),
    *_each("trades", "price", "0.1234567890123456789"),
    *_each("trades", "fee", "1e20"),
    *_each("trades", "executed_at", FAR, "2299-12-31T00:00:00Z", "1969-12-31T23:59:59Z"),
    *_each("trades", "executed_at", "2024-02-30T00:00:00Z", "2024-01-01T00:00:00", 0),
    *_each("trades", "side", "buy", "HOLD", None),
    *_each("trades", "asset_type", "BOND"),
    *_each("trades", "broker", "b" * 1025),
    *_each("transactions", "occurred_at", FAR),
    *_each("transactions", "amount", "-5", "1e20", "99999999999999999999"),
    *_each("transactions", "fee", "11", "-1"),
    *_each("transactions", "type", "GIFT", "TRANSFER", "REVERSAL", "CONVERSION", "ADJUSTMENT"),
    *_each("transactions", "status", "DONE", ""),
    ("transactions", {"type": "CONVERSION", "to_asset": "EUR", "rate": "0"}),
    ("transactions", {"type": "HOLD", "expires_at": FAR}),
    *_each("transactions", "metadata", {"a": 1}),
    ("transactions", {"type": "OPEN", "wallet_type": "PAPER"}),
    ("transactions", {"type": "OPEN", "currency": "a b"}),
    ("transactions", {"type": "CONFIGURE", "configuration": {"allocation": {"BTC": "0"}}}),
    ("transactions", {"type": "OPEN", "configuration": {"initial_capital": "1e20"}}),
    *_each("prices", "price", "0", "-3.5", "NaN", "1e20", "0.0000000000000000001"),
    *_each("prices", "as_of", FAR),
    *_each("prices", "currency", None),
    *_each("risk_limits", "version", "7", 1.5, None, True, 10**19),
    *_each("risk_limits", "max_position_size", "0", "-1", "1e20", "x"),
    *_each("risk_limits", "active", "yes"),
    *_each("risk_limits", "asset_limits", {"AAPL": "0"}, ["AAPL"]),
    *_each("risk_limits", "updated_at", FAR),
]


def time_of(micros: int) -> str:
    """Microseconds UTC as a time of the interface."""
    return (datetime(1970, 1, 1) + timedelta(microseconds=micros)).isoformat(timespec="microseconds") + "Z"


def _json(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
