"""The rows of a partition as those of several: everything goes where its user does, nothing is lost or doubled."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from assetstream.agents.partition import AccountPartition, PricePartition
from assetstream.agents.prices import take_prices
from assetstream.agents.risk_limits import take_risk_limits
from assetstream.agents.trades import take_trades
from assetstream.agents.transactions import take_transactions
from assetstream.models.clock import apply_ticks
from assetstream.models.decode import decode_marks
from assetstream.models.market import Message, market
from assetstream.models.records import records_of
from assetstream.models.rows import HOLD_EXPIRES, SETTLES
from assetstream.models.state import text
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.settings import Settings
from assetstream.tables.changelog import decode
from assetstream.tables.repartition import Misplaced, anew, split_accounts, split_prices
from assetstream.tables.store import Store

OLD, NEW, NUMBER = 2, 6, 1
SETTINGS = Settings(partitions=OLD, id_memory=50)
NOW_MS = 1_800_000_000_000
#: what is 0 in a row that waits to be used again
FREE = {"events": "seen", "agenda": "kind", "settlements": "is_open"}


def filled() -> tuple[AccountPartition, PricePartition]:
    """Partition NUMBER after a market, with its ring of ids gone around more than once."""
    account, price = AccountPartition(NUMBER, SETTINGS), PricePartition(NUMBER, SETTINGS)
    messages: dict[str, list[Message]] = {}
    stream = [m for m, _ in zip(market(30, 12, 7, bad=0.0), range(1500), strict=False)]
    for message in [*stream, *holds()]:
        if message[1] and partition_of(message[1], OLD) == NUMBER:
            messages.setdefault(message[0], []).append(message)

    def batch(topic: str):  # type: ignore[no-untyped-def]
        pairs = [(key, value) for _, key, value in messages[topic]]
        return records_of(topic, NUMBER, pairs, timestamp_ms=NOW_MS)

    marks: list[tuple[bytes, bytes]] = []
    take_prices(price, batch("prices"), marks.extend)
    take_risk_limits(account, batch("risk_limits"))
    account.take_marks(decode_marks(records_of("marks", 0, marks)))
    take_trades(account, batch("trades"))
    users = sorted({key for _, key, _ in messages["transactions"] if key})[:4]
    messages["transactions"] += [paper(user, kind, n) for n, user in enumerate(users) for kind in ("OPEN", "CONFIGURE")]
    take_transactions(account, batch("transactions"))
    account.store.state.applied.rows["offset"] = (700, 80, 9, 6, 5)
    price.store.state.applied.rows["offset"] = 60
    return account, price


def paper(user: bytes, kind: str, n: int) -> Message:
    """A VIRTUAL wallet of one asset; and of another one more, so that its first grant is given up."""
    event = {
        "transaction_id": kind,
        "user_id": user.decode(),
        "wallet_id": "virtual",
        "type": kind,
        "status": "COMPLETED",
        "occurred_at": "2026-03-01T00:00:00Z",
        "wallet_type": "VIRTUAL",
        "currency": f"CUR{n}",
        "configuration": {"initial_capital": str(n + 1)},
    }
    if kind == "CONFIGURE":
        event["configuration"] = {"allocation": {f"ASSET{n}": "1", "BTC": str(n + 1)}}
    return "transactions", user, json.dumps(event).encode()


@pytest.fixture(scope="module")
def partitions() -> tuple[AccountPartition, PricePartition]:
    return filled()


def holds() -> Iterator[Message]:
    """Of every user three holds that expire, of which one has ended: their rows are used again."""
    common = {"wallet_id": "w1", "type": "HOLD", "asset": "USD", "amount": "1", "occurred_at": "2026-03-02T09:00:00Z"}
    for number in range(30):
        user = f"u{number:05d}"
        for name, status in (("a", "PENDING"), ("b", "PENDING"), ("a", "CANCELLED"), ("c", "PENDING")):
            event = {**common, "user_id": user, "transaction_id": f"{name}{number}", "status": status}
            event["expires_at"] = f"2031-01-01T00:00:{number % 3:02d}Z"
            yield "transactions", user.encode(), json.dumps(event).encode()


def restored(store: Store, records: list[bytes]) -> Store:
    """`store`, with these changelog records applied."""
    for offset, value in enumerate(records):
        store.apply(value, offset, "log")
    store.rebuild()
    return store


def facts(store: Store) -> dict[str, set[bytes]]:
    """Every portfolio, position, wallet, balance, …: its names in place of numbers, and all else of the row."""
    state = store.state
    found: dict[str, set[bytes]] = {}
    portfolio = [(text(state, int(r["user"])), text(state, int(r["portfolio"]))) for r in rows(store, "portfolios")]
    wallet = [(text(state, int(r["user"])), text(state, int(r["wallet"]))) for r in rows(store, "wallets")]
    balance = [(wallet[r["wallet"]], text(state, int(r["asset"]))) for r in rows(store, "balances")]
    agenda = rows(store, "agenda")
    due = {i: (r["number"], r["text"].tobytes()) for i, r in enumerate(agenda)}
    expires = [i for i, r in enumerate(agenda) if r["kind"] == HOLD_EXPIRES]
    assert all(rows(store, "events")["due"][agenda[i]["about"]] == i for i in expires)
    due_of_trade = {int(r["about"]): (r["number"], r["text"].tobytes()) for r in agenda if r["kind"] == SETTLES}
    settlement = [
        (balance[r["cash"]], balance[r["asset"]], portfolio[r["portfolio"]], text(state, int(r["symbol"])))
        if r["is_open"]
        else None
        for r in rows(store, "settlements")
    ]
    grant = [(wallet[r["wallet"]], text(state, int(r["asset"])), int(r["amount_lo"])) for r in rows(store, "grants")]
    names = {
        "portfolios": ({"user", "portfolio"}, lambda r, i: portfolio[i]),
        "positions": (
            {"portfolio", "symbol", "currency"},
            lambda r, i: (
                (portfolio[r["portfolio"]], text(state, int(r["symbol"])), text(state, int(r["currency"])))
                if r["currency"] >= 0
                else (portfolio[r["portfolio"]], text(state, int(r["symbol"])))
            ),
        ),
        "wallets": (
            {"user", "wallet", "currency", "first_grant"},
            lambda r, i: (
                wallet[i],
                text(state, int(r["currency"])),
                [grant[r["first_grant"] + k] for k in range(r["grants"])],
            ),
        ),
        "grants": ({"wallet", "asset"}, lambda r, i: grant[i]),
        "balances": ({"wallet", "asset"}, lambda r, i: balance[i]),
        "events": (
            {"balance", "other", "due"},
            lambda r, i: (balance[r["balance"]], r["other"] >= 0 and balance[r["other"]], due.get(r["due"])),
        ),
        "agenda": (
            {"about"},
            lambda r, i: (
                rows(store, "events")["id_lo"][r["about"]] if r["kind"] == HOLD_EXPIRES else settlement[r["about"]]
            ),
        ),
        "settlements": (
            {"cash", "asset", "portfolio", "symbol"},
            lambda r, i: (settlement[i], due_of_trade[i]),
        ),
    }
    for table, (replaced, name) in names.items():
        kept = [field for field in rows(store, table).dtype.names if field not in replaced]
        used = [(i, row) for i, row in enumerate(rows(store, table)) if table not in FREE or row[FREE[table]]]
        found[table] = {
            (repr(name(row, i)) + repr([row[field].tobytes() for field in kept])).encode() for i, row in used
        }
        assert len(found[table]) == len(used)
    return found


def rows(store: Store, table: str) -> np.ndarray:
    of = getattr(store.state, table)
    return of.rows[: of.count[0]]


def test_accounts_go_with_their_users(partitions: tuple[AccountPartition, PricePartition]) -> None:
    account, _ = partitions
    parts = split_accounts(account.store.state, NUMBER, OLD, NEW)
    assert list(parts) == [1, 3, 5]
    before, after = facts(account.store), dict[str, set[bytes]]()
    for number, part in parts.items():
        store = restored(AccountPartition(number, SETTINGS).store, anew(part, 9, NEW))
        assert (store.written_for, store.checkpoint, store.anew_at) == (NEW, 9, 0)
        for row in rows(store, "portfolios"):
            assert partition_of(text(store.state, int(row["user"])).encode(), NEW) == number
        for table, found in facts(store).items():
            assert not found & after.setdefault(table, set())
            after[table] |= found
        assert len(rows(store, "portfolios")) > 0
        assert rows(store, "trade_ids").tobytes() == rows(account.store, "trade_ids").tobytes()
        assert rows(store, "heads")["next"].tolist() == rows(account.store, "heads")["next"].tolist()
        assert not rows(store, "heads")["free"].any()
        assert len(rows(store, "trade_ids")) == SETTINGS.id_memory
        assert rows(store, "applied")["offset"].tolist() == ([700, 80, 9, 6, 5] if number == NUMBER else [-1] * 5)
        assert len(rows(store, "strings")) < len(rows(account.store, "strings"))
    assert after == before
    assert all(len(found) > 5 for found in before.values())


def test_what_is_due_goes_with_its_user(partitions: tuple[AccountPartition, PricePartition]) -> None:
    """And comes in the same order."""
    account, _ = partitions
    whole = due_of(restored(AccountPartition(NUMBER, SETTINGS).store, anew(rows_of(account), 9, OLD)))
    found = {
        number: due_of(restored(AccountPartition(number, SETTINGS).store, anew(part, 9, NEW)))
        for number, part in split_accounts(account.store.state, NUMBER, OLD, NEW).items()
    }
    assert len(whole) > 20
    assert all(there and there == [each for each in whole if each in there] for there in found.values())
    assert sorted(each for there in found.values() for each in there) == sorted(whole)


def due_of(store: Store) -> list[bytes]:
    """The ids of what happens until 2084."""
    batch, _, settled = apply_ticks(store.state, records_of("clock", 0, [(None, b"")], timestamp_ms=2 * NOW_MS))
    return [
        of.data[at : at + size].tobytes()
        for of in (batch, settled)
        for at, size in zip(of.text_at[0].tolist(), of.text_len[0].tolist(), strict=True)
    ]


def test_totals_are_those_of_before(partitions: tuple[AccountPartition, PricePartition]) -> None:
    account, _ = partitions
    whole = restored(AccountPartition(NUMBER, SETTINGS).store, anew(rows_of(account), 9, OLD)).state

    def totals(state) -> dict[tuple[str, str], bytes]:  # type: ignore[no-untyped-def]
        kept = [name for name in state.live.dtype.names if not name.startswith(("first_", "pad"))]
        return {
            (text(state, int(row["user"])), text(state, int(row["portfolio"]))): repr(
                [state.live[p][name].tobytes() for name in kept]
            ).encode()
            for p, row in enumerate(state.portfolios.rows[: state.portfolios.count[0]])
        }

    found: dict[tuple[str, str], bytes] = {}
    for number, part in split_accounts(account.store.state, NUMBER, OLD, NEW).items():
        found |= totals(restored(AccountPartition(number, SETTINGS).store, anew(part, 9, NEW)).state)
    assert found == totals(whole)


def rows_of(account: AccountPartition) -> dict[str, np.ndarray]:
    return {name: rows(account.store, name) for name in account.store._names}


def test_marks_stay_and_those_that_move_begin_again(partitions: tuple[AccountPartition, PricePartition]) -> None:
    account, price = partitions
    state = account.store.state
    before = {text(state, int(row["symbol"])): row for row in rows(account.store, "marks")}
    moved = {symbol for symbol in before if partition_of(symbol.encode(), NEW) != NUMBER}
    assert 0 < len(moved) < len(before)
    for number, part in split_accounts(state, NUMBER, OLD, NEW).items():
        store = restored(AccountPartition(number, SETTINGS).store, anew(part, 9, NEW))
        after = {text(store.state, int(row["symbol"])): row for row in rows(store, "marks")}
        assert after.keys() == before.keys()
        for symbol, row in after.items():
            same = [name for name in row.dtype.names if name not in ("symbol", "currency") and "cause" not in name]
            assert all(row[name].tobytes() == before[symbol][name].tobytes() for name in same)
            assert row["cause_partition"] == partition_of(symbol.encode(), NEW)
            assert row["cause_offset"] == (-1 if symbol in moved else before[symbol]["cause_offset"])
    prices = split_prices(price.store.state, NUMBER, OLD, NEW)
    found: set[str] = set()
    for number, part in prices.items():
        store = restored(PricePartition(number, SETTINGS).store, anew(part, 1, NEW))
        for row in rows(store, "prices"):
            symbol = text(store.state, int(row["symbol"]))
            assert partition_of(symbol.encode(), NEW) == number
            assert (row["offset"] == -1) == (symbol in moved)
            found.add(symbol)
        assert rows(store, "applied")["offset"].tolist() == ([60] if number == NUMBER else [-1])
    assert found == before.keys()


def test_a_user_in_the_wrong_partition_is_refused(partitions: tuple[AccountPartition, PricePartition]) -> None:
    account, price = partitions
    with pytest.raises(Misplaced, match="has state in partition 0 but belongs to 1: a publisher does not use"):
        split_accounts(account.store.state, 0, OLD, NEW)
    with pytest.raises(Misplaced):
        split_prices(price.store.state, 0, OLD, NEW)


def test_what_was_before_is_void(partitions: tuple[AccountPartition, PricePartition]) -> None:
    """Records of the old state before it, as after a crash before they were deleted, or in a snapshot."""
    account, _ = partitions
    part = split_accounts(account.store.state, NUMBER, OLD, NEW)[NUMBER]
    alone = restored(AccountPartition(NUMBER, SETTINGS).store, anew(part, 9, NEW))
    store = AccountPartition(NUMBER, SETTINGS).store
    records = [*anew(rows_of(account), 8, OLD), *anew(part, 9, NEW)]
    after = restored(store, records)
    for table in store._names:
        assert rows(after, table).tobytes() == rows(alone, table).tobytes()
    assert after.anew_at == len(anew(rows_of(account), 8, OLD))
    first = decode(records[0], after.layout.fingerprint, after.layout.dtypes, "log")
    assert (first.partitions, first.starts_anew) == (OLD, True)
