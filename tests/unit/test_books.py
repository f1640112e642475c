"""Our side of a statement, and what stands, on the ClickHouse engine in this process (chDB)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from assetstream.cli.audit import tables
from assetstream.cli.reconciliation.ours import Books, RowsExpire, digest
from assetstream.cli.reconciliation.outbox import Outbox
from assetstream.models.messages import BrokerStatement, Cause, Rejection, StatedTrade
from assetstream.models.reconciliation import Account, Tolerances, judge
from assetstream.models.verdicts import Verdict
from assetstream.sinks.batches import deserialize
from assetstream.sinks.migrations import migrate
from assetstream.streams.settings import Settings

D = Decimal
DB = "books_test"
SETTINGS = Settings(clickhouse_database=DB, partitions=1, _env_file=None)
START = datetime(2026, 3, 2, tzinfo=UTC)
END = START + timedelta(days=1)
CUT = {("trades", 0): 100, ("transactions", 0): 100, ("transfers", 0): 100}
#: a name that breaks SQL, and the escaping of parameters, that are not careful
ODD = 'O\'Broker\\ \t{x} & "Co"/Söhne'
CAUSE = Cause(topic="broker_statements", partition=0, offset=3)


class Engine:
    """The engine behind what `Tables` connects to."""

    def __init__(self, client: Client) -> None:
        self.client, self.database = client, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def close(self) -> None:
        """It goes on for the next one."""


@pytest.fixture
def client(engine: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    migrate(engine, SETTINGS)
    engine.command(f"USE {DB}")
    monkeypatch.setattr(tables, "connect", lambda settings: Engine(engine))
    yield engine
    engine.command(f"DROP DATABASE {DB}")


def insert(client: Client, table: str, *rows: dict[str, Any]) -> None:
    """Rows by name; what is left out is the column's default."""
    for row in rows:
        values = ", ".join("NULL" if v is None else repr(v) if isinstance(v, int) else _quoted(v) for v in row.values())
        client.command(f"INSERT INTO {DB}.{table} ({', '.join(row)}) VALUES ({values})")


def _quoted(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"toDecimal128('{value}', 18)"
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def fill(trade_id: str, quantity: str, time: str = "2026-03-02 10:00:00", **other: Any) -> dict[str, Any]:
    """A fill of alice's at IBKR; a negative quantity is sold."""
    usual = {
        "trade_id": trade_id,
        "user_id": "alice",
        "portfolio_id": "main",
        "symbol": "SAP",
        "currency": "EUR",
        "side": "SELL" if quantity[0] == "-" else "BUY",
        "quantity": D(quantity.lstrip("-")),
        "price": D("241.3"),
        "fee": D("1"),
        "executed_at": time,
        "broker": "IBKR",
        "source_topic": "trades",
        "source_offset": 1,
    }
    return usual | other


def statement(**other: Any) -> BrokerStatement:
    usual = {"statement_id": "s-1", "broker": "IBKR", "user_id": "alice", "period_start": START, "period_end": END}
    return BrokerStatement.model_validate(usual | other)


def books() -> Books:
    return Books(SETTINGS, CUT)


def deliver(client: Client, outbox: Outbox) -> list[str]:
    """Put the rows of an outbox where the sinks would; -> the topics of its records."""
    topics = []
    for record in outbox.records():
        topics.append(record.topic)
        if record.topic == "analytics":
            table = pa.Table.from_batches([deserialize(record.value)])
            client.insert_arrow(f"{DB}.{(record.key or b'').decode()}", table)
    return topics


def test_trades_of_the_period_and_those_that_are_named_of_this_account_only(client: Client) -> None:
    insert(
        client,
        "fills",
        fill("first", "1", "2026-03-02 00:00:00"),
        fill("last", "-2.5", "2026-03-02 23:59:59.999999"),
        fill("before", "1", "2026-03-01 23:59:59.999999"),
        fill("after", "1", "2026-03-03 00:00:00"),
        fill("named", "1", "2026-03-04 00:00:00"),
        fill("later-input", "1", source_offset=100),
        fill("other-topic", "1", source_topic="elsewhere"),
        fill("bobs", "1", user_id="bob"),
        fill("another-broker", "1", broker=ODD),
        fill("no-broker", "1", broker=None),
        fill("other-portfolio", "1", portfolio_id="pension"),
    )
    stated = [{"trade_id": "named", "symbol": "X", "side": "BUY", "quantity": 1, "price": 1, "executed_at": START}]

    def ids(**other: Any) -> set[str]:
        return {trade.trade_id for trade in books().ours(statement(**other)).trades}

    assert ids(trades=stated) == {"first", "last", "named", "other-portfolio"}
    assert ids(trades=[], portfolio_id="main") == {"first", "last"}
    assert ids(trades=[], broker=ODD) == {"another-broker"}
    assert ids(trades=None) == set()
    (found,) = (trade for trade in books().ours(statement(trades=[])).trades if trade.trade_id == "last")
    assert found == StatedTrade(
        trade_id="last",
        symbol="SAP",
        side="SELL",
        quantity=D("2.5"),
        price=D("241.3"),
        fee=D(1),
        currency="EUR",
        executed_at=END - timedelta(microseconds=1),
    )


def test_positions_are_all_fills_before_the_end_of_the_period(client: Client) -> None:
    most = "99999999999999999999.999999999999999999"
    insert(
        client,
        "fills",
        fill("a", most, "2020-01-01 00:00:00"),
        fill("b", most, "2020-01-01 00:00:00"),
        fill("c", "-0.000000000000000001", "2026-03-02 23:59:59.999999"),
        fill("d", "5", "2026-03-03 00:00:00"),
        fill("e", "5", broker=None),
        fill("f", "-3", symbol="EUR/USD", portfolio_id="pension"),
    )
    found = books().ours(statement(positions=[]))
    assert found.positions == {"SAP": D("199999999999999999999.999999999999999997"), "EUR/USD": D(-3)}
    assert books().ours(statement(positions=[], portfolio_id="pension")).positions == {"EUR/USD": D(-3)}
    assert books().ours(statement()).positions == {}


def test_balances_are_those_of_the_events_before_the_end(client: Client) -> None:
    def event(total: str, time: str, number: int, **other: Any) -> dict[str, Any]:
        usual = {"user_id": "alice", "wallet_id": "w-1", "asset": "USD", "balance_total": D(total)}
        amounts = {"balance_available": D(total), "occurred_at": time, "balance_sequence": number}
        return usual | amounts | {"source_topic": "transactions", "source_offset": number} | other

    insert(
        client,
        "transactions",
        event("100", "2026-03-02 10:00:00", 1),
        event("90", "2026-03-03 00:00:00", 2),
        event("95.5", "2026-03-02 11:00:00", 3),  # late: + 5.5
        event("500", "2026-03-02 12:00:00", 101),
        event("7", "2026-03-02 10:00:00", 1, user_id="bob"),
    )
    stated = [{"wallet_id": "w-1", "asset": "USD", "total": "0"}]
    assert books().ours(statement(balances=stated)).balances == {("w-1", "USD"): D("105.5")}
    assert books().ours(statement(balances=[])).balances == {}


def test_what_stands_is_the_last_change_of_each_break(client: Client) -> None:
    """Through the rows that the reconciler publishes, and read back as they were."""
    trade = {"trade_id": "t", "symbol": "SAP", "side": "BUY", "quantity": "1.5", "price": "2", "executed_at": START}
    first = statement(broker=ODD, trades=[trade], positions=[{"symbol": "SAP", "quantity": "-1e19"}])
    account = Account(ODD, "alice")
    now = END + timedelta(hours=1, microseconds=1)

    one = judge(first, books().ours(first), books().standing(account), Tolerances(), now, CAUSE)
    outbox = Outbox(SETTINGS, 0)
    outbox.breaks(one.changed, ("broker_statements", 0))
    outbox.judged(first, len(one.found), now, CAUSE)
    assert sorted(deliver(client, outbox)) == ["analytics", "analytics", *["reconciliation_breaks"] * 2]
    standing = books().standing(account)
    assert sorted(standing, key=lambda each: each.break_id) == [
        each.model_copy(update={"cause": None}) for each in one.changed
    ]
    assert books().judged(first) == (1, digest(first))
    assert books().standing(Account(ODD, "alice", "main")) == books().standing(Account("IBKR", "alice")) == []
    assert books().break_of("bob", one.changed[0].break_id) is None

    second = statement(broker=ODD, version=2, trades=[], positions=[])
    two = judge(second, books().ours(second), standing, Tolerances(), now, CAUSE)
    told = books()
    told.tell(two.changed)
    told.tell_judged(second)
    assert [each.sequence for each in told.standing(account) if each.type == "MISSING_TRADE"] == [2]
    assert told.judged(first) == (2, digest(second))
    outbox = Outbox(SETTINGS, 0)
    outbox.breaks(two.changed, ("broker_statements", 0))
    outbox.judged(second, 1, now, CAUSE)
    deliver(client, outbox)
    gone = books().break_of("alice", two.changed[0].break_id)
    assert gone is not None
    assert (gone.status, gone.sequence, gone.our_value, gone.difference) == ("RESOLVED", 2, None, D("1.5"))
    assert books().judged(first) == (2, digest(second))
    query = f"SELECT break_id FROM {DB}.breaks WHERE status = 'OPEN'"
    assert client.query(query).result_rows == [(f"{account.break_id(one.found[1].type, 'SAP')}",)]
    counts = f"SELECT version, trades, positions, balances, breaks FROM {DB}.broker_statements ORDER BY version"
    assert client.query(counts).result_rows == [(1, 1, 1, None, 2), (2, 0, 0, None, 1)]


def test_a_refused_message_is_kept_whole(client: Client) -> None:
    outbox = Outbox(SETTINGS, 0)
    outbox.letter(CAUSE, 0, b"alice", b"\xff{", Rejection(Verdict.MALFORMED, "not UTF-8 at byte 0"))
    assert deliver(client, outbox) == ["dead_letters", "analytics"]
    query = f"SELECT dead_letter_id, key, value, reason, detail, source_offset FROM {DB}.dead_letters"
    assert client.query(query).result_rows == [
        ("broker_statements-0-3", "YWxpY2U=", "/3s=", "malformed", "not UTF-8 at byte 0", 3)
    ]


def test_accounts_of_our_own_are_held_against_each_other(client: Client) -> None:
    at = END

    def found() -> dict[str, set[tuple[str, str, Decimal | None, Decimal | None]]]:
        told = books().internal(lambda user: user != "carol", at)
        return {
            user: {(each.type.value, each.subject, each.statement_value, each.our_value) for each in all_of}
            for user, all_of in told.items()
        }

    def posting(account: str, amount: str, entry: int, **other: Any) -> dict[str, Any]:
        usual = {"user_id": "alice", "transaction_id": "d-1", "account": account, "asset": "USD", "amount": D(amount)}
        return usual | {"entry": entry, "source_topic": "transactions", "source_offset": 1} | other

    balance = {"wallet_id": "w-1", "asset": "USD", "balance_total": D("10"), "source_topic": "transactions"}
    insert(
        client,
        "fills",
        fill("a", "5", position_quantity=D(5), source_offset=1),
        fill("b", "-7", position_quantity=D(-2), source_offset=2),
        fill("c", "5", position_quantity=D(99), source_offset=100),
    )
    insert(client, "transactions", {"user_id": "alice", "balance_sequence": 1, "source_offset": 1} | balance)
    insert(client, "wallet_entries", posting("wallet:alice/w-1", "10", 0), posting("external:SEPA", "-10", 1))
    assert found() == {}
    insert(client, "fills", fill("d", "1", user_id="bob", symbol="A/B", position_quantity=D("1.5")))
    insert(client, "fills", fill("d", "1", user_id="carol", position_quantity=D("1.5")))
    insert(client, "wallet_entries", posting("fees", "0.25", 2))
    later = {"user_id": "alice", "balance_sequence": 2, "source_offset": 2}
    insert(client, "transactions", later | balance | {"balance_total": D("9.99")})
    insert(
        client, "wallet_entries", posting("wallet:bob/w", "3", 0, user_id="bob", source_offset=5, transaction_id="x")
    )
    insert(client, "wallet_entries", posting("transit", "-3", 1, user_id="bob", source_offset=5, transaction_id="x"))
    assert found() == {
        "alice": {
            ("INTERNAL_BALANCE", "w-1/USD", D("10"), D("9.99")),
            ("INTERNAL_POSTINGS", "d-1/transactions-0-1/USD", D("0.25"), D(0)),
        },
        "bob": {("INTERNAL_POSITION", "main/A/B", D(1), D("1.5")), ("INTERNAL_BALANCE", "w/USD", D(3), D(0))},
    }


def test_where_rows_expire_nothing_can_be_judged() -> None:
    with pytest.raises(RowsExpire, match="CLICKHOUSE_TTL_DAYS"):
        Books(SETTINGS.model_copy(update={"clickhouse_ttl_days": 30}), CUT)
