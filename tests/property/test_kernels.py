"""The kernels against the plain reference model: any run of messages gives the same, digit for digit.

Wallets are in test_ledger.py.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assetstream.models import decode
from assetstream.models.clock import apply_ticks
from assetstream.models.decode import MarkBatch, PriceBatch
from assetstream.models.encode import encode_settlements
from assetstream.models.fills import apply_trades
from assetstream.models.limits import apply_limits
from assetstream.models.marks import apply_marks
from assetstream.models.messages import parse_time, to_micros
from assetstream.models.outputs import INPUTS, AlertType, Level, Subject
from assetstream.models.prices import apply_prices
from assetstream.models.records import Records, records_of
from assetstream.models.reference import Reference, plain, timestamp
from assetstream.models.rows import TRADED
from assetstream.models.settlement_dates import SettlementDates
from assetstream.models.settlement_events import TEXT, SettlementBatch, settlements_of
from assetstream.models.settlement_rules import settlement_rules
from assetstream.models.state import (
    PERSISTED,
    PRICE_PERSISTED,
    clear,
    grow,
    new_account_state,
    new_price_state,
    rebuild,
    text,
)
from assetstream.models.updates import collect_updates
from assetstream.models.verdicts import Verdict

DATES = SettlementDates(settlement_rules())
NOW_MS = 1_800_000_000_000
SKEW_US = 3600 * 10**6
SUBJECTS = {Subject.PORTFOLIO: "-", Subject.TOTAL: "total", Subject.DAILY: "daily", Subject.WEEKLY: "weekly"}


def units(row: Any, name: str) -> int:
    """A decimal of a row, in units of 10^-18."""
    return (int(row[f"{name}_hi"]) << 64) | int(row[f"{name}_lo"])


def units_at(limbs: np.ndarray, i: int) -> int:
    """A signed 128-bit integer of row i."""
    return int.from_bytes(limbs[i].tobytes(), "little", signed=True)


def decimal(row: Any, name: str) -> str:
    return plain(units(row, name))


def cause(row: Any) -> dict[str, Any]:
    return {
        "topic": INPUTS[row["cause_topic"]],
        "partition": int(row["cause_partition"]),
        "offset": int(row["cause_offset"]),
    }


def marks_of(batch: PriceBatch, latest: np.ndarray) -> MarkBatch:
    """The marks that the accepted prices `latest` of a batch become."""
    n = len(latest)
    return MarkBatch(
        batch.records.slice(0, n),
        batch.data,
        np.zeros(n, np.uint8),
        np.ascontiguousarray(batch.text_at[:2, latest]),
        np.ascontiguousarray(batch.text_len[:2, latest]),
        batch.price[latest],
        batch.as_of[latest],
        np.full(n, batch.records.partition, np.int32),
        batch.records.offset[latest],
    )


def of(batch: SettlementBatch, place: int, i: int) -> str:
    """A text of event i."""
    at, size = batch.text_at[place, i], batch.text_len[place, i]
    return batch.data[at : at + size].tobytes().decode()


class Machine:
    """The kernels as the shell drives them, one batch at a time; what they write, as the reference has it."""

    def __init__(self, base_currency: str = "USD", id_memory: int = 1000) -> None:
        self.base_currency = base_currency
        self.id_memory = id_memory
        self.state = new_account_state(base_currency.encode(), id_memory)
        self.prices = new_price_state()
        self.fills: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.settlements: list[dict[str, Any]] = []
        self.booked: list[tuple[bool, bool]] = []
        self.changes: list[dict[str, Any]] = []

    def feed(self, records: Records) -> list[str]:
        """Take records of one topic; -> what became of each."""
        if records.topic == "clock":
            _, ticked, settled = apply_ticks(self.state, records)
            self._add_settlements(settled)
            return [Verdict(v).reason for v in ticked.verdict]
        batch = getattr(decode, f"decode_{DECODERS[records.topic]}")(records, SKEW_US)
        result = getattr(self, f"_{records.topic}")(batch)
        return [Verdict(v).reason for v in result]

    def _trades(self, batch: Any) -> np.ndarray:
        result = apply_trades(self.state, batch, DATES.times(batch))
        self.state, verdict, fills, alerts, told, changes = result
        self._add_alerts(alerts)
        self._add_settlements(settlements_of(batch, fills, told, changes))
        for row in fills:
            position = self.state.positions.rows[row["position"]]
            portfolio = self.state.portfolios.rows[row["portfolio"]]
            assert position["portfolio"] == row["portfolio"]
            self.fills.append(
                {
                    "user_id": text(self.state, portfolio["user"]),
                    "portfolio_id": text(self.state, portfolio["portfolio"]),
                    "symbol": text(self.state, position["symbol"]),
                    "notional": decimal(row, "notional"),
                    "fill_realized_pnl": decimal(row, "fill_realized_pnl"),
                    "position_quantity": decimal(row, "position_quantity"),
                    "position_cost_basis": decimal(row, "position_cost_basis"),
                    "position_average_price": decimal(row, "position_average_price")
                    if row["has_average_price"]
                    else None,
                    "position_realized_pnl": decimal(row, "position_realized_pnl"),
                    "position_fees": decimal(row, "position_fees"),
                    "source_offset": int(batch.records.offset[row["message"]]),
                }
            )
        return verdict

    def _add_settlements(self, batch: SettlementBatch) -> None:
        """As they are published, whether each is booked and virtual, and the balances that it changed."""
        records = batch.records
        data, ends = encode_settlements(batch, np.full(len(batch.side), records.partition))
        for start, end in zip([0, *ends], ends, strict=False):
            self.settlements.append(json.loads(data[start:end].tobytes()))
        flags = zip(batch.is_booked.astype(bool).tolist(), batch.is_virtual.astype(bool).tolist(), strict=True)
        if records.topic == "trades":
            self.booked += flags
        else:
            assert not any(is_booked for is_booked, _ in flags)
        for i in range(len(batch.side)):
            for name, place in (("cash", "currency"), ("asset", "asset")):
                if sequence := int(getattr(batch, f"{name}_sequence")[i]):
                    available, locked = (units_at(getattr(batch, f"{name}_{part}"), i) for part in HOLDS)
                    self.changes.append(
                        {
                            "user_id": of(batch, TEXT.index("user_id"), i),
                            "wallet_id": of(batch, TEXT.index("wallet_id"), i),
                            "asset": of(batch, TEXT.index(place), i),
                            "total": plain(available + locked),
                            "available": plain(available),
                            "locked": plain(locked),
                            "sequence": sequence,
                            "transaction_id": f"{of(batch, 1, i)}/{of(batch, 0, i)}",
                            "occurred_at": timestamp(int(batch.occurred_at[i])),
                            "cause": {"topic": records.topic, "partition": 3, "offset": int(records.offset[i])},
                        }
                    )

    def _risk_limits(self, batch: Any) -> np.ndarray:
        self.state, verdict, alerts = apply_limits(self.state, batch)
        self._add_alerts(alerts)
        return verdict

    def _prices(self, batch: Any) -> np.ndarray:
        self.prices, verdict, _accepted, latest = apply_prices(self.prices, batch)
        if len(latest):
            self.state, taken, alerts = apply_marks(self.state, marks_of(batch, latest))
            assert not taken.any()
            self._add_alerts(alerts)
        return verdict

    def _add_alerts(self, alerts: np.ndarray) -> None:
        for row in alerts:
            portfolio = self.state.portfolios.rows[row["portfolio"]]
            user, name = text(self.state, portfolio["user"]), text(self.state, portfolio["portfolio"])
            symbol = text(self.state, row["symbol"]) if row["subject"] == Subject.SYMBOL else None
            kind = AlertType(row["type"]).name
            subject = symbol or SUBJECTS[row["subject"]]
            severity = Level(row["severity"])
            self.alerts.append(
                {
                    "alert_id": f"{user}/{name}/{kind}/{subject}/{row['number']}",
                    "user_id": user,
                    "portfolio_id": name,
                    "type": kind,
                    "severity": "INFO" if severity == Level.OK else severity.name,
                    "symbol": symbol,
                    "current_value": decimal(row, "value"),
                    "limit_value": decimal(row, "limit") if row["has_limit"] else None,
                    "threshold_percent": str(row["line"]),
                    "is_resolved": bool(row["is_resolved"]),
                    "action": "NONE",
                    "created_at": timestamp(int(row["created_at"])),
                    "cause": cause(row),
                }
            )

    def updates(self, now_ms: int = 10**12, mark_update_ms: int = 0) -> list[dict[str, Any]]:
        """The updates that are due, collected."""
        rows, unpriced = collect_updates(self.state, now_ms, mark_update_ms)
        out = []
        for row in rows:
            portfolio = self.state.portfolios.rows[row["portfolio"]]
            named = unpriced[row["unpriced_at"] : row["unpriced_at"] + row["unpriced_n"]]
            amounts = (
                "market_value",
                "cost_basis",
                "realized_pnl",
                "unrealized_pnl",
                "fees",
                "total_pnl",
                "daily_pnl",
                "gross_exposure",
            )
            out.append(
                {
                    "user_id": text(self.state, portfolio["user"]),
                    "portfolio_id": text(self.state, portfolio["portfolio"]),
                    "base_currency": self.base_currency,
                    **{name: decimal(row, name) for name in amounts},
                    "open_positions": int(row["open_positions"]),
                    "complete": not len(named),
                    "unpriced": [text(self.state, number) for number in named],
                    "as_of": timestamp(int(row["as_of"])),
                    "sequence": int(row["sequence"]),
                    "cause": cause(row),
                }
            )
        return out

    def positions(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """Quantity, cost, P&L, fees and time of every traded position."""
        out = {}
        for row in self.state.positions.rows[: self.state.positions.count[0]]:
            if row["flags"] & TRADED:
                portfolio = self.state.portfolios.rows[row["portfolio"]]
                ids = (portfolio["user"], portfolio["portfolio"], row["symbol"])
                names = ("quantity", "cost_basis", "realized_pnl", "fees")
                out[tuple(text(self.state, k) for k in ids)] = {
                    "currency": text(self.state, row["currency"]),
                    **{name: decimal(row, name) for name in names},
                    "last_trade_at": timestamp(int(row["last_trade_at"])),
                }
        return out

    def balances(self) -> dict[tuple[str, str, str], dict[str, str]]:
        """By (user, wallet, asset), as the reference has them."""
        out = {}
        for row in self.state.balances.rows[: self.state.balances.count[0]]:
            wallet, available, locked = self.state.wallets.rows[row["wallet"]], *(units(row, n) for n in HOLDS)
            key = (text(self.state, wallet["user"]), text(self.state, wallet["wallet"]), text(self.state, row["asset"]))
            amounts = {"total": available + locked, "available": available, "locked": locked}
            out[key] = {name: plain(amount) for name, amount in amounts.items()}
        return out

    def persisted(self) -> dict[str, bytes]:
        """The bytes of every persisted row."""
        both = ((self.state, PERSISTED), (self.prices, PRICE_PERSISTED))
        return {
            f"{type(state).__name__}.{name}": getattr(state, name).rows[: getattr(state, name).count[0]].tobytes()
            for state, names in both
            for name in names
        }

    def restored(self) -> Machine:
        """A machine whose state went through the changelog: nothing but the persisted rows is taken over."""
        other = Machine(self.base_currency, self.id_memory)
        other.state = rebuild(copied(self.state, other.state, PERSISTED))
        other.prices = rebuild(copied(self.prices, other.prices, PRICE_PERSISTED))
        for name in ("fills", "alerts", "settlements", "booked", "changes"):
            setattr(other, name, list(getattr(self, name)))
        return other


HOLDS = ("available", "locked")
DECODERS = {"trades": "trades", "risk_limits": "limits", "prices": "prices"}


def copied(source: Any, target: Any, names: dict[str, np.dtype]) -> Any:
    """The state `target` with the persisted rows of `source`."""
    for name in names:
        rows, table = getattr(source, name), grow(getattr(target, name), int(getattr(source, name).count[0]))
        n = rows.count[0]
        table.rows[:n] = np.frombuffer(rows.rows[:n].tobytes(), rows.rows.dtype)
        table.count[0] = n
        clear(table)
        target = target._replace(**{name: table})
    return target


# ---------------------------------------------------------------------------------------------------------- strategies

USERS, PORTFOLIOS = ("u1", "u2"), ("p1", "p2")
SYMBOLS = ("AAPL", "AA", "Z", "EUR/USD")
CURRENCIES = ("USD", "EUR", "CHF")
QUOTES = {"AAPL": "USD", "AA": "EUR", "Z": "CHF"}
PAIRS = ("EUR/USD", "USD/EUR", "USD/CHF", "CHF/USD", "EUR/CHF", "CHF/EUR")

AMOUNTS = st.one_of(
    st.sampled_from(["1", "2", "3", "0.5", "10", "7", "100", "0.1", "90", "99.999999999999999999", "1e-18"]),
    st.sampled_from(["1e10", "99999999999999999999", "12345678901234567890.123456789012345678", "1e15", "3e19"]),
    st.decimals("0.000000000000000001", "10000", places=18).filter(bool).map(lambda d: f"{d:f}"),
)
TIMES = st.sampled_from([f"2026-03-{day:02d}T{hour}:00:00Z" for day in (1, 2, 3, 8, 9) for hour in ("00", "12", "23")])
OPTIONAL = st.none() | AMOUNTS

TRADES = st.fixed_dictionaries(
    {
        "trade_id": st.integers(1, 12).map(str),
        "user_id": st.sampled_from(USERS),
        "portfolio_id": st.sampled_from(PORTFOLIOS),
        "wallet_id": st.sampled_from(["w1", "w2", "w3", "w4"]),
        "symbol": st.sampled_from(SYMBOLS),
        "asset_type": st.sampled_from([None, "CRYPTO", "STOCK"]),
        "broker": st.sampled_from([None, "", "b", 'M"ü\\ller\n']),
        "currency": st.sampled_from(["", "", "", *CURRENCIES]),
        "side": st.sampled_from(["BUY", "SELL"]),
        "quantity": AMOUNTS,
        "price": AMOUNTS,
        "fee": st.sampled_from(["0", "0.01", "-0.02", "5"]) | AMOUNTS,
        "executed_at": TIMES,
    }
).map(lambda m: {**m, "currency": m["currency"] or QUOTES.get(m["symbol"], "USD")})
LIMITS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(USERS),
        "portfolio_id": st.sampled_from(PORTFOLIOS),
        "version": st.integers(-2, 8),
        "active": st.sampled_from([True, True, True, False]),
        "updated_at": TIMES,
        "max_position_size": OPTIONAL,
        "max_portfolio_value": OPTIONAL,
        "max_daily_loss": OPTIONAL,
        "max_weekly_loss": OPTIONAL,
        "max_total_loss": OPTIONAL,
        "max_leverage": OPTIONAL,
        "asset_limits": st.none() | st.dictionaries(st.sampled_from([*SYMBOLS, "NEW"]), AMOUNTS, max_size=3),
    }
)
PRICES = st.fixed_dictionaries(
    {
        "symbol": st.sampled_from(SYMBOLS) | st.sampled_from(PAIRS),
        "price": AMOUNTS,
        "currency": st.sampled_from(["", "", "", *CURRENCIES]),
        "as_of": TIMES,
        "bid": st.none() | st.just("1"),
    }
).map(lambda m: {**m, "currency": m["currency"] or QUOTES.get(m["symbol"], m["symbol"][-3:])})


def keyed(topic: str, messages: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[Any]:
    """(topic, key, value); one key in twenty is another's."""
    field = "symbol" if topic == "prices" else "user_id"
    wrong = st.integers(0, 19).map(lambda k: k == 7)
    return st.tuples(messages, wrong).map(
        lambda pair: (topic, b"another" if pair[1] else pair[0][field].encode(), json.dumps(pair[0]).encode())
    )


#: a tick of the clock at each of these, and so when its record arrives (ms): trades of the first days settle on others
TICKS = st.sampled_from(
    [f"2026-03-{day:02d}T{hour}:00:00Z" for day in (2, 3, 4, 5, 9, 11) for hour in ("00", "05", "23")]
)


def arrives(topic: str, value: bytes) -> int:
    """The Kafka timestamp of a record."""
    return to_micros(parse_time(json.loads(value)["due"])) // 1000 if topic == "clock" else NOW_MS


MARKET = st.lists(
    st.one_of(
        TICKS.map(lambda at: ("clock", b"", json.dumps({"due": at}).encode())),
        keyed("trades", TRADES),
        keyed("trades", TRADES),
        keyed("trades", TRADES),
        keyed("risk_limits", LIMITS),
        keyed("prices", PRICES),
        keyed("prices", PRICES),
    ),
    max_size=60,
)
RUN = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


def by_portfolio(alerts: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Each portfolio's alerts, in order."""
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for alert in alerts:
        out.setdefault((alert["user_id"], alert["portfolio_id"]), []).append(alert)
    return out


class Pair:
    """The machine and the reference, fed the same."""

    def __init__(self, base_currency: str = "USD") -> None:
        self.machine, self.reference = Machine(base_currency), Reference(base_currency)
        self.offsets = dict.fromkeys((*INPUTS, "clock"), 0)

    def feed(self, topic: str, key: bytes, value: bytes) -> str:
        offset, at = self.offsets[topic], arrives(topic, value)
        self.offsets[topic] += 1
        expected = self.reference.feed(topic, 3, offset, at, key, value)
        assert self.machine.feed(records_of(topic, 3, [(key, value)], offset, at)) == [expected]
        return expected

    def check(self) -> None:
        """Everything that was written so far is the same."""
        machine, reference = self.machine, self.reference
        # those of one message have an order within a portfolio, not among several
        assert by_portfolio(machine.alerts) == by_portfolio(reference.alerts)
        assert [alert["cause"] for alert in machine.alerts] == [alert["cause"] for alert in reference.alerts]
        assert machine.fills == [{name: fill[name] for name in machine.fills[0]} for fill in reference.fills]
        expected = {key: dict(position) for key, position in reference.positions.items()}
        for position in expected.values():
            del position["average_price"]
        assert machine.positions() == expected
        assert machine.settlements == reference.ledger.settlements
        postings = [legs for _, legs in reference.ledger.settled_postings]
        assert machine.booked == [(bool(legs), any(leg["account"] == "virtual" for leg in legs)) for legs in postings]
        assert machine.changes == reference.ledger.changes
        assert machine.balances() == reference.balances


@RUN
@given(MARKET, st.sampled_from(["USD", "EUR", "CHF", "GBP"]))
def test_any_market_is_as_the_reference_has_it(market: list[Any], base_currency: str) -> None:
    pair = Pair(base_currency)
    for topic, key, value in market:
        pair.feed(topic, key, value)
        for update in pair.machine.updates():
            del update["sequence"], update["cause"]
            assert update == pair.reference.update(update["user_id"], update["portfolio_id"])
    pair.check()
    assert conserved(pair.machine, pair.reference)


def conserved(machine: Machine, reference: Reference) -> bool:
    """Σ sign(q)·N = cost_basis − realized_pnl of every position, from the fills and the rows."""
    spent: dict[tuple[str, str, str], int] = {}
    state = machine.state
    for fill in reference.fills:
        key = (fill["user_id"], fill["portfolio_id"], fill["symbol"])
        sign = 1 if fill["side"] == "BUY" else -1
        whole, _, fraction = fill["notional"].partition(".")
        spent[key] = spent.get(key, 0) + sign * int(whole + fraction.ljust(18, "0"))
    for row in state.positions.rows[: state.positions.count[0]]:
        portfolio = state.portfolios.rows[row["portfolio"]]
        key = (
            text(state, portfolio["user"]),
            text(state, portfolio["portfolio"]),
            text(state, row["symbol"]),
        )
        if units(row, "cost_basis") - units(row, "realized_pnl") != spent.get(key, 0):
            return False
    return True


@RUN
@given(MARKET, st.data())
def test_a_restored_state_goes_on_exactly_where_it_was(market: list[Any], data: st.DataObject) -> None:
    pair = Pair("EUR")
    restores = data.draw(st.sets(st.integers(0, max(len(market) - 1, 0)), max_size=4))
    collects = data.draw(st.sets(st.integers(0, max(len(market) - 1, 0))))
    other = Machine("EUR")
    for number, (topic, key, value) in enumerate(market):
        offset = pair.offsets[topic]
        pair.feed(topic, key, value)
        other.feed(records_of(topic, 3, [(key, value)], offset, arrives(topic, value)))
        if number in collects | restores:
            assert other.updates() == pair.machine.updates()
            assert other.persisted() == pair.machine.persisted()
        if number in restores:
            other = other.restored()
    pair.check()
    assert other.alerts == pair.machine.alerts
    assert other.fills == pair.machine.fills
    assert other.settlements == pair.machine.settlements
    assert other.changes == pair.machine.changes
    assert other.updates() == pair.machine.updates()
    assert other.persisted() == pair.machine.persisted()


def first_trades(symbols: list[str]) -> list[Any]:
    """Limits that name all symbols, then first trades of them in one portfolio: currencies and positions are new."""
    limits = {"user_id": "u1", "portfolio_id": "p1", "version": 1, "updated_at": "2026-03-01T00:00:00Z"}
    messages: list[tuple[str, dict[str, Any]]] = [
        ("risk_limits", {**limits, "asset_limits": dict.fromkeys(QUOTES, "9")})
    ]
    for number, symbol in enumerate(symbols):
        about = {"user_id": "u1", "portfolio_id": "p1", "wallet_id": "w", "symbol": symbol, "currency": QUOTES[symbol]}
        deal = {"side": "BUY", "quantity": "1", "price": "2", "executed_at": "2026-03-01T00:00:00Z"}
        messages.append(("trades", {"trade_id": str(number), **about, **deal}))
    return [(topic, b"u1", json.dumps(message).encode()) for topic, message in messages]


#: enough in one batch that what is new in it is met again in it, at any distance
FIRST_TRADES = st.lists(st.sampled_from(sorted(QUOTES)), min_size=5, max_size=24).map(first_trades)


@RUN
@given(MARKET | FIRST_TRADES)
def test_batches_give_what_single_messages_give(market: list[Any]) -> None:
    single, batched = Machine(), Machine()
    offsets = dict.fromkeys((*INPUTS, "clock"), 0)
    batches: list[tuple[str, list[tuple[bytes, bytes]]]] = []
    for topic, key, value in market:
        # of a batch of prices only the latest becomes a mark, so each is one of its own
        if batches and batches[-1][0] == topic != "prices":
            batches[-1][1].append((key, value))
        else:
            batches.append((topic, [(key, value)]))
    for topic, messages in batches:
        first = offsets[topic]
        offsets[topic] += len(messages)
        verdicts = []
        at = [arrives(topic, value) for _, value in messages]
        for number, message in enumerate(messages):
            verdicts += single.feed(records_of(topic, 0, [message], first + number, at[number]))
        assert batched.feed(records_of(topic, 0, messages, first, at)) == verdicts
    assert batched.fills == single.fills
    assert batched.settlements == single.settlements
    assert batched.booked == single.booked
    assert batched.changes == single.changes
    assert batched.alerts == single.alerts
    assert batched.persisted() == single.persisted()
    assert batched.updates() == single.updates()


@RUN
@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=12), st.integers(1, 9), st.data())
def test_the_last_ids_are_remembered(batches: list[list[int]], memory: int, data: st.DataObject) -> None:
    """Against a plain list: the last `memory` ids are duplicates, across growth, wrap-around and restores."""
    machine = Machine(id_memory=memory)
    remembered: list[int] = []
    offset = 0
    for ids in batches:
        messages = []
        expected = []
        for number in ids:
            message = {
                "trade_id": str(number),
                "user_id": "u",
                "portfolio_id": "p",
                "wallet_id": "w",
                "symbol": "S",
                "currency": "USD",
                "side": "BUY",
                "quantity": "1",
                "price": "1",
                "executed_at": "2026-03-02T00:00:00Z",
            }
            messages.append((b"u", json.dumps(message).encode()))
            expected.append("duplicate" if number in remembered else "applied")
            if number not in remembered:
                remembered = [*remembered, number][-memory:]
        if messages:
            assert machine.feed(records_of("trades", 0, messages, offset, NOW_MS)) == expected
            offset += len(messages)
        if data.draw(st.booleans()):
            machine = machine.restored()
