"""Reconciliation: what differs between a broker's statement and us, and the life of each difference.

Pure, and exact: `Decimal`s that are compared, and subtracted without rounding. `differences` matches the two sides,
`judge` turns what differs into breaks, in the light of the breaks that stand.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal
from typing import NamedTuple
from urllib.parse import quote

from assetstream.models.messages import (
    BreakDecision,
    BreakStatus,
    BreakType,
    BrokerStatement,
    Cause,
    ReconciliationBreak,
    StatedTrade,
    Symbol,
)

#: sums and differences of decimals of 18 decimals below 10^20, as many as there may ever be, are exact in it
EXACT = Context(prec=100)
ZERO = Decimal(0)

TRADE_TYPES = frozenset(
    {
        BreakType.MISSING_TRADE,
        BreakType.UNKNOWN_TRADE,
        BreakType.QUANTITY_MISMATCH,
        BreakType.PRICE_MISMATCH,
        BreakType.FEE_MISMATCH,
    }
)


class Tolerances(NamedTuple):
    """How far two sides of a trade may be apart and still agree; exact but for the time, by default."""

    quantity: Decimal = ZERO
    price: Decimal = ZERO
    time: timedelta = timedelta(seconds=60)


@dataclass(frozen=True)
class Ours:
    """Our side of an account. What the broker doesn't speak of may be there: it is left out.

    trades: those of the period, and those whose ids the statement names; positions: quantity by symbol, and balances:
    total by (wallet_id, asset), at the end of the period.
    """

    trades: Sequence[StatedTrade] = ()
    positions: Mapping[Symbol, Decimal] = field(default_factory=dict)
    balances: Mapping[tuple[str, str], Decimal] = field(default_factory=dict)


class Account(NamedTuple):
    """Whose breaks they are. broker None: between two accounts of our own."""

    broker: str | None
    user_id: str
    portfolio_id: str | None = None

    def break_id(self, type_: BreakType, subject: str) -> str:
        """`broker/user/portfolio/type/subject`: one difference has one id, however often and by whatever it is found.

        Only the subject may have slashes: those of the broker's name are written as %2F.
        """
        broker = "internal" if self.broker is None else quote(self.broker, safe=" ")
        return f"{broker}/{self.user_id}/{self.portfolio_id or '*'}/{type_}/{subject}"


@dataclass(frozen=True)
class Difference:
    """What the two sides say of one subject. about: the trade's time, the end of the period, or when it was looked."""

    type: BreakType
    subject: str
    about: datetime
    statement_value: Decimal | None
    our_value: Decimal | None
    statement_trade: StatedTrade | None = None
    our_trade: StatedTrade | None = None

    @property
    def value(self) -> Decimal:
        """Statement − ours, exactly; what one side lacks is 0."""
        return EXACT.subtract(self.statement_value or ZERO, self.our_value or ZERO)


# ------------------------------------------------------------------------------------------------------ matching


def matched(
    stated: Sequence[StatedTrade],
    ours: Sequence[StatedTrade],
    is_in_period: Callable[[StatedTrade], bool],
    by: Tolerances,
) -> list[tuple[StatedTrade, StatedTrade]]:
    """Pairs (stated, ours), one to one: those of the same id, then, of the period's others, the closest.

    Either way symbol and side are the same, and the currency, if it is stated. Without the same id quantity, price and
    time must be within the tolerances; the closest in time go together first, then in price, then in quantity, then by
    the order of the ids.
    """
    of_id = {trade.trade_id: trade for trade in ours}
    pairs = [(trade, of_id[trade.trade_id]) for trade in stated if _is_alike(trade, of_id.get(trade.trade_id))]
    taken = {trade.trade_id for trade, _ in pairs}
    left = [trade for trade in stated if trade.trade_id not in taken]
    others = [trade for trade in ours if trade.trade_id not in taken and is_in_period(trade)]
    near = sorted(_near(left, others, by), key=lambda each: each[0])
    stated_taken, ours_taken = set[str](), set[str]()
    for _, theirs, own in near:
        if theirs.trade_id not in stated_taken and own.trade_id not in ours_taken:
            stated_taken.add(theirs.trade_id)
            ours_taken.add(own.trade_id)
            pairs.append((theirs, own))
    return pairs


def _is_alike(stated: StatedTrade, own: StatedTrade | None) -> bool:
    return (
        own is not None
        and (stated.symbol, stated.side) == (own.symbol, own.side)
        and stated.currency in (None, own.currency)
    )


#: how far apart two trades are: in time, price and quantity, then their ids
Distance = tuple[timedelta, Decimal, Decimal, str, str]


def _near(
    stated: Sequence[StatedTrade], ours: Sequence[StatedTrade], by: Tolerances
) -> Iterator[tuple[Distance, StatedTrade, StatedTrade]]:
    kinds: dict[tuple[str, str], list[StatedTrade]] = defaultdict(list)
    for own in sorted(ours, key=lambda trade: trade.executed_at):
        kinds[own.symbol, own.side].append(own)
    for trade in stated:
        own_kind = kinds.get((trade.symbol, trade.side), [])
        first = bisect_left(own_kind, trade.executed_at - by.time, key=lambda own: own.executed_at)
        last = bisect_right(own_kind, trade.executed_at + by.time, key=lambda own: own.executed_at)
        for own in own_kind[first:last]:
            time = abs(trade.executed_at - own.executed_at)
            price, quantity = _apart(trade.price, own.price), _apart(trade.quantity, own.quantity)
            if price <= by.price and quantity <= by.quantity and _is_alike(trade, own):
                yield (time, price, quantity, trade.trade_id, own.trade_id), trade, own


def _apart(one: Decimal, other: Decimal) -> Decimal:
    return EXACT.abs(EXACT.subtract(one, other))


# ---------------------------------------------------------------------------------------------------- differences


def differences(statement: BrokerStatement, ours: Ours, by: Tolerances) -> list[Difference]:
    """All that differs between a statement and us, in no particular order."""
    return [*_trades(statement, ours, by), *_positions(statement, ours), *_balances(statement, ours)]


def _trades(statement: BrokerStatement, ours: Ours, by: Tolerances) -> Iterator[Difference]:
    if statement.trades is None:
        return

    def is_in_period(trade: StatedTrade) -> bool:
        return statement.period_start <= trade.executed_at < statement.period_end

    pairs = matched(statement.trades, ours.trades, is_in_period, by)
    for theirs, own in pairs:
        yield from _of_pair(theirs, own, by)
    stated, known = {theirs.trade_id for theirs, _ in pairs}, {own.trade_id for _, own in pairs}
    for trade in statement.trades:
        if trade.trade_id not in stated:
            told = BreakType.MISSING_TRADE, trade.trade_id, trade.executed_at
            yield Difference(*told, trade.quantity, None, trade, None)
    for trade in ours.trades:
        if trade.trade_id not in known and is_in_period(trade):
            told = BreakType.UNKNOWN_TRADE, trade.trade_id, trade.executed_at
            yield Difference(*told, None, trade.quantity, None, trade)


def _of_pair(theirs: StatedTrade, own: StatedTrade, by: Tolerances) -> Iterator[Difference]:
    values = (
        (BreakType.QUANTITY_MISMATCH, theirs.quantity, own.quantity, by.quantity),
        (BreakType.PRICE_MISMATCH, theirs.price, own.price, by.price),
        (BreakType.FEE_MISMATCH, theirs.fee, own.fee or ZERO, ZERO),
    )
    for type_, stated, known, tolerance in values:
        if stated is not None and _apart(stated, known) > tolerance:
            yield Difference(type_, theirs.trade_id, theirs.executed_at, stated, known, theirs, own)


def _positions(statement: BrokerStatement, ours: Ours) -> Iterator[Difference]:
    stated = {position.symbol: position.quantity for position in statement.positions or ()}
    judged = stated.keys() | (ours.positions.keys() if _has_all_positions(statement) else set())
    for symbol in judged:
        theirs, own = stated.get(symbol, ZERO), ours.positions.get(symbol, ZERO)
        if theirs != own:
            yield Difference(BreakType.POSITION_MISMATCH, symbol, statement.period_end, theirs, own)


def _has_all_positions(statement: BrokerStatement) -> bool:
    return statement.positions is not None and statement.positions_complete


def _balances(statement: BrokerStatement, ours: Ours) -> Iterator[Difference]:
    for stated in statement.balances or ():
        own = ours.balances.get((stated.wallet_id, stated.asset), ZERO)
        if stated.total != own:
            subject = f"{stated.wallet_id}/{stated.asset}"
            yield Difference(BreakType.BALANCE_MISMATCH, subject, statement.period_end, stated.total, own)


def _scope(statement: BrokerStatement) -> Callable[[ReconciliationBreak], bool]:
    """Whether a statement speaks of what a break is about: if it doesn't find it any more, it is gone."""
    symbols = {position.symbol for position in statement.positions or ()}
    balances = {f"{balance.wallet_id}/{balance.asset}" for balance in statement.balances or ()}

    def is_judged(standing: ReconciliationBreak) -> bool:
        if standing.type in TRADE_TYPES:
            return statement.trades is not None and statement.period_start <= standing.about < statement.period_end
        if standing.about > statement.period_end:
            return False
        if standing.type is BreakType.POSITION_MISMATCH:
            return standing.subject in symbols or _has_all_positions(statement)
        return standing.subject in balances

    return is_judged


# ---------------------------------------------------------------------------------------------------------- lives


class Judgement(NamedTuple):
    """found: every break that is there, as it stands now; changed: what is to be told of them, and of those that are
    gone; raised: those of them that are OPEN and were not before.
    """

    found: list[ReconciliationBreak]
    changed: list[ReconciliationBreak]
    raised: list[ReconciliationBreak]


class Judge(NamedTuple):
    """Who says so, when, of which time, and by which record."""

    name: str
    at: datetime
    about: datetime
    cause: Cause | None = None
    statement_id: str | None = None
    statement_version: int | None = None


def account_of(statement: BrokerStatement) -> Account:
    """Whose statement it is. Only breaks of exactly this account are judged by it."""
    return Account(statement.broker, statement.user_id, statement.portfolio_id)


def judge(
    statement: BrokerStatement,
    ours: Ours,
    standing: Iterable[ReconciliationBreak],
    by: Tolerances,
    at: datetime,
    cause: Cause | None = None,
) -> Judgement:
    """A statement's breaks, and what becomes of the `standing` ones (the latest of each break of the account)."""
    name = f"statement {statement.statement_id} version {statement.version}"
    who = Judge(name, at, statement.period_end, cause, statement.statement_id, statement.version)
    account, known = account_of(statement), {each.break_id: each for each in standing}
    found = {account.break_id(each.type, each.subject): (account, each) for each in differences(statement, ours, by)}
    return _lives(found, known, _scope(statement), who)


def judge_internal(
    found: Mapping[str, Sequence[Difference]], standing: Iterable[ReconciliationBreak], at: datetime
) -> Judgement:
    """The breaks between accounts of our own, by user; all that stand and are not found are gone."""
    by_id = {
        account.break_id(each.type, each.subject): (account, each)
        for account, all_of in ((Account(None, user), all_of) for user, all_of in found.items())
        for each in all_of
    }
    return _lives(by_id, {each.break_id: each for each in standing}, lambda each: True, Judge("reconciler", at, at))


def _lives(
    found: Mapping[str, tuple[Account, Difference]],
    standing: Mapping[str, ReconciliationBreak],
    is_judged: Callable[[ReconciliationBreak], bool],
    who: Judge,
) -> Judgement:
    there, changed, raised = [], [], []
    for break_id, (account, each) in sorted(found.items()):
        old = standing.get(break_id)
        if old is not None and not _is_news(old, each):
            if old.status is not BreakStatus.RESOLVED:
                there.append(old)
            continue
        now = _found(break_id, account, each, old, who)
        there.append(now)
        changed.append(now)
        if now.status is BreakStatus.OPEN and (old is None or old.status is not BreakStatus.OPEN):
            raised.append(now)
    for break_id, old in sorted(standing.items()):
        if break_id not in found and old.status is not BreakStatus.RESOLVED and is_judged(old):
            changed.append(_gone(old, who))
    return Judgement(there, changed, raised)


def _is_news(old: ReconciliationBreak, now: Difference) -> bool:
    """Of positions and balances the latest time counts: an older statement has nothing to say. (Of a trade the time is
    always the trade's.)
    """
    if now.type not in TRADE_TYPES and now.about < old.about:
        return False
    before = (old.statement_value, old.our_value, old.statement_trade, old.our_trade, old.about)
    is_same = before == (now.statement_value, now.our_value, now.statement_trade, now.our_trade, now.about)
    return old.status is BreakStatus.RESOLVED or not is_same


def _found(
    break_id: str, account: Account, each: Difference, old: ReconciliationBreak | None, who: Judge
) -> ReconciliationBreak:
    """OPEN, unless it stands already: an explanation holds for as long as the difference is the explained one."""
    stays = old is not None and old.status is not BreakStatus.RESOLVED
    is_explained = old is not None and old.status is BreakStatus.EXPLAINED and old.difference == each.value
    return ReconciliationBreak(
        break_id=break_id,
        sequence=old.sequence + 1 if old else 1,
        type=each.type,
        status=BreakStatus.EXPLAINED if is_explained else BreakStatus.OPEN,
        **account._asdict(),
        subject=each.subject,
        statement_value=each.statement_value,
        our_value=each.our_value,
        difference=each.value,
        statement_trade=each.statement_trade,
        our_trade=each.our_trade,
        about=each.about,
        statement_id=who.statement_id,
        statement_version=who.statement_version,
        opened_at=old.opened_at if old and stays else who.at,
        changed_at=who.at,
        decided_by=old.decided_by if old and is_explained else who.name,
        reason=old.reason if old and is_explained else None,
        cause=who.cause,
    )


def _gone(old: ReconciliationBreak, who: Judge) -> ReconciliationBreak:
    return old.model_copy(
        update={
            "sequence": old.sequence + 1,
            "status": BreakStatus.RESOLVED,
            "changed_at": who.at,
            "about": old.about if old.type in TRADE_TYPES else who.about,
            "decided_by": who.name,
            "reason": "it is no longer found",
            "cause": who.cause,
        }
    )


def decided(
    standing: ReconciliationBreak, decision: BreakDecision, at: datetime, cause: Cause
) -> ReconciliationBreak | None:
    """What somebody's decision makes of a break; None when it may not be decided: RESOLVED is the end, until it is
    found anew.
    """
    if standing.status is BreakStatus.RESOLVED:
        return None
    return standing.model_copy(
        update={
            "sequence": standing.sequence + 1,
            "status": decision.status,
            "changed_at": at,
            "decided_by": decision.by,
            "reason": decision.reason,
            "cause": cause,
        }
    )
