"""`assetstream statement`, `holdings` and `gains`, and the views of what was at a time, against the real engine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from random import Random
from typing import Any

import pytest
from clickhouse_connect.driver.client import Client
from typer.testing import CliRunner, Result

from assetstream.cli.main import app
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.lots import METHODS
from assetstream.models.market import market
from assetstream.models.messages import parse_time, to_micros
from assetstream.models.reference import ONE, Book, Reference, fill, plain, times, timestamp
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate
from assetstream.sinks.schema import TABLES

DB = "analysts_test"
DAY = "2026-03-02"
LATER = 4_102_444_800_000  # the year 2100: nothing is in the future of it
PERIOD = ("--from", f"{DAY}T11:00:00Z", "--to", f"{DAY}T14:00:00Z")

#: alice's outcomes as they were booked: (id, type, status, code, amount, fee, total, available, locked, time, topic,
#: partition, offset). The dividend is late; partitions were added before the withdrawal was completed.
OUTCOMES = (
    ("d-1", "DEPOSIT", "COMPLETED", None, "101", "1", "100", "100", "0", "10:00", "transactions", 3, 10),
    ("w-7", "WITHDRAWAL", "PENDING", None, "29", "1", "100", "70", "30", "12:00", "transactions", 3, 11),
    ("i-1", "DIVIDEND", "COMPLETED", None, "5", "0", "105", "75", "30", "11:00", "transactions", 3, 12),
    ("x-3", "TRANSFER", "COMPLETED", None, "20", "0", "85", "55", "30", "13:00", "transactions", 3, 14),
    ("w-8", "WITHDRAWAL", "FAILED", "INSUFFICIENT_FUNDS", "900", "0", "85", "55", "30", "13:15", "transactions", 3, 15),
    ("w-7", "WITHDRAWAL", "COMPLETED", None, "29", "1", "55", "55", "0", "14:00", "transactions", 9, 0),
)
#: (id, wallet, amount, time, topic, partition, offset)
POSTED = (
    ("d-1", "w-1", "100", "10:00", "transactions", 3, 10),
    ("i-1", "w-1", "5", "11:00", "transactions", 3, 12),
    ("x-3", "w-1", "-20", "13:00", "transactions", 3, 14),
    ("x-3", "w-2", "20", "13:00", "transactions", 3, 14),
    ("w-7", "w-1", "-30", "14:00", "transactions", 9, 0),
)
#: (id, side, quantity, price, fee, time) as they were booked: the sale is late
TRADES = (
    ("t-1", "BUY", 10, 100, 1, "10:00"),
    ("t-2", "BUY", 10, 200, 1, "13:00"),
    ("t-3", "SELL", 10, 150, 2, "12:00"),
    ("t-4", "SELL", 10, 160, 0, "14:00"),
)


@pytest.fixture(scope="module")
def database(stack: EmbeddedStack) -> Iterator[Client]:
    """A client, and the database of these tests, with alice's events and one of bob's."""
    settings = stack.settings(clickhouse_database=DB)
    client = connect(settings)
    migrate(client, settings)
    outcomes = [outcome("alice", number, *row) for number, row in enumerate(OUTCOMES, 1)]
    insert(client, "transactions", *outcomes, outcome("bob", 1, *OUTCOMES[0]))
    names = ("transaction_id", "account", "amount", "occurred_at", "source_topic", "source_partition", "source_offset")
    for id_, wallet, amount, time, *source in POSTED:
        row = (id_, f"wallet:alice/{wallet}", amount, f"{DAY} {time}:00", *source)
        insert(client, "wallet_entries", {"user_id": "alice", "asset": "USD", **dict(zip(names, row, strict=True))})
    there = {
        "total": "20",
        "available": "20",
        "locked": "0",
        "sequence": 1,
        "transaction_id": "x-3",
        "wallet_id": "w-2",
    }
    source = {"source_topic": "transactions", "source_partition": 3, "source_offset": 14}
    insert(
        client,
        "wallet_changes",
        {"user_id": "alice", "asset": "USD", "occurred_at": f"{DAY} 13:00:00", **there, **source},
    )
    insert(client, "fills", *trades("alice", *TRADES))
    yield client
    client.command(f"DROP DATABASE {DB}")
    client.close()


def outcome(user: str, sequence: int, *row: Any) -> dict[str, Any]:
    names = (
        "transaction_id", "type", "status", "code", "amount", "fee", "balance_total", "balance_available",
        "balance_locked", "occurred_at", "source_topic", "source_partition", "source_offset",
    )  # fmt: skip
    known = {"user_id": user, "wallet_id": "w-1", "asset": "USD", "balance_sequence": sequence}
    found = dict(zip(names, row, strict=True))
    return {**known, **found, "occurred_at": f"{DAY} {found['occurred_at']}:00"}


def trades(user: str, *rows: tuple[str, str, int, int, int, str]) -> Iterator[dict[str, Any]]:
    book = Book()
    for offset, (id_, side, quantity, price, fee, time) in enumerate(rows):
        realized = book.realized_pnl
        book = fill(book, 1 if side == "BUY" else -1, quantity * ONE, price * ONE, fee * ONE)
        after = dict(zip(("quantity", "cost_basis", "realized_pnl", "fees"), map(plain, book), strict=True))
        yield {
            "trade_id": id_,
            "user_id": user,
            "portfolio_id": "main",
            "symbol": "ACME",
            "currency": "USD",
            "side": side,
            "quantity": str(quantity),
            "price": str(price),
            "fee": str(fee),
            "fill_realized_pnl": plain(book.realized_pnl - realized),
            "notional": plain(times(quantity * ONE, price * ONE)),
            **{f"position_{name}": value for name, value in after.items()},
            "position_average_price": None if book.average_price is None else plain(book.average_price),
            "executed_at": f"{DAY} {time}:00",
            "source_offset": offset,
        }


def insert(client: Client, table: str, *rows: dict[str, Any]) -> None:
    text = "\n".join(json.dumps(row) for row in rows)
    reading = {"date_time_input_format": "best_effort"}
    client.raw_insert(f"{DB}.{table}", insert_block=text, fmt="JSONEachRow", settings=reading)


@pytest.fixture(autouse=True)
def asked(database: Client, stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands ask that database."""
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", stack.clickhouse)
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_DATABASE", DB)


def run(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def sql(query: str) -> list[dict[str, Any]]:
    return lines(run("sql", "--json", query))


# -- statements --------------------------------------------------------------------------------------------------------


def usd(total: str, available: str, locked: str) -> dict[str, str]:
    return {"total": total, "available": available, "locked": locked}


def test_a_period_by_hand() -> None:
    result = run("statement", "alice", *PERIOD, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {name: found[name] for name in ("user_id", "from", "to", "differences", "reconciled")} == {
        "user_id": "alice",
        "from": f"{DAY}T11:00:00.000000Z",
        "to": f"{DAY}T14:00:00.000000Z",
        "differences": [],
        "reconciled": True,
    }
    assert found["balances"] == [
        {"wallet_id": "w-1", "asset": "USD", "opening": usd("100", "100", "0"), "closing": usd("85", "55", "30")},
        {"wallet_id": "w-2", "asset": "USD", "opening": usd("0", "0", "0"), "closing": usd("20", "20", "0")},
    ]
    assert found["movements"][0] == {
        "occurred_at": f"{DAY}T11:00:00.000000Z",
        "transaction_id": "i-1",
        "wallet_id": "w-1",
        "asset": "USD",
        "type": "DIVIDEND",
        "status": "COMPLETED",
        "code": None,
        "amount": "5",
        "fee": "0",
        "change": usd("5", "5", "0"),
        "balance": usd("105", "105", "0"),
    }
    names = ("transaction_id", "wallet_id", "type", "status", "code", "amount", "fee")
    told = [
        (*(line[name] for name in names), *line["change"].values(), *line["balance"].values())
        for line in found["movements"]
    ]
    assert told[1:] == [
        ("w-7", "w-1", "WITHDRAWAL", "PENDING", None, "29", "1", "0", "-30", "30", "105", "75", "30"),
        ("x-3", "w-2", "TRANSFER", "COMPLETED", None, None, None, "20", "20", "0", "20", "20", "0"),
        ("x-3", "w-1", "TRANSFER", "COMPLETED", None, "20", "0", "-20", "-20", "0", "85", "55", "30"),
        ("w-8", "w-1", "WITHDRAWAL", "FAILED", "INSUFFICIENT_FUNDS", "900", "0", "0", "0", "0", "85", "55", "30"),
    ]
    assert found["trades"] == [
        {
            "executed_at": f"{DAY}T12:00:00.000000Z",
            "trade_id": "t-3",
            "portfolio_id": "main",
            "symbol": "ACME",
            "currency": "USD",
            "side": "SELL",
            "quantity": "10",
            "price": "150",
            "notional": "1500",
            "fee": "2",
            "position_quantity": "0",
        },
        {
            "executed_at": f"{DAY}T13:00:00.000000Z",
            "trade_id": "t-2",
            "portfolio_id": "main",
            "symbol": "ACME",
            "currency": "USD",
            "side": "BUY",
            "quantity": "10",
            "price": "200",
            "notional": "2000",
            "fee": "1",
            "position_quantity": "10",
        },
    ]
    assert found["positions"] == [
        {
            "portfolio_id": "main",
            "symbol": "ACME",
            "currency": "USD",
            "opening_quantity": "10",
            "quantity": "10",
            "cost_basis": "1500",
            "average_price": "150",
            "realized_pnl": "0",
            "fees": "3",
        }
    ]


def test_one_period_opens_where_the_other_closed() -> None:
    whole = json.loads(run("statement", "alice", "--day", DAY, "--json").stdout)
    parts = [json.loads(run("statement", "alice", "--from", start, "--to", end, "--json").stdout) for start, end in (
        (DAY, f"{DAY}T11:30:00Z"), (f"{DAY}T11:30:00Z", f"{DAY}T13:00:00Z"), (f"{DAY}T13:00:00Z", "2026-03-03"),
    )]  # fmt: skip
    assert [part["reconciled"] for part in (whole, *parts)] == [True] * 4
    for before, after in pairwise(parts):
        opening, closing = (
            {line["wallet_id"]: line[when] for line in part["balances"]}
            for when, part in (("opening", after), ("closing", before))
        )
        assert closing == {wallet: held for wallet, held in opening.items() if wallet in closing}
        assert all(opening[wallet] == usd("0", "0", "0") for wallet in opening.keys() - closing)
    for name in ("movements", "trades"):
        assert [line for part in parts for line in part[name]] == whole[name]
    assert [line["closing"] for line in parts[-1]["balances"]] == [line["closing"] for line in whole["balances"]]
    realized = [part["positions"][0]["realized_pnl"] for part in parts]
    assert (realized, whole["positions"][0]["realized_pnl"]) == (["0", "500", "-400"], "100")


def test_a_day_without_anything_is_empty_and_right() -> None:
    found = json.loads(run("statement", "alice", "--json").stdout)  # yesterday, today
    assert (found["movements"], found["trades"], found["reconciled"]) == ([], [], True)
    assert found["balances"][0]["opening"] == found["balances"][0]["closing"] == usd("55", "55", "0")
    nobody = json.loads(run("statement", "' OR 1 = 1 --", "--json").stdout)
    assert (nobody["balances"], nobody["positions"], nobody["reconciled"]) == ([], [], True)


def test_it_is_readable() -> None:
    result = run("statement", "alice", *PERIOD)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"alice, from {DAY}T11:00:00.000000Z up to {DAY}T14:00:00.000000Z\n")
    assert (
        "opening + movements = closing, and all as it was posted: 2 balances, 5 movements, 2 trades, 1 positions"
        in (result.stdout)
    )
    rows = [
        [cell.strip() for cell in line[1:-1].split(line[0])] for line in result.stdout.splitlines() if line[0] in "┃│"
    ]
    assert ["w-1", "USD", "100", "100", "0", "85", "55", "30"] in rows


def test_what_does_not_add_up_is_said_and_exits_with_1(database: Client) -> None:
    """A balance that moved without a posting: the deposit of bob's has none."""
    result = run("statement", "bob", "--day", DAY)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:-1] == [
        "w-1/USD d-1 COMPLETED: 100, but its postings come to 0",
        "w-1/USD closing: 100, but all postings come to 0",
    ]
    assert not json.loads(run("statement", "bob", "--day", DAY, "--json").stdout)["reconciled"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--day", "yesterday"), "write it as 2026-03-02"),
        (("--day", DAY, "--from", DAY, "--to", DAY), "either --day"),
        (("--from", DAY), "both --from and --to"),
        (("--from", DAY, "--to", DAY), "has to be before"),
        (("--from", f"{DAY}T09:00:00", "--to", DAY), "with an offset"),
    ],
)
def test_a_period_that_is_none_is_wrong_use(options: tuple[str, ...], told: str) -> None:
    result = run("statement", "alice", *options)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


# -- what was at a time ------------------------------------------------------------------------------------------------


def test_holdings_are_the_view_positions() -> None:
    found = lines(run("holdings", "alice", "--json"))
    assert found == [
        {
            "portfolio_id": "main",
            "symbol": "ACME",
            "currency": "USD",
            "quantity": "0",
            "cost_basis": "0",
            "average_price": None,
            "realized_pnl": "100",
            "fees": "4",
            "last_trade_at": f"{DAY}T14:00:00.000000Z",
        }
    ]
    view = "SELECT * EXCEPT user_id FROM positions WHERE user_id = 'alice' SETTINGS date_time_output_format = 'iso'"
    assert sql(view) == found


@pytest.mark.parametrize(
    ("time", "quantity", "cost", "average", "realized", "fees"),
    [
        ("10:00:00Z", "10", "1000", "100", "0", "1"),
        ("11:59:59.999999Z", "10", "1000", "100", "0", "1"),
        ("14:30:00+02:00", "0", "0", None, "500", "3"),  # as if the late sale had come in time
        ("13:30:00Z", "10", "1500", "150", "0", "4"),  # all three, as they were booked
    ],
)
def test_a_position_is_that_of_the_fills_executed_by_then(
    time: str, quantity: str, cost: str, average: str | None, realized: str, fees: str
) -> None:
    (found,) = lines(run("holdings", "alice", "--at", f"{DAY}T{time}", "--json"))
    names = ("quantity", "cost_basis", "average_price", "realized_pnl", "fees")
    assert tuple(found[name] for name in names) == (quantity, cost, average, realized, fees)


def test_before_the_first_trade_there_is_no_position() -> None:
    assert lines(run("holdings", "alice", "--at", f"{DAY}T09:00:00Z", "--json")) == []
    assert lines(run("holdings", "alice", "--portfolio", "other", "--json")) == []
    assert run("holdings", "alice").stdout.count("ACME") == 1


def test_fills_that_are_missing_are_told_not_computed_without(database: Client) -> None:
    *_, last = trades("carol", *TRADES)
    insert(database, "fills", last)
    result = run("holdings", "carol")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("fills of main/ACME before t-4 are not in ClickHouse: ask again when")


def test_the_views_at_a_time_say_the_same() -> None:
    at = f"at = '{DAY} 12:30:00'"
    assert sql(f"SELECT wallet_id, total, available, locked FROM balances_at({at}) WHERE user_id = 'alice'") == [
        {"wallet_id": "w-1", "total": "105", "available": "75", "locked": "30"}
    ]
    columns = "quantity, net_cost, fees"
    # cost basis 0 − realised 500
    assert sql(f"SELECT {columns} FROM positions_at({at}) WHERE user_id = 'alice'") == [
        {"quantity": "0", "net_cost": "-500", "fees": "3"}
    ]


# -- gains -------------------------------------------------------------------------------------------------------------

ACME = {"portfolio_id": "main", "symbol": "ACME", "currency": "USD"}


def gains(*args: str) -> dict[str, Any]:
    result = run("gains", "alice", *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_gains_by_hand() -> None:
    """10 at 100, 10 at 200; 10 sold at 150, 10 at 160."""
    assert gains("--method", "lifo") == {
        "user_id": "alice",
        "method": "LIFO",
        "year": None,
        "gains": [
            {
                **ACME,
                "entry": 1,
                "side": "LONG",
                "quantity": "10",
                "opened_by": "t-2",
                "closed_by": "t-3",
                "opened_at": f"{DAY}T13:00:00.000000Z",
                "closed_at": f"{DAY}T12:00:00.000000Z",
                "holding_days": 0,
                "proceeds": "1500",
                "cost": "2000",
                "gain": "-500",
            },
            {
                **ACME,
                "entry": 2,
                "side": "LONG",
                "quantity": "10",
                "opened_by": "t-1",
                "closed_by": "t-4",
                "opened_at": f"{DAY}T10:00:00.000000Z",
                "closed_at": f"{DAY}T14:00:00.000000Z",
                "holding_days": 0,
                "proceeds": "1600",
                "cost": "1000",
                "gain": "600",
            },
        ],
        "totals": [{"currency": "USD", "proceeds": "3100", "cost": "3000", "gain": "100"}],
        "lots": [],
        "positions": [{**ACME, "quantity": "0", "cost_basis": "0", "realized_pnl": "100", "net_cost": "-100"}],
        "differences": [],
        "ties_out": True,
    }


def test_methods_differ_only_in_when_and_average_is_what_the_stream_booked() -> None:
    realized = {method: [line["gain"] for line in gains("--method", method)["gains"]] for method in METHODS}
    assert realized == {
        "FIFO": ["500", "-400"],
        "LIFO": ["-500", "600"],
        "HIFO": ["-500", "600"],
        "AVERAGE": ["0", "100"],
    }
    booked = sql(
        "SELECT fill_realized_pnl AS gain FROM fills WHERE user_id = 'alice' AND side = 'SELL' ORDER BY trade_id"
    )
    assert [line["gain"] for line in booked] == realized["AVERAGE"]
    average = gains("--method", "AVERAGE")["gains"][0]
    assert [average[name] for name in ("opened_by", "opened_at", "holding_days")] == [None] * 3


def test_gains_of_a_year_a_portfolio_or_a_symbol() -> None:
    assert len(gains("--year", "2026")["gains"]) == 2
    of_before = gains("--year", "2025")
    assert (of_before["gains"], of_before["totals"], of_before["positions"][0]["realized_pnl"]) == ([], [], "100")
    assert gains("--portfolio", "other")["positions"] == gains("--symbol", "BTC")["positions"] == []
    assert gains("--portfolio", "main", "--symbol", "ACME") == gains()


def test_gains_that_are_written_are_there_once_however_often() -> None:
    for method in ("FIFO", "FIFO", "AVERAGE"):
        result = run("gains", "alice", "--method", method, "--write")
        assert (result.exit_code, result.stderr) == (0, "2 gains are in lot_gains\n")
    found = sql("SELECT * FROM lot_gains ORDER BY method, entry SETTINGS date_time_output_format = 'iso'")
    told = [
        {"user_id": "alice", "method": method, **line, "entry": str(line["entry"])}
        for method in ("AVERAGE", "FIFO")
        for line in gains("--method", method)["gains"]
    ]
    assert found == told
    assert run("gains", "nobody", "--write").stderr == "0 gains are in lot_gains\n"


def test_gains_are_readable() -> None:
    result = run("gains", "alice", "--method", "AVERAGE", "--year", "2026")
    assert result.stdout.startswith("alice, AVERAGE, closed in 2026\n")
    assert "nothing is lost: cost basis − realised P&L = net cost of 1 positions' fills\n" in result.stdout
    assert result.stdout.endswith("realised P&L is the stream's\n")
    assert run("gains", "alice", "--method", "WORST").exit_code == 2


# -- histories ---------------------------------------------------------------------------------------------------------


def history() -> Reference:
    """A market's trades and wallet events as the reference model takes them, a fifth of them up to an hour late, and
    transfers between its users, half of them reversed.
    """
    random, model, offsets = Random(7), Reference(judging=False), Counter[str]()
    last = {"trades": "executed_at", "transactions": "occurred_at"}

    def feed(topic: str, message: dict[str, Any]) -> None:
        model.feed(topic, 0, offsets[topic], LATER, message["user_id"].encode(), json.dumps(message).encode())
        offsets[topic] += 1
        while len(model.ledger.sent) > offsets["transfers"]:
            feed("transfers", model.ledger.sent[offsets["transfers"]])

    for number, (topic, _, value) in enumerate(islice(market(users=3, symbols=3, seed=7), 1500)):
        if topic not in last:
            continue
        message = json.loads(value or b"")
        time = to_micros(parse_time(message[last[topic]])) // 1_000_000 * 1_000_000  # many at the same time
        message[last[topic]] = timestamp(time - random.choice((0, 0, 0, 0, random.randrange(3_600_000_000))))
        feed(topic, message)
        if "asset" in message:  # it moves money
            to = {"user_id": random.choice(("u00000", "u00001", "u00002")), "wallet_id": "spot"}
            kept = ("user_id", "wallet_id", "asset", "occurred_at")
            event = {**{name: message[name] for name in kept}, "status": "COMPLETED", "amount": "3"}
            feed(topic, {**event, "transaction_id": f"x-{number}", "type": "TRANSFER", "counterparty": to})
            if number % 2:
                feed(topic, {**event, "transaction_id": f"r-{number}", "type": "REVERSAL", "reverses": f"x-{number}"})
    return model


def keep(client: Client, model: Reference) -> None:
    """The rows of a history, as the sinks insert them."""

    def sourced(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **{f"source_{name}": value for name, value in row["cause"].items()}}

    def known(table: str, rows: Iterable[dict[str, Any]]) -> None:
        columns = TABLES[table].columns
        insert(client, TABLES[table].target, *({name: row[name] for name in columns if name in row} for row in rows))

    outcomes = [
        {**sourced(row), **{f"balance_{name}": held for name, held in row["balance"].items()}, "balance_sequence": n}
        for row, n in zip(model.outcomes, model.ledger.sequences, strict=True)
    ]
    known("transactions", outcomes)
    known("balance_changes", map(sourced, model.balance_changes))
    legs = ({**row, **leg, "entry": entry} for row in outcomes for entry, leg in enumerate(row["postings"]))
    known("ledger_entries", legs)
    known("fills", model.fills)
    postings = (
        {**sourced(event), "transaction_id": event["settlement_id"], "legs": legs}
        for event, legs in model.settled_postings
    )
    known("ledger_entries", ({**row, **leg, "entry": k} for row in postings for k, leg in enumerate(row["legs"])))


def test_statements_holdings_and_gains_of_a_history_add_up_to_what_the_reference_has(database: Client) -> None:
    model = history()
    keep(database, model)
    assert len(model.ledger.sent) > 20
    assert model.balance_changes
    moved = 0
    for user in ("u00000", "u00001", "u00002"):
        times = sorted(outcome["occurred_at"] for outcome in model.outcomes if outcome["user_id"] == user)
        cuts = ("1970-01-01", times[len(times) // 3], times[len(times) // 2], "2299-01-01")
        held: dict[tuple[str, ...], dict[str, str]] = {}
        for start, end in pairwise(cuts):
            result = run("statement", user, "--from", start, "--to", end, "--json")
            assert result.exit_code == 0, result.output
            found = json.loads(result.stdout)
            moved += len(found["movements"])
            for line in found["balances"]:
                key = user, line["wallet_id"], line["asset"]
                assert line["opening"] == held.get(key, usd("0", "0", "0"))
                held[key] = line["closing"]
        assert held == {key: balance for key, balance in model.balances.items() if key[0] == user}
        positions = {
            (user, line.pop("portfolio_id"), line.pop("symbol")): line
            for line in lines(run("holdings", user, "--json"))
        }
        assert positions == {key: position for key, position in model.positions.items() if key[0] == user}
        assert run("gains", user, "--method", "AVERAGE").exit_code == 0
    assert moved == len(model.outcomes) + len(model.balance_changes)
