"""The state of one partition as that of several, for `assetstream repartition`: the rows of each, and nothing of Kafka.

The new number of partitions is a multiple of the old one. Then all that a new partition gets comes from one old
partition, because a hash modulo the new number, modulo the old one, is the hash modulo the old one. On that rests:

- Remembered trade ids are hashes that don't tell their user, so each new partition keeps all that its old one
  remembered: more than it needs, and never less than the last ID_MEMORY of its own users'. Wallet events follow their
  balance, and what is due of them follows them.
- The marks that a partition took, in the order in which it took them, are those that its users' figures come from.
- The number of a user's (a symbol's) partition never falls: (partition, offset) still orders all of its messages.

A symbol that moves goes on at offset 0, so its mark is kept as one from before that: offset −1 of its new partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from assetstream.models.rows import HOLD_EXPIRES, SETTLES
from assetstream.models.state import PERSISTED, PRICE_PERSISTED, AccountState, PriceState
from assetstream.streams.batch_writer import partition_of
from assetstream.tables import changelog
from assetstream.tables.changelog import ChangelogError

#: rows of a state by table, in the order of its changelog
Rows = dict[str, np.ndarray]

#: fields that are numbers of strings
_NAMES = {
    "portfolios": ("user", "portfolio"),
    "positions": ("symbol", "currency"),
    "marks": ("symbol", "currency"),
    "wallets": ("user", "wallet", "currency"),
    "balances": ("asset",),
    "grants": ("asset",),
    "events": ("to_user", "to_wallet"),
    "settlements": ("symbol",),
    "prices": ("symbol", "currency"),
}
#: the first strings: the base currency and USD, wherever they are used
_FIRST = 2
#: "before the first record" of an input partition
_NONE = -1


class Misplaced(ChangelogError):
    """A user or a symbol is not in the partition that its key belongs to."""

    def __init__(self, key: str, found: int, belongs: int) -> None:
        super().__init__(
            f"{key} has state in partition {found} but belongs to {belongs}: a publisher does not use the partitioner "
            "of the Java client (librdkafka: partitioner=murmur2_random), so nobody can know where it will send it next"
        )


def split_accounts(state: AccountState, number: int, old: int, new: int) -> dict[int, Rows]:
    """The rows of account partition `number` of `old` as those of partitions of `new`, by their numbers.

    Raises Misplaced.
    """
    rows = _rows(state, PERSISTED)
    home = _homes(rows["strings"], new)
    for table in ("portfolios", "wallets"):
        _check_place(rows, rows[table]["user"], home, number, old)
    return {each: _account(rows, home, each, is_new=each != number) for each in range(number, new, old)}


def split_prices(state: PriceState, number: int, old: int, new: int) -> dict[int, Rows]:
    """The same of a price partition, by symbols."""
    rows = _rows(state, PRICE_PERSISTED)
    home = _homes(rows["strings"], new)
    _check_place(rows, rows["prices"]["symbol"], home, number, old)
    return {each: _prices(rows, home, each, is_new=each != number) for each in range(number, new, old)}


def anew(rows: Rows, checkpoint: int, partitions: int) -> list[bytes]:
    """The changelog records, of one checkpoint, with which a state begins anew as that of one of so many partitions."""
    sections = [
        (number, len(table), np.arange(len(table), dtype=np.uint32), table)
        for number, table in enumerate(rows.values())
        if len(table)
    ]
    layout = changelog.fingerprint([table.dtype for table in rows.values()])
    return changelog.encode(checkpoint, layout, sections, sweep_starts=True, starts_anew=True, partitions=partitions)


def _rows(state: Any, names: Mapping[str, np.dtype]) -> Rows:
    return {name: (table := getattr(state, name)).rows[: table.count[0]] for name in names}


def _homes(strings: np.ndarray, partitions: int) -> np.ndarray:
    """The partition that each string belongs to, as a key."""
    texts = (row.tobytes().rstrip(b"\0") for row in strings["text"])
    return np.fromiter((partition_of(text, partitions) for text in texts), np.int64, len(strings))


def _check_place(rows: Rows, keys: np.ndarray, home: np.ndarray, number: int, old: int) -> None:
    wrong = keys[home[keys] % old != number]
    if len(wrong):
        key = rows["strings"]["text"][wrong[0]].tobytes().rstrip(b"\0").decode()
        raise Misplaced(key, number, int(home[wrong[0]]) % old)


def _account(rows: Rows, home: np.ndarray, number: int, is_new: bool) -> Rows:
    made = rows.copy()
    portfolio, made["portfolios"] = _kept(rows["portfolios"], home[rows["portfolios"]["user"]] == number)
    made["positions"] = _following(rows["positions"], "portfolio", portfolio)
    wallet, made["wallets"] = _kept(rows["wallets"], home[rows["wallets"]["user"]] == number)
    balance, made["balances"] = _kept(rows["balances"], wallet[rows["balances"]["wallet"]] >= 0)
    made["balances"]["wallet"] = wallet[made["balances"]["wallet"]]
    grant, made["grants"] = _kept(rows["grants"], wallet[rows["grants"]["wallet"]] >= 0)
    made["grants"]["wallet"] = wallet[made["grants"]["wallet"]]
    has_grants = made["wallets"]["room"] > 0
    made["wallets"]["first_grant"][has_grants] = grant[made["wallets"]["first_grant"][has_grants]]
    event, made["events"] = _events(rows, balance)
    settlement, made["settlements"] = _settlements(rows, balance, portfolio)
    due, made["agenda"] = _agenda(rows, event, settlement)
    _renumber(made["events"], "due", due)
    made["heads"] = rows["heads"].copy()
    made["heads"]["free"] = 0  # no row is
    made["marks"] = marks = rows["marks"].copy()
    moved = marks["cause_partition"] != home[marks["symbol"]]
    marks["cause_partition"][moved] = home[marks["symbol"][moved]]
    marks["cause_offset"][moved] = _NONE
    return _finished(made, is_new)


def _events(rows: Rows, balance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wallet events whose balances stay; no free rows."""
    events = rows["events"]
    stays = events["seen"] != 0
    stays[stays] = balance[events["balance"][stays]] >= 0
    event, events = _kept(events, stays)
    for field in ("balance", "other"):
        _renumber(events, field, balance)
    return event, events


def _settlements(rows: Rows, balance: np.ndarray, portfolio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Settlements whose balances stay; no free rows."""
    settlements = rows["settlements"]
    stays = settlements["is_open"] != 0
    stays[stays] = balance[settlements["cash"][stays]] >= 0
    settlement, settlements = _kept(settlements, stays)
    for field, number in (("cash", balance), ("asset", balance), ("portfolio", portfolio)):
        settlements[field] = number[settlements[field]]
    return settlement, settlements


def _agenda(rows: Rows, event: np.ndarray, settlement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is due of those that stay; no free rows."""
    agenda, stays = rows["agenda"], np.zeros(len(rows["agenda"]), np.bool_)
    number = {HOLD_EXPIRES: event, SETTLES: settlement}
    for kind, kept in number.items():
        of = agenda["kind"] == kind
        stays[of] = kept[agenda["about"][of]] >= 0
    due, agenda = _kept(agenda, stays)
    for kind, kept in number.items():
        of = agenda["kind"] == kind
        agenda["about"][of] = kept[agenda["about"][of]]
    return due, agenda


def _renumber(rows: np.ndarray, field: str, number: np.ndarray) -> None:
    """A field that may name no row, −1."""
    has = rows[field] >= 0
    rows[field][has] = number[rows[field][has]]


def _prices(rows: Rows, home: np.ndarray, number: int, is_new: bool) -> Rows:
    made = rows.copy()
    _, made["prices"] = _kept(rows["prices"], home[rows["prices"]["symbol"]] == number)
    if is_new:
        made["prices"]["offset"] = _NONE
    return _finished(made, is_new)


def _finished(rows: Rows, is_new: bool) -> Rows:
    """With the strings that are still used; a new partition has applied nothing."""
    if is_new:
        rows["applied"] = rows["applied"].copy()
        rows["applied"]["offset"] = _NONE
    tables = {name: rows[name].copy() for name in _NAMES if name in rows}
    used = np.arange(len(rows["strings"])) < _FIRST
    columns = [tables[name][field] for name in tables for field in _NAMES[name]]
    for column in columns:
        used[column[column >= 0]] = True
    number, strings = _kept(rows["strings"], used)
    for column in columns:
        column[column >= 0] = number[column[column >= 0]]
    return {**rows, **tables, "strings": strings}


def _kept(table: np.ndarray, keep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the new number of each row, −1: gone; the rows that stay), in their order."""
    return np.where(keep, np.cumsum(keep) - 1, -1), table[keep]


def _following(table: np.ndarray, field: str, number: np.ndarray) -> np.ndarray:
    """The rows whose `field`, the number of a row elsewhere, is one that stays."""
    kept = table[number[table[field]] >= 0]
    kept[field] = number[kept[field]]
    return kept
