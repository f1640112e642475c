"""Wallets of the reference model: section 5 of docs/interface.md, one event at a time.

A *transaction* is all that is said under one (user_id, transaction_id): PENDING, PROCESSING, then one final status.
Money is an int in units of 10^-18; "Reading:" as in `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from assetstream.models.reference_reading import BOUND, Rejected, Source, body_of, plain, times, timestamp

OPEN = ("PENDING", "PROCESSING")
#: a transaction's status only grows
STEPS = {"PENDING": 1, "PROCESSING": 2, "COMPLETED": 3, "FAILED": 3, "CANCELLED": 3}
#: what they will take is locked while they are open
LOCKING = ("WITHDRAWAL", "TRANSFER", "CONVERSION", "HOLD")

#: (user, transaction id)
Identity = tuple[str, str]
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


class Posting(NamedTuple):
    """One leg of a double entry; the account of a wallet is (user, wallet)."""

    account: str | tuple[str, str]
    asset: str
    amount: int

    def opposite(self) -> Posting:
        return self._replace(amount=-self.amount)

    def published(self) -> dict[str, str]:
        account = self.account if isinstance(self.account, str) else "wallet:" + "/".join(self.account)
        return {"account": account, "asset": self.asset, "amount": plain(self.amount)}


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

    @property
    def locks(self) -> int:
        """What is put aside while the transaction is open."""
        if self.type not in LOCKING:
            return 0
        return self.amount if self.type == "HOLD" else self.amount + self.fee

    def postings(self, user_id: str, payment_method: str | None) -> list[Posting]:
        """What COMPLETED moves (a REVERSAL's are its original's); sums to zero per asset, wallets' debits come first.

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
            other = self.counterparty
            legs = [Posting(own, asset, -amount - fee), Posting("fees", asset, fee), Posting(other, asset, amount)]
        elif self.type == "CONVERSION":
            assert self.to_asset is not None
            assert self.rate is not None
            arrives = times(amount, self.rate)
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
    reversed: bool = False

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def locked(self) -> int:
        """What it holds locked: an open one that couldn't lock was refused, and isn't open."""
        return self.terms.locks if self.is_open else 0


class Memory:
    """The transactions that one partition remembers: all that are open, and the `size` that became final last."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[Identity, Transaction] = {}
        self._final: dict[Identity, None] = {}  # in the order in which they became final

    def advance(self, identity: Identity, transaction: Transaction, status: str) -> None:
        """A transaction, which may be a new one, has another status."""
        self.found[identity] = transaction
        transaction.status = status
        if transaction.is_open:
            return
        self._final[identity] = None
        if len(self._final) > self.size:
            forgotten = next(iter(self._final))
            del self._final[forgotten], self.found[forgotten]

    def of(self, keep: Callable[[str], bool]) -> Memory:
        """The memory of some of its users."""
        part = Memory(self.size)
        part.found = {identity: each for identity, each in self.found.items() if keep(identity[0])}
        part._final = {identity: None for identity in self._final if keep(identity[0])}
        return part


@dataclass(eq=False)
class Effect:
    """What an event would do: `balances` as they would be, or a `code` why nothing."""

    code: str | None = None
    balances: dict[Key, Balance] = field(default_factory=dict)
    postings: list[Posting] = field(default_factory=list)
    reverses: Transaction | None = None
    #: a credit would reach 10^20
    overflows: bool = False


class Ledger:
    """All wallets, and what each partition remembers; `id_memory` final transactions in each."""

    def __init__(self, id_memory: int) -> None:
        self.id_memory = id_memory
        self.balances: dict[Key, Balance] = {}
        self.outcomes: list[dict[str, Any]] = []
        self.changes: list[dict[str, Any]] = []
        self._memories: dict[int, Memory] = {}

    def transactions(self, partition: int) -> dict[Identity, Transaction]:
        """Those that a partition remembers."""
        return self._memory(partition).found

    def split(self, partition: int, home: Callable[[str], int]) -> None:
        """Partitions were added: what one remembered goes with its users, home(user_id)."""
        whole = self._memory(partition)
        for number in {home(user) for user, _ in whole.found} | {partition}:
            self._memories[number] = whole.of(lambda user, number=number: home(user) == number)  # type: ignore[misc]

    def take(self, m: dict[str, Any], source: Source) -> str:
        """Take an event that was read: applied or duplicate; raises Rejected, and then nothing has changed."""
        memory = self._memory(source.partition)
        identity, status, body = (m["user_id"], m["transaction_id"]), m["status"], body_of(m)
        terms = Terms(*(m[name] for name in Terms._fields))
        known = memory.found.get(identity)
        if known and known.bodies.get(status) == body:
            return "duplicate"
        effect = self._effect(m, terms, known, memory)
        if effect.overflows and effect.code is None:
            raise Rejected("out_of_range", "amount: a balance of 10^20 or more")
        if known and (status in known.bodies or terms != known.terms):
            raise Rejected("conflict", "transaction_id: seen before with another body")
        if known and STEPS[status] <= STEPS[known.status]:
            raise Rejected("illegal_transition", f"status: {status} after {known.status}")

        if known is None:
            known = Transaction(terms)
        known.bodies[status] = body
        known.payment_method = m["payment_method"]
        memory.advance(identity, known, "FAILED" if effect.code else status)
        if effect.reverses:
            effect.reverses.reversed = True
        own = (m["user_id"], m["wallet_id"], m["asset"])
        self.balances.setdefault(own, Balance())
        self.balances.update(effect.balances)
        self._note(m, own, known.status, effect, source)
        return "applied"

    def _memory(self, partition: int) -> Memory:
        return self._memories.setdefault(partition, Memory(self.id_memory))

    def _effect(self, m: dict[str, Any], terms: Terms, known: Transaction | None, memory: Memory) -> Effect:
        """What an event would do, were it accepted."""
        status, kind, user = m["status"], m["type"], m["user_id"]
        locked = known.locked if known else 0
        if status == "COMPLETED" and kind == "REVERSAL":
            original = memory.found.get((user, m["reverses"]))
            if original is None or original.status != "COMPLETED" or original.terms.type == "REVERSAL":
                return Effect("UNKNOWN_REFERENCE")
            if original.reversed:
                return Effect("ALREADY_REVERSED")
            was = original.terms
            if (m["asset"], m["amount"], m["wallet_id"]) != (was.asset, abs(was.amount), was.wallet_id):
                return Effect("NOT_ALLOWED")
            legs = [leg.opposite() for leg in was.postings(user, original.payment_method)]
            # Reading: a lock serves what locked it, so a reversal takes of what is available.
            effect = self._move(legs, False)
            effect.reverses = None if effect.code else original
            return effect
        if status == "COMPLETED" and kind != "HOLD":
            return self._move(terms.postings(user, m["payment_method"]), locked > 0)
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

    def _note(self, m: dict[str, Any], own: Key, status: str, effect: Effect, source: Source) -> None:
        """The outcome, with the event's own balance, and another balance that changed."""
        at, cause = timestamp(m["occurred_at"]), source.cause()
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
                "occurred_at": at,
                "cause": cause,
            }
        )
        self.changes += [
            {
                **dict(zip(("user_id", "wallet_id", "asset"), key, strict=True)),
                **self.balances[key].plain(),
                "transaction_id": m["transaction_id"],
                "occurred_at": at,
                "cause": cause,
            }
            for key in effect.balances
            if key != own
        ]
