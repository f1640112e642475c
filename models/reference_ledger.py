"""Wallets of the reference model: section 5 of docs/interface.md, one event at a time.

A *transaction* is all that is said under one (user_id, transaction_id): PENDING, PROCESSING, then one final status.
Money is an int in units of 10^-18; "Reading:" as in `reference`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from assetstream.models.reference_reading import BOUND, Rejected, Source, body_of, plain, times, timestamp
from assetstream.models.reference_wallets import EVENTS, Wallet, objection

OPEN = ("PENDING", "PROCESSING")
#: what one tick makes happen
MOST_AT_ONCE = 10_000
#: a transaction's status only grows
STEPS = {"PENDING": 1, "PROCESSING": 2, "COMPLETED": 3, "FAILED": 3, "CANCELLED": 3}
#: what they will take is locked while they are open
LOCKING = ("WITHDRAWAL", "TRANSFER", "CONVERSION", "HOLD")

#: (user, transaction id); of a credit that was refused (receiver, sender, transaction id)
Identity = tuple[str, ...]
#: (user, wallet, asset)
Key = tuple[str, str, str]


class Balance(NamedTuple):
    """What a wallet has of an asset."""

    available: int = 0
    locked: int = 0

    def plain(self) -> dict[str, str]:
        """As published."""
        total = self.available + self.locked
        return {"total": plain(total), "available": plain(self.available), "locked": plain(self.locked)}


def asset_of(symbol: str, currency: str) -> str:
    """What a trade of a symbol moves. Reading: of a pair A/B that is traded in B it is A; else it bears its name."""
    base, slash, quote = symbol.partition("/")
    return base if base and slash and quote == currency and "/" not in quote else symbol


class Posting(NamedTuple):
    """One leg of a double entry; the account of a wallet is (user, wallet)."""

    account: str | tuple[str, str]
    asset: str
    amount: int

    def opposite(self) -> Posting:
        return self._replace(amount=-self.amount)

    def virtual(self) -> Posting:
        """The same with what is in no wallet in `virtual`."""
        return self._replace(account="virtual") if isinstance(self.account, str) else self

    def published(self) -> dict[str, str]:
        account = self.account if isinstance(self.account, str) else "wallet:" + "/".join(self.account)
        return {"account": account, "asset": self.asset, "amount": plain(self.amount)}


class Quote(NamedTuple):
    """What a conversion is done at: the rate in units, spread taken off; the time of the oldest mark it came from."""

    rate: int
    as_of: int | None = None
    spread_bps: int = 0

    def published(self) -> dict[str, str | None]:
        as_of = None if self.as_of is None else timestamp(self.as_of)
        return {"rate": plain(self.rate), "rate_as_of": as_of, "spread_bps": plain(self.spread_bps)}


#: finds the quote of a conversion that gives no rate, None when there is none
Quoting = Callable[[dict[str, Any], Source], Quote | None]
NO_QUOTE: dict[str, str | None] = {"rate": None, "rate_as_of": None, "spread_bps": None}


class Terms(NamedTuple):
    """What every status of a transaction must repeat."""

    wallet_id: str
    type: str
    asset: str
    amount: int
    fee: int
    counterparty: tuple[str, str] | None
    to_asset: str | None
    rate: int | None
    reverses: str | None
    wallet_type: str | None = None
    currency: str | None = None
    configuration: dict[str, Any] | None = None

    @property
    def locks(self) -> int:
        """What is put aside while the transaction is open."""
        if self.type not in LOCKING:
            return 0
        return self.amount if self.type == "HOLD" else self.amount + self.fee

    def postings(self, user_id: str, payment_method: str | None, rate: int | None) -> list[Posting]:
        """What COMPLETED moves (a REVERSAL's are its original's); sums to zero per asset, wallets' debits come first.

        rate: of a CONVERSION, what it is done at.
        Reading: a fee is taken of DEPOSIT, WITHDRAWAL, TRANSFER and CONVERSION only.
        """
        own, asset, amount, fee = (user_id, self.wallet_id), self.asset, self.amount, self.fee
        external = "external:" + ("unspecified" if payment_method is None else payment_method)
        legs: list[Posting] = []
        if self.type == "DEPOSIT":
            legs = [Posting(own, asset, amount - fee), Posting("fees", asset, fee), Posting(external, asset, -amount)]
        elif self.type == "WITHDRAWAL":
            legs = [Posting(own, asset, -amount - fee), Posting("fees", asset, fee), Posting(external, asset, amount)]
        elif self.type == "TRANSFER":
            assert self.counterparty is not None
            other = self.counterparty if self.counterparty[0] == user_id else "transit"
            legs = [Posting(own, asset, -amount - fee), Posting("fees", asset, fee), Posting(other, asset, amount)]
        elif self.type == "CONVERSION":
            assert self.to_asset is not None
            assert rate is not None
            arrives = times(amount, rate)
            legs = [
                Posting(own, asset, -amount - fee),
                Posting("fees", asset, fee),
                Posting("exchange", asset, amount),
                Posting(own, self.to_asset, arrives),
                Posting("exchange", self.to_asset, -arrives),
            ]
        elif self.type == "FEE":
            legs = [Posting(own, asset, -amount), Posting("fees", asset, amount)]
        elif self.type == "ADJUSTMENT":
            legs = [Posting(own, asset, amount), Posting("adjustments", asset, -amount)]
        elif self.type in ("DIVIDEND", "INTEREST"):
            legs = [Posting(own, asset, amount), Posting("income", asset, -amount)]
        return [leg for leg in legs if leg.amount]


@dataclass(eq=False, slots=True)
class Transaction:
    """One transaction so far; `bodies` by status, of the messages that were accepted."""

    terms: Terms
    bodies: dict[str, bytes] = field(default_factory=dict)
    status: str = ""
    payment_method: str | None = None
    #: of a conversion that was done
    rate: int | None = None
    reversed: bool = False
    #: its reversal waits for another user's answer; it is that reversal
    claimed: bool = False
    waits: bool = False
    #: of a hold that is open: microseconds; and its number among what the partition put down to happen later
    expires_at: int | None = None
    number: int = 0

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def locked(self) -> int:
        """What it holds locked: an open one that couldn't lock was refused, and isn't open."""
        return self.terms.locks if self.is_open else 0


class Settling(NamedTuple):
    """What a trade brought and is locked until `at`, µs; `event` is what was told of it."""

    at: int
    balance: Key
    amount: int
    event: dict[str, Any]


class Memory:
    """The transactions that one partition remembers: all that are open, and the `size` that became final last."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[Identity, Transaction] = {}
        #: of these the open ones that expire; and trades that have still to settle, by user and number
        self.expiring: dict[Identity, Transaction] = {}
        self.settling: dict[tuple[str, int], Settling] = {}
        self.put_down = 0
        self._final: dict[Identity, None] = {}  # in the order in which they became final

    def advance(self, identity: Identity, transaction: Transaction, status: str) -> None:
        """A transaction, which may be a new one, has another status."""
        self.found[identity] = transaction
        transaction.status = status
        if transaction.is_open:
            if transaction.expires_at is not None and identity not in self.expiring:
                self.put_down += 1
                transaction.number = self.put_down
                self.expiring[identity] = transaction
            return
        self.expiring.pop(identity, None)
        self._final[identity] = None
        if len(self._final) > self.size:
            forgotten = next(iter(self._final))
            del self._final[forgotten], self.found[forgotten]

    def of(self, keep: Callable[[str], bool]) -> Memory:
        """The memory of some of its users."""
        part = Memory(self.size)
        part.found = {identity: each for identity, each in self.found.items() if keep(identity[0])}
        part.put_down = self.put_down
        part.settling = {key: each for key, each in self.settling.items() if keep(key[0])}
        part.expiring = {identity: each for identity, each in self.expiring.items() if keep(identity[0])}
        part._final = {identity: None for identity in self._final if keep(identity[0])}
        return part


@dataclass(eq=False)
class Effect:
    """What an event would do: `balances` as they would be, or a `code` why nothing."""

    code: str | None = None
    balances: dict[Key, Balance] = field(default_factory=dict)
    postings: list[Posting] = field(default_factory=list)
    reverses: Transaction | None = None
    quote: Quote | None = None
    #: the other user of `reverses` is asked first
    asks: bool = False
    #: a credit would reach 10^20
    overflows: bool = False
    #: its own wallet as it would be
    wallet: Wallet | None = None


class Ledger:
    """All wallets, and what each partition remembers; `id_memory` final transactions in each."""

    def __init__(self, id_memory: int, base_currency: str) -> None:
        self.id_memory, self.base_currency = id_memory, base_currency
        #: by (user, wallet)
        self.wallets: dict[tuple[str, str], Wallet] = {}
        self.balances: dict[Key, Balance] = {}
        self.outcomes: list[dict[str, Any]] = []
        #: of each outcome, which one of its balance it is, changes counted
        self.sequences: list[int] = []
        #: messages of `transfers`
        self.sent: list[dict[str, Any]] = []
        #: as in `settlement_events`; and the legs of each one that a trade caused
        self.settlements: list[dict[str, Any]] = []
        self.settled_postings: list[tuple[dict[str, Any], list[dict[str, str]]]] = []
        #: by partition: how many outcomes and settlement events there were
        self._journals: Counter[int] = Counter()
        self._told: Counter[Key] = Counter()
        self.changes: list[dict[str, Any]] = []
        self._memories: dict[int, Memory] = {}

    def transactions(self, partition: int) -> dict[Identity, Transaction]:
        """Those that a partition remembers."""
        return self._memory(partition).found

    def due(self, partition: int) -> dict[Identity, int]:
        """When the open holds of a partition expire, of those that do."""
        return {identity: each.expires_at or 0 for identity, each in self._memory(partition).expiring.items()}

    def split(self, partition: int, added: Iterable[int], home: Callable[[str], int]) -> None:
        """Partitions were added: what one remembered goes with its users, home(user_id); each has its journal."""
        for number in added:
            self._journals[number] = self._journals[partition]
        whole = self._memory(partition)
        for number in {home(user) for user, *_ in whole.found} | {partition}:
            self._memories[number] = whole.of(lambda user, number=number: home(user) == number)  # type: ignore[misc]

    def take(self, m: dict[str, Any], source: Source, quote: Quoting = lambda m, source: None) -> str:
        """Take an event that was read: applied or duplicate; raises Rejected, and then nothing has changed."""
        memory = self._memory(source.partition)
        identity, status, body = (m["user_id"], m["transaction_id"]), m["status"], body_of(m)
        terms = Terms(*(m.get(name) for name in Terms._fields))  # type: ignore[arg-type]
        known = memory.found.get(identity)
        if known and known.bodies.get(status) == body:
            return "duplicate"
        if m["type"] in EVENTS:
            effect = self._wallet_effect(m)
        else:
            effect = self._effect(m, terms, known, memory, lambda: quote(m, source))
            if code := self._barred(m) or effect.code:
                # Reading: refused is final, so what was locked for it is let go.
                effect = Effect(code, self._unlocked(m, known))
        if effect.overflows and effect.code is None:
            raise Rejected("out_of_range", "amount: a balance of 10^20 or more")
        if known and (status in known.bodies or terms != known.terms):
            raise Rejected("conflict", "transaction_id: seen before with another body")
        if known and (STEPS[status] <= STEPS[known.status] or known.waits):
            raise Rejected("illegal_transition", f"status: {status} after {known.status}")

        # Reading: what locks a hold says when it expires, and no later status does.
        locks = effect.code is None and status in OPEN and (known is None or not known.is_open)
        if known is None:
            known = Transaction(terms)
        if locks and terms.type == "HOLD":
            known.expires_at = m["expires_at"]
        known.bodies[status] = body
        known.payment_method = m["payment_method"]
        known.rate = effect.quote and effect.quote.rate
        known.waits = effect.asks
        memory.advance(identity, known, "FAILED" if effect.code else "PROCESSING" if effect.asks else status)
        if effect.asks:
            assert effect.reverses is not None
            effect.reverses.claimed = True
            self._claim(m, effect.reverses.terms)
        elif effect.reverses:
            effect.reverses.reversed = True
        elif any(leg.account == "transit" for leg in effect.postings):
            self._send("CREDIT", m, m["counterparty"], m["amount"])
        wallet = self._enter(m, effect)
        if m["type"] in EVENTS:
            named = m.get("currency") if wallet.status == "" else None
            m = {**m, "asset": named or wallet.currency, "amount": 0, "fee": 0}
        own = (m["user_id"], m["wallet_id"], m["asset"])
        self._set(own, effect)
        self._note(m, own, known.status, effect, source)
        return "applied"

    def _memory(self, partition: int) -> Memory:
        return self._memories.setdefault(partition, Memory(self.id_memory))

    # -- wallets

    def _wallet(self, key: tuple[str, str]) -> Wallet:
        """A wallet as it is; one that isn't known is what its first event would make of it, but not open."""
        return self.wallets.get(key) or Wallet(self.base_currency)

    def _enter(self, m: dict[str, Any], effect: Effect) -> Wallet:
        """The wallet of an accepted event, as it leaves it."""
        key = m["user_id"], m["wallet_id"]
        wallet = self.wallets[key] = effect.wallet or self._wallet(key)
        if wallet.status == "" and m["type"] != "OPEN":
            wallet.status = "OPEN"
        return wallet

    def _set(self, own: Key, effect: Effect) -> None:
        """Write the balances of an accepted event, its own one first; new ones are opened, with their wallets."""
        for key, balance in {own: self.balances.get(own, Balance()), **effect.balances}.items():
            wallet = self.wallets.setdefault(key[:2], Wallet(self.base_currency))
            if key != own and wallet.status == "":
                wallet.status = "OPEN"
            if key not in self.balances:
                wallet.assets.append(key[2])
            self.balances[key] = balance

    def _wallet_effect(self, m: dict[str, Any]) -> Effect:
        """What an event of a wallet itself would do, were it accepted.

        Reading: a RESET lets all that is there leave, the balance that was opened last first, and then what the wallet
        begins with arrive, also what is the same.
        """
        key = m["user_id"], m["wallet_id"]
        wallet = self._wallet(key)
        held = {asset: self.balances[*key, asset] for asset in reversed(wallet.assets)}
        if code := objection(m, wallet, list(held.values())):
            return Effect(code)
        if m["status"] != "COMPLETED":
            return Effect()
        after = wallet.after(m)
        legs = [(asset, -balance.available) for asset, balance in held.items() if m["type"] == "RESET"]
        legs += after.grants if m["type"] in ("OPEN", "RESET") else []
        postings = [
            posting
            for asset, amount in legs
            for posting in (Posting(key, asset, amount), Posting("virtual", asset, -amount))
            if amount
        ]
        effect = self._move(postings, False)
        effect.wallet = after
        effect.overflows = sum(amount for asset, amount in after.grants if asset == after.currency) >= BOUND
        return effect

    def _barred(self, m: dict[str, Any]) -> str | None:
        """Why the wallets of an event that moves money take no part in it, whatever they hold."""
        if m["status"] not in (*OPEN, "COMPLETED"):
            return None
        own = self._wallet((m["user_id"], m["wallet_id"]))
        if own.is_closed:
            return "WALLET_CLOSED"
        if m["type"] != "TRANSFER":
            return None
        if m["counterparty"][0] != m["user_id"]:
            return "NOT_ALLOWED" if own.is_virtual else None
        other = self._wallet(m["counterparty"])
        if other.is_closed:
            return "WALLET_CLOSED"
        return "NOT_ALLOWED" if own.is_virtual != other.is_virtual else None

    def _unlocked(self, m: dict[str, Any], known: Transaction | None) -> dict[Key, Balance]:
        """The balance of an event that is refused when it had locked something: that is given up."""
        if known is None or not known.locked:
            return {}
        own = (m["user_id"], m["wallet_id"], m["asset"])
        balance = self.balances.get(own, Balance())
        return {own: Balance(balance.available + known.locked, balance.locked - known.locked)}

    # -- money

    def _effect(
        self,
        m: dict[str, Any],
        terms: Terms,
        known: Transaction | None,
        memory: Memory,
        current: Callable[[], Quote | None],
    ) -> Effect:
        """What an event would do, were it accepted."""
        status, kind, user = m["status"], m["type"], m["user_id"]
        locked = known.locked if known else 0
        if status == "COMPLETED" and kind == "REVERSAL":
            original = memory.found.get((user, m["reverses"]))
            if original is None or original.status != "COMPLETED" or original.terms.type in ("REVERSAL", *EVENTS):
                return Effect("UNKNOWN_REFERENCE")
            if original.reversed or original.claimed:
                return Effect("ALREADY_REVERSED")
            was = original.terms
            if (m["asset"], m["amount"], m["wallet_id"]) != (was.asset, abs(was.amount), was.wallet_id):
                return Effect("NOT_ALLOWED")
            if was.type == "TRANSFER" and was.counterparty and was.counterparty[0] != user:
                return Effect(reverses=original, asks=True)
            legs = [leg.opposite() for leg in self._postings(was, user, original.payment_method, original.rate)]
            wallets = {leg.account for leg in legs if isinstance(leg.account, tuple)}
            if any(self._wallet(key).is_closed for key in wallets):
                return Effect("WALLET_CLOSED")
            # Reading: a lock serves what locked it, so a reversal takes of what is available.
            effect = self._move(legs, False)
            effect.reverses = None if effect.code else original
            return effect
        quote = None
        if status == "COMPLETED" and kind == "CONVERSION":
            quote = Quote(m["rate"]) if m["rate"] is not None else current()
            # Reading: as of a given rate, whether there are funds or not.
            if quote and times(m["amount"], quote.rate) >= BOUND:
                raise Rejected("out_of_range", "rate: amount · rate of 10^20 or more")
            if quote is None:
                return Effect("NO_RATE")
        if status == "COMPLETED" and kind != "HOLD":
            effect = self._move(self._postings(terms, user, m["payment_method"], quote and quote.rate), locked > 0)
            effect.quote = quote
            return effect
        if kind not in LOCKING:
            return Effect()
        own = (user, m["wallet_id"], m["asset"])
        balance = self.balances.get(own, Balance())
        if status in OPEN and not locked:
            if balance.available < terms.locks:
                return Effect("INSUFFICIENT_FUNDS")
            return Effect(balances={own: Balance(balance.available - terms.locks, balance.locked + terms.locks)})
        if status not in OPEN and locked:
            return Effect(balances={own: Balance(balance.available + locked, balance.locked - locked)})
        return Effect()

    def _postings(self, terms: Terms, user_id: str, payment_method: str | None, rate: int | None) -> list[Posting]:
        """What COMPLETED moves; against `virtual` what is no real money."""
        legs = terms.postings(user_id, payment_method, rate)
        return [leg.virtual() for leg in legs] if self._wallet((user_id, terms.wallet_id)).is_virtual else legs

    def _move(self, postings: list[Posting], locked: bool) -> Effect:
        """What these postings do to wallets, one after the other; debits are of what is `locked`, else of available."""
        effect = Effect(postings=postings)
        for account, asset, amount in postings:
            if isinstance(account, str):
                continue
            key = (*account, asset)
            balance = effect.balances.get(key) or self.balances.get(key, Balance())
            if amount < 0 and locked:
                balance = balance._replace(locked=balance.locked + amount)
            else:
                balance = balance._replace(available=balance.available + amount)
            if amount < 0 and balance.available < 0 and not locked:
                return Effect("INSUFFICIENT_FUNDS")
            if amount > 0 and max(balance.available, balance.available + balance.locked) >= BOUND:
                effect.overflows = True
            effect.balances[key] = balance
        return effect

    # ---------------------------------------------------------------------------------------------- trades

    def exchange(self, m: dict[str, Any], notional: int, settles_at: int) -> Effect:
        """What a trade does to its wallet: never refused for want of funds.

        Reading: one that would bring a balance to 10^20, or move as much of cash, moves nothing; its settlement has
        failed.
        """
        wallet, sells, fee = (m["user_id"], m["wallet_id"]), m["side"] == "SELL", m["fee"]
        currency, asset, quantity = m["currency"], asset_of(m["symbol"], m["currency"]), m["quantity"]
        broker = "settlement:" + ("unspecified" if m["broker"] is None else m["broker"])
        cash = notional - fee if sells else -notional - fee
        money = [Posting(wallet, currency, cash), Posting("fees", currency, fee)]
        money.append(Posting(broker, currency, -notional if sells else notional))
        goods = [Posting(wallet, asset, -quantity if sells else quantity)]
        goods.append(Posting(broker, asset, quantity if sells else -quantity))
        legs = [leg for leg in ([*goods, *money] if sells else [*money, *goods]) if leg.amount]
        if self._wallet(wallet).is_virtual:
            legs = [leg._replace(account="virtual") if isinstance(leg.account, str) else leg for leg in legs]
        effect = Effect(postings=legs)
        waits = settles_at > m["executed_at"]
        locked_cash, locked_asset = notional if sells and waits else 0, quantity if waits and not sells else 0
        self._change(effect, (*wallet, currency), cash - locked_cash, locked_cash)
        self._change(effect, (*wallet, asset), goods[0].amount - locked_asset, locked_asset)
        if abs(cash) >= BOUND:
            effect.overflows = True
        return effect

    def _change(self, effect: Effect, key: Key, available: int, locked: int) -> None:
        """Add to a balance; a trade may bring it anywhere, but to 10^20 or −10^20."""
        before = effect.balances.get(key) or self.balances.get(key, Balance())
        after = Balance(before.available + available, before.locked + locked)
        if max(map(abs, (*after, after.available + after.locked))) >= BOUND:
            effect.overflows = True
        effect.balances[key] = after

    def settle(self, m: dict[str, Any], notional: int, settles_at: int, effect: Effect, source: Source) -> None:
        """Book an accepted trade; what it brought is locked until `settles_at`, when that lies ahead.

        Reading: it is a fact, so a closed wallet is open again.
        """
        asset, at = asset_of(m["symbol"], m["currency"]), timestamp(m["executed_at"])
        waits = settles_at > m["executed_at"] and not effect.overflows
        status = "FAILED" if effect.overflows else "PENDING" if waits else "SETTLED"
        event = {
            "settlement_id": f"{m['user_id']}/{m['trade_id']}",
            **{name: m[name] for name in ("trade_id", "user_id", "portfolio_id", "wallet_id", "broker", "symbol")},
            "side": m["side"],
            "asset": asset,
            "quantity": plain(m["quantity"]),
            "currency": m["currency"],
            "amount": plain(notional),
            "fee": plain(m["fee"]),
            "status": status,
            "settles_at": timestamp(settles_at if waits else m["executed_at"]),
            "occurred_at": at,
            **self._entry(source),
        }
        self.settlements.append(event)
        if effect.overflows:
            self.settled_postings.append((event, []))
            return
        key = m["user_id"], m["wallet_id"]
        wallet = self.wallets.setdefault(key, self._wallet(key))
        wallet.status = "OPEN"
        wallet.assets += [asset for _, _, asset in effect.balances if (*key, asset) not in self.balances]
        self.balances.update(effect.balances)
        if waits:
            sells = m["side"] == "SELL"
            locked = (*key, m["currency"] if sells else asset)
            memory = self._memory(source.partition)
            memory.put_down += 1
            waiting = Settling(settles_at, locked, notional if sells else m["quantity"], event)
            memory.settling[m["user_id"], memory.put_down] = waiting
        self.settled_postings.append((event, [posting.published() for posting in effect.postings]))
        for changed in effect.balances:
            self._note_change(changed, event["settlement_id"], at, source)

    def tick(self, timestamp_ms: int, source: Source) -> str:
        """The clock of a partition says what time it is: open holds that expire by then do."""
        memory, now = self._memory(source.partition), timestamp_ms * 1000
        due: list[tuple[int, int, Identity | Settling]] = [
            (each.expires_at or 0, each.number, identity) for identity, each in memory.expiring.items()
        ]
        due += [(each.at, number, each) for (_, number), each in memory.settling.items()]
        # at the same time in the order in which they were put down; so many at one tick
        happen = sorted((each for each in due if each[0] <= now), key=lambda each: each[:2])[:MOST_AT_ONCE]
        for at, number, what in happen:
            if isinstance(what, Settling):
                del memory.settling[what.balance[0], number]
                self._settle(what, source)
            else:
                self._expire(memory, what, at, source)
        return "applied" if happen else "ignored"

    def _expire(self, memory: Memory, identity: Identity, at: int, source: Source) -> None:
        hold, (user, name) = memory.found[identity], identity
        own = (user, hold.terms.wallet_id, hold.terms.asset)
        locked = hold.locked
        memory.advance(identity, hold, "CANCELLED")
        self._unlock(own, locked)
        m = {**hold.terms._asdict(), "transaction_id": name, "user_id": user, "occurred_at": at}
        self._note(m, own, "CANCELLED", Effect("EXPIRED"), source)

    def _settle(self, what: Settling, source: Source) -> None:
        self._unlock(what.balance, what.amount)
        at = timestamp(what.at)
        self.settlements.append({**what.event, "status": "SETTLED", "occurred_at": at, **self._entry(source)})
        self._note_change(what.balance, what.event["settlement_id"], at, source)

    def _unlock(self, key: Key, amount: int) -> None:
        balance = self.balances[key]
        self.balances[key] = Balance(balance.available + amount, balance.locked - amount)

    # Reading: what a receiver does is told under "SENDER/ID", what comes back to a sender under "SENDER/ID/returned".

    def take_transfer(self, m: dict[str, Any], source: Source) -> str:
        """Take a step of a transfer between users; none is rejected."""
        memory, step = self._memory(source.partition), m["step"]
        user, other, identity = m["user_id"], m["other_user_id"], m["transaction_id"]
        own, wallet = (user, m["wallet_id"], m["asset"]), (user, m["wallet_id"])
        effect, fee, kind = Effect(), 0, "TRANSFER" if step in ("CREDIT", "RETURN") else "REVERSAL"
        published = {"CREDIT": f"{other}/{identity}", "RETURN": f"{user}/{identity}/returned"}.get(step, identity)
        was = self._wallet(wallet)
        if step in ("CREDIT", "RETURN"):
            effect = self._arrive(wallet, m, 0)
            if step == "CREDIT" and (was.is_closed or was.is_virtual):
                effect = Effect("WALLET_CLOSED" if was.is_closed else "NOT_ALLOWED")
            if step == "RETURN" and (user, identity) in memory.found:
                memory.found[user, identity].reversed = True
            elif step == "CREDIT" and effect.code:
                refused = Transaction(Terms("", kind, m["asset"], m["amount"], 0, None, None, None, None), {"": b""})
                memory.advance((user, other, identity), refused, "FAILED")
                self._send("RETURN", m, (other, m["other_wallet_id"]), m["amount"], code=effect.code)
        elif step == "CLAIM":
            published = f"{other}/{identity}"
            legs = [Posting(wallet, m["asset"], -m["amount"]), Posting("transit", m["asset"], m["amount"])]
            refused_credit = (user, other, m["reverses"]) in memory.found
            effect = Effect("NOT_ALLOWED") if refused_credit else self._move(legs, False)
            effect = Effect("WALLET_CLOSED") if was.is_closed else effect
            terms = {"refund": m["refund"], "fee": m["fee"], "reverses": m["reverses"], "code": effect.code}
            self._send("DENY" if effect.code else "GRANT", m, (other, m["other_wallet_id"]), m["amount"], **terms)
        else:
            effect = Effect(m["code"]) if step == "DENY" else self._arrive(wallet, m, m["refund"])
            fee = m["fee"]
            reversal, original = memory.found.get((user, identity)), memory.found.get((user, m["reverses"]))
            if reversal and reversal.is_open:
                if original:
                    original.claimed, original.reversed = False, original.reversed or step == "GRANT"
                reversal.waits = False
                memory.advance((user, identity), reversal, "FAILED" if effect.code else "COMPLETED")
        if was.is_closed and effect.postings:
            # Reading: what comes back to a wallet that was closed opens it again.
            effect.wallet = replace(was, status="OPEN")
        self._enter({**m, "type": kind}, effect)
        self._set(own, effect)
        status = "FAILED" if effect.code else "COMPLETED"
        self._note({**m, "transaction_id": published, "type": kind, "fee": fee}, own, status, effect, source)
        return "applied"

    def _arrive(self, wallet: tuple[str, str], m: dict[str, Any], refund: int) -> Effect:
        """What comes out of transit, and a fee that comes back."""
        asset, amount = m["asset"], m["amount"]
        legs = (
            Posting(wallet, asset, amount + refund),
            Posting("fees", asset, -refund),
            Posting("transit", asset, -amount),
        )
        effect = self._move([leg for leg in legs if leg.amount], False)
        # Reading: what there is no room for stays in transit, when nobody is left to send it back to.
        return Effect("NOT_ALLOWED") if effect.overflows or amount + refund >= BOUND else effect

    def _claim(self, m: dict[str, Any], was: Terms) -> None:
        assert was.counterparty is not None
        self._send("CLAIM", m, was.counterparty, was.amount, refund=was.fee, fee=m["fee"], reverses=m["reverses"])

    def _send(self, step: str, m: dict[str, Any], to: tuple[str, str], amount: int, **fields: Any) -> None:
        """A message to another user's partition, of one that was taken."""
        amounts = {"amount": amount, "fee": 0, "refund": 0} | {
            k: v for k, v in fields.items() if k in ("fee", "refund")
        }
        self.sent.append(
            {
                "step": step,
                "transaction_id": m["transaction_id"],
                "user_id": to[0],
                "wallet_id": to[1],
                "other_user_id": m["user_id"],
                "other_wallet_id": m["wallet_id"],
                "asset": m["asset"],
                **{name: plain(value) for name, value in amounts.items()},
                "reverses": fields.get("reverses"),
                "code": fields.get("code"),
                "occurred_at": timestamp(m["occurred_at"]),
            }
        )

    def _note(self, m: dict[str, Any], own: Key, status: str, effect: Effect, source: Source) -> None:
        """The outcome, with the event's own balance, and another balance that changed."""
        at = timestamp(m["occurred_at"])
        self._told[own] += 1
        self.sequences.append(self._told[own])
        self.outcomes.append(
            {
                "transaction_id": m["transaction_id"],
                "user_id": m["user_id"],
                "wallet_id": m["wallet_id"],
                "type": m["type"],
                "asset": m["asset"],
                "amount": plain(m["amount"]),
                "fee": plain(m["fee"]),
                "status": status,
                "code": effect.code,
                "balance": self.balances[own].plain(),
                "postings": [posting.published() for posting in effect.postings],
                **self._told_of_wallet(m, effect),
                "occurred_at": at,
                **self._entry(source),
                **((effect.quote.published() if effect.quote else NO_QUOTE) if m["type"] == "CONVERSION" else {}),
            }
        )
        for key in (each for each in effect.balances if each != own):
            self._note_change(key, m["transaction_id"], at, source)

    def _entry(self, source: Source) -> dict[str, Any]:
        """The next entry of the journal of the cause's partition."""
        self._journals[source.partition] += 1
        return {"journal": self._journals[source.partition], "cause": source.cause()}

    def _note_change(self, key: Key, transaction_id: str, at: str, source: Source) -> None:
        self._told[key] += 1
        self.changes.append(
            {
                **dict(zip(("user_id", "wallet_id", "asset"), key, strict=True)),
                **self.balances[key].plain(),
                "sequence": self._told[key],
                "transaction_id": transaction_id,
                "occurred_at": at,
                "cause": source.cause(),
            }
        )

    def _told_of_wallet(self, m: dict[str, Any], effect: Effect) -> dict[str, Any]:
        """Of a wallet itself only its own events tell, and what opened a closed one again."""
        if m["type"] not in EVENTS and effect.wallet is None:
            return {}
        wallet = self.wallets[m["user_id"], m["wallet_id"]]
        kind = m["wallet_type"] if wallet.status == "" else wallet.type
        return {"wallet_type": kind, "resets": wallet.resets}
