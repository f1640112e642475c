"""The state of every partition as its changelog has it, and what its rows say in the words of the interface."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import KafkaError, KafkaException

from assetstream.models import state as kernel_states
from assetstream.models.messages import WalletType, codes
from assetstream.models.reference import LIMITS, OK, Price, Source
from assetstream.models.rows import HAS_ASSET_LIMIT, HOLD_EXPIRES, NO_VERSION, TRADED
from assetstream.streams import topics
from assetstream.streams.settings import Settings
from assetstream.tables.restore import Progress, restore
from assetstream.tables.snapshot import Snapshot
from assetstream.tables.store import Store

#: a worker may sweep the log's start away while it is read: then it is read again
ATTEMPTS = 5
#: the rules of a portfolio, in the order of a row's `levels`: type/subject and the limit's name
RULES = (
    ("EXPOSURE_LIMIT/-", "max_portfolio_value"),
    ("LOSS_LIMIT/total", "max_total_loss"),
    ("LOSS_LIMIT/daily", "max_daily_loss"),
    ("LOSS_LIMIT/weekly", "max_weekly_loss"),
)


def digest(value: bytes) -> bytes:
    """Stands for a record's bytes."""
    return blake2b(value, digest_size=16).digest()


class Witness(Snapshot):
    """Remembers which changelog records went by, instead of keeping them: `digests` by offset."""

    def __init__(self) -> None:
        self.position = 0
        self.digests: dict[int, bytes] = {}

    def records(self) -> Iterator[tuple[int, bytes]]:
        """None are kept."""
        return iter(())

    def append(self, records: Any, position: int, first: int | None = None) -> None:
        """These records went by."""
        self.digests.update((offset, digest(value)) for offset, value in records)

    def clear(self) -> None:
        """Forget all."""
        self.digests.clear()


class Changelogs:
    """The state of all partitions, at the committed end of the changelogs as it is whenever `catch_up` is called."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        base = settings.base_currency.encode()
        new = {
            topics.ACCOUNT_CHANGELOG: lambda: kernel_states.new_account_state(base, settings.id_memory),
            topics.PRICE_CHANGELOG: kernel_states.new_price_state,
        }
        persisted = {
            topics.ACCOUNT_CHANGELOG: tuple(kernel_states.PERSISTED),
            topics.PRICE_CHANGELOG: tuple(kernel_states.PRICE_PERSISTED),
        }
        partitions = range(settings.partitions)
        # Only rows are looked at: nothing is derived from them by the code that is audited.
        self.stores = {
            name: {p: Store(new[name], persisted[name], rebuild=lambda state: state) for p in partitions}
            for name in new
        }
        self.witnesses = {name: {p: Witness() for p in partitions} for name in new}

    def catch_up(self) -> None:
        """Apply what was committed since the last time. Blocks; raises ChangelogError, KafkaException."""
        for name, stores in self.stores.items():
            for attempt in range(ATTEMPTS):
                try:
                    restore(
                        self._settings,
                        self._settings.topic(name),
                        stores,
                        self.witnesses[name],
                        lambda: True,
                        Progress(),
                    )
                    break
                except KafkaException as error:
                    swept = error.args[0].code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
                    if not swept or attempt == ATTEMPTS - 1:
                        raise

    def accounts(self) -> dict[int, Account]:
        """What each account partition says now."""
        return {p: Account(store.state) for p, store in self.stores[topics.ACCOUNT_CHANGELOG].items()}

    def prices(self) -> dict[int, Prices]:
        """What each price partition says now."""
        return {p: Prices(store.state) for p, store in self.stores[topics.PRICE_CHANGELOG].items()}


class Level(NamedTuple):
    """What a rule's subject came to, and by how many alerts."""

    level: int
    changes: int


class _Rows:
    """A copy of a partition's rows: the store goes on without it."""

    def __init__(self, state: Any, names: tuple[str, ...], inputs: tuple[str, ...]) -> None:
        tables = {name: getattr(state, name) for name in names}
        self.rows = {name: table.rows[: table.count[0]].copy() for name, table in tables.items()}
        self.strings = [each.decode() for each in self.rows["strings"].view("S64").tolist()]
        #: by input (plain name): the last offset in this state, -1: none
        self.applied = dict(zip(inputs, self.rows["applied"]["offset"].tolist(), strict=True))

    def units(self, table: str, name: str) -> list[int]:
        """A decimal column in units of 10^-18."""
        return units(self.rows[table], name)

    def texts(self, table: str, name: str) -> list[str]:
        """A column of interned strings."""
        return [self.strings[number] for number in self.rows[table][name].tolist()]

    def column(self, table: str, name: str) -> list[Any]:
        """Any other column."""
        return list(self.rows[table][name].tolist())


def units(rows: np.ndarray, name: str) -> list[int]:
    """A decimal column, two limbs a row, as whole numbers."""
    return [hi << 64 | lo for lo, hi in zip(rows[f"{name}_lo"].tolist(), rows[f"{name}_hi"].tolist(), strict=True)]


class Prices(_Rows):
    """A price partition."""

    def __init__(self, state: Any) -> None:
        super().__init__(state, tuple(kernel_states.PRICE_PERSISTED), ("prices",))

    def latest(self) -> dict[str, dict[str, Any]]:
        """Each symbol's latest accepted price."""
        columns = zip(
            self.texts("prices", "symbol"),
            self.units("prices", "price"),
            self.texts("prices", "currency"),
            self.column("prices", "as_of"),
            self.column("prices", "offset"),
            strict=True,
        )
        names = ("symbol", "price", "currency", "as_of", "offset")
        return {values[0]: dict(zip(names, values, strict=True)) for values in columns}


class Account(_Rows):
    """An account partition. Amounts in units of 10^-18, times in microseconds UTC."""

    def __init__(self, state: Any) -> None:
        super().__init__(state, tuple(kernel_states.PERSISTED), topics.ACCOUNT_INPUTS)
        self.base_currency = self.strings[0]
        self._portfolios = list(
            zip(self.texts("portfolios", "user"), self.texts("portfolios", "portfolio"), strict=True)
        )

    def users(self) -> set[str]:
        """Everybody who has a portfolio or a wallet here."""
        return {user for user, _ in self._portfolios} | set(self.texts("wallets", "user"))

    def _position_keys(self) -> list[tuple[str, str, str]]:
        owners = self.column("positions", "portfolio")
        symbols = self.texts("positions", "symbol")
        return [(*self._portfolios[owner], symbol) for owner, symbol in zip(owners, symbols, strict=True)]

    def positions(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """By (user, portfolio, symbol), those that were ever traded."""
        amounts = ("quantity", "cost_basis", "realized_pnl", "fees", "last_price")
        currencies = self.column("positions", "currency")
        columns = zip(
            self._position_keys(),
            self.column("positions", "flags"),
            [self.strings[number] if number >= 0 else None for number in currencies],
            self.column("positions", "last_trade_at"),
            *(self.units("positions", name) for name in amounts),
            strict=True,
        )
        names = ("currency", "last_trade_at", *amounts)
        return {key: dict(zip(names, values, strict=True)) for key, flags, *values in columns if flags & TRADED}

    def balances(self) -> dict[tuple[str, str, str], tuple[int, int]]:
        """By (user, wallet, asset): available, locked."""
        users, wallets = self.texts("wallets", "user"), self.texts("wallets", "wallet")
        columns = zip(
            self.column("balances", "wallet"),
            self.texts("balances", "asset"),
            self.units("balances", "available"),
            self.units("balances", "locked"),
            strict=True,
        )
        return {
            (users[wallet], wallets[wallet], asset): (available, locked) for wallet, asset, available, locked in columns
        }

    def due(self) -> dict[tuple[str, ...], int]:
        """By (user, transaction): when a hold that is open expires."""
        agenda = self.rows["agenda"]
        agenda = agenda[agenda["kind"] == HOLD_EXPIRES]
        events, users = self.rows["events"][agenda["about"]], self.texts("wallets", "user")
        wallets = self.rows["balances"]["wallet"][events["balance"]].tolist()
        ids = [row.tobytes().rstrip(b"\0").decode() for row in agenda["text"]]
        return {(users[w], name): at for w, name, at in zip(wallets, ids, agenda["at"].tolist(), strict=True)}

    def wallets(self) -> dict[tuple[str, str], dict[str, Any]]:
        """By (user, wallet): type, currency, status ("": not opened yet), resets, and what it begins with."""
        grants = list(zip(self.texts("grants", "asset"), self.units("grants", "amount"), strict=True))
        columns = zip(
            zip(self.texts("wallets", "user"), self.texts("wallets", "wallet"), strict=True),
            [codes(WalletType)[code] for code in self.column("wallets", "type")],
            self.texts("wallets", "currency"),
            [("", "OPEN", "CLOSED")[status] for status in self.column("wallets", "status")],
            self.column("wallets", "resets"),
            [
                grants[first : first + n]
                for first, n in zip(
                    self.column("wallets", "first_grant"), self.column("wallets", "grants"), strict=True
                )
            ],
            strict=True,
        )
        names = ("type", "currency", "status", "resets", "grants")
        return {key: dict(zip(names, values, strict=True)) for key, *values in columns}

    def limits(self) -> dict[tuple[str, str], dict[str, Any]]:
        """By (user, portfolio): version, active, the limits that are set, and those of assets; {} before the first."""
        assets: dict[tuple[str, str], dict[str, int]] = {}
        columns = zip(
            self._position_keys(),
            self.column("positions", "flags"),
            self.units("positions", "asset_limit"),
            strict=True,
        )
        for (user, portfolio, symbol), flags, limit in columns:
            if flags & HAS_ASSET_LIMIT:
                assets.setdefault((user, portfolio), {})[symbol] = limit
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for key, row in zip(self._portfolios, self.rows["portfolios"], strict=True):
            found[key] = {}
            if row["version"] != NO_VERSION:
                found[key] = {"version": int(row["version"]), "active": bool(row["active"])}
                for place, name in enumerate(LIMITS):
                    is_set = int(row["has_limit"]) >> place & 1
                    found[key][name] = _amount(row["limits"][place]) if is_set else None
                found[key]["asset_limits"] = dict(sorted(assets.get(key, {}).items()))
        return found

    def baselines(self) -> dict[tuple[str, str], tuple[int, int]]:
        """By (user, portfolio): what the day and the week began with."""
        day, week = self.units("portfolios", "day_baseline"), self.units("portfolios", "week_baseline")
        return dict(zip(self._portfolios, zip(day, week, strict=True), strict=True))

    def sequences(self) -> dict[tuple[str, str], int]:
        """By (user, portfolio): the number of the last published update."""
        return dict(zip(self._portfolios, self.column("portfolios", "sequence"), strict=True))

    def levels(self) -> dict[str, Level]:
        """By user/portfolio/type/subject, every rule that ever moved."""
        found = {}
        rows = self.rows["portfolios"]
        for (user, name), levels, changes in zip(
            self._portfolios, rows["levels"].tolist(), rows["changes"].tolist(), strict=True
        ):
            for (rule, _), level, n in zip(RULES, levels, changes, strict=True):
                found[f"{user}/{name}/{rule}"] = Level(level, n)
        columns = zip(
            self._position_keys(), self.column("positions", "level"), self.column("positions", "changes"), strict=True
        )
        for (user, name, symbol), level, n in columns:
            found[f"{user}/{name}/POSITION_LIMIT/{symbol}"] = Level(level, n)
        return {subject: each for subject, each in found.items() if each != (OK, 0)}

    def marks(self) -> dict[str, Price]:
        """The mark of each symbol, as this partition took it."""
        columns = zip(
            self.texts("marks", "symbol"),
            self.units("marks", "price"),
            self.texts("marks", "currency"),
            self.column("marks", "as_of"),
            self.column("marks", "cause_partition"),
            self.column("marks", "cause_offset"),
            strict=True,
        )
        return {
            symbol: Price({"price": price, "currency": currency, "as_of": as_of}, Source("prices", partition, offset))
            for symbol, price, currency, as_of, partition, offset in columns
        }

    def remembered(self, topic: str) -> np.ndarray:
        """The rows of remembered ids of `trades` or `transactions`: id_lo, id_hi and more."""
        if topic == "trades":
            return self.rows["trade_ids"]
        events = self.rows["events"]
        return events[events["seen"] != 0]  # all others are free


def _amount(limbs: np.ndarray) -> int:
    lo, hi = (int(limb) for limb in limbs)
    return (hi - (1 << 64) if hi >> 63 else hi) << 64 | lo
