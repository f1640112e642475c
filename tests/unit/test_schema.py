"""Migrations and views on the ClickHouse engine in this process (chDB)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest
from clickhouse_connect.driver.client import Client

from assetstream.cli.audit import laws
from assetstream.sinks import migrations
from assetstream.sinks.migrations import Migration, SchemaEdited, SchemaMissing, SchemaTooNew, check, migrate
from assetstream.sinks.schema import TABLES, VIEWS, VIEWS_AT
from assetstream.streams.settings import Settings

D = Decimal


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    """Settings with a database of the test's own."""
    name = "t_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[:60]
    return Settings(clickhouse_database=name, _env_file=None)


@pytest.fixture
def client(engine: Client, settings: Settings) -> Iterator[Client]:
    """The engine, with the database made."""
    migrate(engine, settings)
    yield engine
    engine.command(f"DROP DATABASE {settings.clickhouse_database}")


def ask(client: Client, settings: Settings, query: str) -> list[tuple]:
    """Rows of a query with {db} in it."""
    return [tuple(row) for row in client.query(query.replace("{db}", settings.clickhouse_database)).result_rows]


def test_the_tables_are_what_the_batches_fill(client: Client, settings: Settings) -> None:
    for table in TABLES.values():
        columns = client.query(
            "SELECT name, type FROM system.columns "
            "WHERE database = {db:String} AND table = {t:String} ORDER BY position",
            parameters={"db": settings.clickhouse_database, "t": table.target},
        ).result_rows
        assert dict(columns) == table.columns
        assert [name for name, _ in columns] == list(table.columns)


def test_what_is_stored_under_another_name_is_a_view_of_the_same_columns(client: Client, settings: Settings) -> None:
    tables = [table for table in TABLES.values() if table.stored]
    assert [table.name for table in tables] == ["ledger_entries", "balance_changes"]
    for table in tables:
        described = dict(ask(client, settings, f"SELECT name, type FROM system.columns WHERE table = '{table.name}'"))
        assert described == table.columns


def test_every_table_remembers_tokens_and_is_in_one_partition(client: Client, settings: Settings) -> None:
    engines = dict(
        ask(
            client,
            settings,
            "SELECT name, engine_full FROM system.tables WHERE database = '{db}' AND engine = 'MergeTree'",
        )
    )
    assert set(engines) == {*(table.target for table in TABLES.values()), "schema_migrations"}
    for name, engine in engines.items():
        assert "non_replicated_deduplication_window = 10000" in engine, name
        assert "PARTITION BY" not in engine, name


def test_migrating_again_does_nothing(client: Client, settings: Settings) -> None:
    assert migrate(client, settings) == []
    check(client, settings)
    rows = ask(client, settings, "SELECT version, name, checksum FROM {db}.schema_migrations ORDER BY version")
    assert rows == [(m.version, m.name, m.checksum) for m in migrations.MIGRATIONS]


def test_without_tables_the_worker_is_told_to_run_init(engine: Client, settings: Settings) -> None:
    with pytest.raises(SchemaMissing, match="run `assetstream init`") as error:
        check(engine, settings)
    assert (error.value.found, error.value.needed) == (0, migrations.VERSION)


def test_an_interrupted_init_is_mended_by_the_next(engine: Client, settings: Settings) -> None:
    db = settings.clickhouse_database
    engine.command(f"CREATE DATABASE {db}")
    engine.command(migrations.MIGRATIONS[0].statements[0].format(db=db))
    with pytest.raises(SchemaMissing):
        check(engine, settings)
    assert migrate(engine, settings) == list(migrations.MIGRATIONS)
    check(engine, settings)
    engine.command(f"DROP DATABASE {db}")


def test_an_older_schema_is_brought_up_and_a_newer_one_refused(
    client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, version = migrations.MIGRATIONS, migrations.VERSION
    another = Migration(version + 1, "more", ("ALTER TABLE {db}.fills ADD COLUMN IF NOT EXISTS venue String",))
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "MIGRATIONS", (*ours, another))
        newer.setattr(migrations, "VERSION", version + 1)
        with pytest.raises(SchemaMissing, match=f"has schema version {version}, version {version + 1} is needed"):
            check(client, settings)
        assert migrate(client, settings) == [another]
        check(client, settings)
    for refuse in (check, migrate):
        with pytest.raises(
            SchemaTooNew, match=f"has schema version {version + 1}, this assetstream knows {version}"
        ) as error:
            refuse(client, settings)
        assert (error.value.found, error.value.known) == (version + 1, version)


def test_an_edited_migration_is_found_out(client: Client, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", (Migration(1, "other", ("SELECT 1",)),))
    with pytest.raises(SchemaEdited, match="migration 1"):
        check(client, settings)


def test_the_ttl_follows_the_settings(client: Client, settings: Settings) -> None:
    def ttls(days: int | None) -> set[bool]:
        migrate(client, settings.model_copy(update={"clickhouse_ttl_days": days}))
        engines = dict(ask(client, settings, "SELECT name, engine_full FROM system.tables WHERE database = '{db}'"))
        wanted = "TTL" if days is None else f"toIntervalDay({days})"
        return {wanted in engines[table.target] for table in TABLES.values()}

    assert ttls(30) == {True}
    assert ttls(7) == {True}
    assert ttls(None) == {False}


def test_positions_are_the_last_fill_of_each(client: Client, settings: Settings) -> None:
    """The fill applied last, and the latest time: a late trade doesn't turn `last_trade_at` back."""
    insert = """
        INSERT INTO {db}.fills
            (user_id, portfolio_id, symbol, currency, executed_at, position_quantity, position_cost_basis,
             position_average_price, position_realized_pnl, position_fees, source_partition, source_offset)
        VALUES
            ('u', 'p', 'A', 'USD', '2026-03-02 09:00:05', 10, 1000, 100, 0, 0.1, 1, 7),
            ('u', 'p', 'A', 'USD', '2026-03-02 09:00:01', 0, 0, NULL, 25.5, 0.2, 1, 12),
            ('u', 'q', 'A', 'EUR', '2026-03-02 09:00:02', -3, -30, 10, 0, 0, 1, 9)
    """
    client.command(insert.replace("{db}", settings.clickhouse_database))
    query = (
        "SELECT user_id, portfolio_id, symbol, currency, quantity, cost_basis, average_price, realized_pnl, fees, "
        "toString(last_trade_at) FROM {db}.positions ORDER BY portfolio_id"
    )
    assert ask(client, settings, query) == [
        ("u", "p", "A", "USD", D(0), D(0), None, D("25.5"), D("0.2"), "2026-03-02 09:00:05.000000"),
        ("u", "q", "A", "EUR", D(-3), D(-30), D(10), D(0), D(0), "2026-03-02 09:00:02.000000"),
    ]


def test_portfolios_are_the_highest_sequence(client: Client, settings: Settings) -> None:
    insert = """
        INSERT INTO {db}.portfolio_updates
            (user_id, portfolio_id, total_pnl, complete, unpriced, sequence, source_offset)
        VALUES ('u', 'p', 2, false, ['X'], 10, 1), ('u', 'p', 1, true, [], 9, 500), ('v', 'p', 3, true, [], 1, 1)
    """
    client.command(insert.replace("{db}", settings.clickhouse_database))
    query = "SELECT user_id, total_pnl, complete, unpriced, sequence FROM {db}.portfolios ORDER BY user_id"
    assert ask(client, settings, query) == [("u", D(2), False, ["X"], 10), ("v", D(3), True, [], 1)]


def test_balances_are_the_last_of_each_whether_an_outcome_or_a_change_beside_one(
    client: Client, settings: Settings
) -> None:
    """By number, wherever the messages lie; those of before there were numbers, by their place."""
    outcomes = """
        INSERT INTO {db}.transactions
            (user_id, wallet_id, asset, balance_total, balance_available, balance_locked, balance_sequence,
             source_topic, source_offset)
        VALUES
            ('u', 'w', 'USD', 100, 100, 0, 0, 'transactions', 3), ('u', 'w', 'USD', 91, 91, 0, 0, 'transactions', 9),
            ('u', 'w', 'USD', 90, 80, 10, 2, 'transfers', 0), ('u', 'w', 'BTC', 1, 1, 0, 1, 'transactions', 9),
            ('u', 'w', 'EUR', 5, 5, 0, 0, 'transactions', 3), ('u', 'w', 'EUR', 4, 4, 0, 0, 'transactions', 4)
    """
    changes = """
        INSERT INTO {db}.wallet_changes
            (user_id, wallet_id, asset, total, available, locked, sequence, source_topic, source_offset)
        VALUES
            ('u', 'w', 'USD', 95, 95, 0, 1, 'transactions', 8), ('u', 'w', 'BTC', 3, 1, 2, 2, 'transactions', 4),
            ('u', 'x', 'BTC', 7, 7, 0, 1, 'transactions', 5)
    """
    for insert in (outcomes, changes):
        client.command(insert.replace("{db}", settings.clickhouse_database))
    query = "SELECT user_id, wallet_id, asset, total, available, locked FROM {db}.balances ORDER BY wallet_id, asset"
    assert ask(client, settings, query) == [
        ("u", "w", "BTC", D(3), D(1), D(2)),
        ("u", "w", "EUR", D(4), D(4), D(0)),
        ("u", "w", "USD", D(90), D(80), D(10)),
        ("u", "x", "BTC", D(7), D(7), D(0)),
    ]
    query = "SELECT total FROM {db}.balance_history WHERE wallet_id = 'w' AND asset = 'USD' ORDER BY source_offset"
    assert ask(client, settings, query) == [(D(90),), (D(100),), (D(95),), (D(91),)]


def test_the_postings_of_trades_and_what_they_changed_follow_from_their_settlements(
    client: Client, settings: Settings
) -> None:
    """Each is told of the last of these rows, in this order: of a BUY, a SELL, a tick, and one that failed."""
    insert = """
        INSERT INTO {db}.settlements
            (user_id, wallet_id, trade_id, currency, amount, broker, side, asset, quantity, fee, is_booked, is_virtual,
             cash_available, cash_locked, cash_sequence, asset_available, asset_locked, asset_sequence, source_offset)
        VALUES
            ('u', 'w', 't1', 'USD', 100, 'ib', 'BUY', 'ACME', 10, 1, true, false, -101, 0, 1, 0, 10, 1, 0),
            ('u', 'w', 't2', 'USD', 60, NULL, 'SELL', 'ACME', 4, -0.5, true, false, -100.5, 60, 2, -4, 10, 2, 1),
            ('u', 'w', 't1', 'USD', 100, 'ib', 'BUY', 'ACME', 10, 1, false, false, NULL, NULL, NULL, 6, 0, 3, 2),
            ('u', 'v', 't3', 'USD', 5, 'ib', 'BUY', 'USD', 5, 0, true, true, NULL, NULL, NULL, -5, 5, 1, 3),
            ('u', 'w', 't4', 'USD', toDecimal128('99999999999999999999', 18), NULL, 'BUY', 'ACME', 1,
             toDecimal128('99999999999999999999', 18), false, false, NULL, NULL, NULL, NULL, NULL, NULL, 4)
    """
    client.command(insert.replace("{db}", settings.clickhouse_database))
    query = (
        "SELECT transaction_id, entry, account, asset, amount FROM {db}.ledger_entries ORDER BY source_offset, entry"
    )
    assert ask(client, settings, query) == [
        ("u/t1", 0, "wallet:u/w", "USD", D(-101)),
        ("u/t1", 1, "fees", "USD", D(1)),
        ("u/t1", 2, "settlement:ib", "USD", D(100)),
        ("u/t1", 3, "wallet:u/w", "ACME", D(10)),
        ("u/t1", 4, "settlement:ib", "ACME", D(-10)),
        ("u/t2", 0, "wallet:u/w", "ACME", D(-4)),
        ("u/t2", 1, "settlement:unspecified", "ACME", D(4)),
        ("u/t2", 2, "wallet:u/w", "USD", D("60.5")),
        ("u/t2", 3, "fees", "USD", D("-0.5")),
        ("u/t2", 4, "settlement:unspecified", "USD", D(-60)),
        ("u/t3", 0, "wallet:u/v", "USD", D(-5)),
        ("u/t3", 1, "virtual", "USD", D(5)),
        ("u/t3", 2, "wallet:u/v", "USD", D(5)),
        ("u/t3", 3, "virtual", "USD", D(-5)),
    ]
    query = """
        SELECT transaction_id, wallet_id, asset, total, available, locked, sequence FROM {db}.balance_changes
        ORDER BY source_offset, asset DESC
    """
    assert ask(client, settings, query) == [
        ("u/t1", "w", "USD", D(-101), D(-101), D(0), 1),
        ("u/t1", "w", "ACME", D(10), D(0), D(10), 1),
        ("u/t2", "w", "USD", D("-40.5"), D("-100.5"), D(60), 2),
        ("u/t2", "w", "ACME", D(6), D(-4), D(10), 2),
        ("u/t1", "w", "ACME", D(6), D(6), D(0), 3),
        ("u/t3", "v", "USD", D(0), D(-5), D(5), 1),
    ]


def test_what_was_booked_before_trades_were_is_kept(engine: Client, settings: Settings) -> None:
    """A database of the version before, and an `init` that broke off after the first table had another name."""
    db, ours = settings.clickhouse_database, migrations.MIGRATIONS
    engine.command(f"CREATE DATABASE {db}")
    for statement in (each for migration in ours[:8] for each in migration.statements):
        engine.command(str(statement).format(db=db, base_currency="USD"))
    engine.command(f"INSERT INTO {db}.ledger_entries (user_id, transaction_id, amount) VALUES ('u', 'd', 7)")
    engine.command(f"INSERT INTO {db}.balance_changes (user_id, wallet_id, total) VALUES ('u', 'w', 7)")
    engine.command(str(ours[8].statements[1]).format(db=db))
    for _ in range(2):
        migrate(engine, settings)
        assert ask(engine, settings, "SELECT transaction_id, amount FROM {db}.ledger_entries") == [("d", D(7))]
        assert ask(engine, settings, "SELECT wallet_id, total FROM {db}.balance_history") == [("w", D(7))]
    engine.command(f"DROP DATABASE {db}")


def test_the_trial_balance_is_exact_where_a_sum_of_decimals_would_wrap(client: Client, settings: Settings) -> None:
    insert = """
        INSERT INTO {db}.wallet_entries (user_id, account, asset, amount)
        SELECT 'u', 'wallet:u/w', 'USD', toDecimal128('99999999999999999999', 18) FROM numbers(4)
        UNION ALL SELECT 'v', 'wallet:v/w', 'USD', toDecimal128('0.000000000000000001', 18)
        UNION ALL SELECT 'u', 'external:wallet:', 'USD', toDecimal128('-99999999999999999999', 18) FROM numbers(4)
        UNION ALL SELECT 'u', 'fees', 'BTC', toDecimal128('-1.5', 18)
    """
    client.command(insert.replace("{db}", settings.clickhouse_database))
    assert ask(client, settings, "SELECT asset, account, postings, total FROM {db}.trial_balance ORDER BY ALL") == [
        ("BTC", "fees", 1, D("-1.5")),
        ("USD", "external:wallet:", 4, D(-399999999999999999996)),
        ("USD", "wallets", 5, D("399999999999999999996.000000000000000001")),
    ]


def test_a_balance_at_a_time_is_exact_where_late_events_make_a_sum_of_decimals_wrap(
    client: Client, settings: Settings
) -> None:
    """A withdrawal booked between two deposits is later by its own time: until then there is more than ever was."""
    insert = """
        INSERT INTO {db}.transactions
            (user_id, wallet_id, asset, balance_total, balance_available, balance_sequence, occurred_at)
        VALUES
            ('u', 'w', 'USD', toDecimal128('99999999999999999999', 18), 0, 1, '2026-03-02 09:00:00'),
            ('u', 'w', 'USD', 0, 0, 2, '2026-03-02 11:00:00'),
            ('u', 'w', 'USD', toDecimal128('99999999999999999999', 18), 0, 3, '2026-03-02 10:00:00')
    """
    client.command(insert.replace("{db}", settings.clickhouse_database))
    for time, total in (
        ("08:59:59", None),
        ("09:00:00", 10**20 - 1),
        ("10:00:00", 2 * 10**20 - 2),
        ("11:00:00", 10**20 - 1),
    ):
        query = f"SELECT total FROM {{db}}.balances_at(at = '2026-03-02 {time}') WHERE user_id = 'u'"
        assert ask(client, settings, query) == ([] if total is None else [(D(total),)])


def test_what_is_asked_of_one_user_reads_no_other(client: Client, settings: Settings) -> None:
    """The filter goes through the windows of balance_movements, down to the tables' keys."""
    client.command(f"INSERT INTO {settings.clickhouse_database}.transactions (user_id) VALUES ('a')")
    query = "EXPLAIN indexes = 1 SELECT sum(total_change) FROM {db}.balance_movements WHERE user_id = 'b'"
    plan = "\n".join(line for (line,) in ask(client, settings, query))
    assert "user_id in ['b', 'b']" in plan


def test_wallets_are_what_their_own_events_made_of_them(client: Client, settings: Settings) -> None:
    """One that nobody opened is REAL and in the base currency; what comes back opens a closed one again."""
    outcomes = """
        INSERT INTO {db}.transactions (user_id, wallet_id, type, asset, status, wallet_type, resets, occurred_at)
        VALUES
            ('u', 'paper', 'OPEN', 'EUR', 'PENDING', 'VIRTUAL', 0, '2026-03-01'),
            ('u', 'paper', 'OPEN', 'EUR', 'COMPLETED', 'VIRTUAL', 0, '2026-03-02'),
            ('u', 'paper', 'OPEN', 'EUR', 'FAILED', 'VIRTUAL', 0, '2026-03-03'),
            ('u', 'paper', 'RESET', 'EUR', 'COMPLETED', 'VIRTUAL', 1, '2026-03-03'),
            ('u', 'paper', 'RESET', 'EUR', 'PENDING', 'VIRTUAL', 1, '2026-03-04'),
            ('u', 'paper', 'RESET', 'EUR', 'COMPLETED', 'VIRTUAL', 2, '2026-03-04'),
            ('u', 'told', 'OPEN', 'EUR', 'PENDING', 'MARGIN', 0, '2026-03-01'),
            ('u', 'gone', 'DEPOSIT', 'EUR', 'COMPLETED', NULL, NULL, '2026-03-01'),
            ('u', 'gone', 'CLOSE', 'USD', 'FAILED', 'REAL', 0, '2026-03-02'),
            ('u', 'gone', 'CLOSE', 'USD', 'COMPLETED', 'REAL', 0, '2026-03-03'),
            ('u', 'back', 'CLOSE', 'USD', 'COMPLETED', 'REAL', 0, '2026-03-03'),
            ('u', 'back', 'TRANSFER', 'USD', 'COMPLETED', 'REAL', 0, '2026-03-01')
    """
    expired = """
        INSERT INTO {db}.transactions (user_id, wallet_id, type, asset, status, code, occurred_at)
        VALUES ('u', 'gone', 'HOLD', 'EUR', 'CANCELLED', 'EXPIRED', '2026-02-01')
    """
    changes = """
        INSERT INTO {db}.wallet_changes (user_id, wallet_id, asset, occurred_at)
        VALUES ('u', 'other', 'EUR', '2026-03-05')
    """
    for insert in (outcomes, expired, changes):
        client.command(insert.replace("{db}", settings.clickhouse_database))
    query = """
        SELECT
            wallet_id, wallet_type, currency, status, resets, toString(toDate(opened_at)), toString(toDate(closed_at))
        FROM {db}.wallets ORDER BY wallet_id
    """
    assert ask(client, settings, query) == [
        ("back", "REAL", "USD", "OPEN", 0, "2026-03-01", None),
        ("gone", "REAL", "USD", "CLOSED", 0, "2026-03-01", "2026-03-03"),
        ("other", "REAL", "USD", "OPEN", 0, "2026-03-05", None),
        ("paper", "VIRTUAL", "EUR", "OPEN", 2, "2026-03-02", None),
    ]


def test_the_auditors_laws_of_wallets_find_what_breaks_them(client: Client, settings: Settings) -> None:
    inserts = """
        INSERT INTO {db}.transactions (user_id, wallet_id, type, asset, status, wallet_type, balance_total) VALUES
            ('u', 'paper', 'OPEN', 'EUR', 'COMPLETED', 'VIRTUAL', 1),
            ('u', 'gone', 'CLOSE', 'EUR', 'COMPLETED', 'REAL', 0),
            ('u', 'stray', 'CLOSE', 'EUR', 'COMPLETED', 'REAL', 2), ('u', 'real', 'FEE', 'EUR', 'COMPLETED', NULL, 3);
        INSERT INTO {db}.wallet_entries (account, source_offset) VALUES
            ('wallet:u/paper', 1), ('virtual', 1), ('wallet:u/real', 2), ('fees', 2), ('wallet:u/paper', 3),
            ('wallet:u/real', 4), ('virtual', 4), ('wallet:u/paper', 5), ('fees', 5), ('wallet:u/paper', 6),
            ('wallet:u/real', 6), ('fees', 7), ('external:card', 7), ('virtual', 8), ('fees', 8)
    """
    for insert in inserts.split(";"):
        client.command(insert.replace("{db}", settings.clickhouse_database))
    names = ("ledger_entries", "wallets", "balances")

    def asked(query: str) -> list[tuple]:
        for name in names:
            query = re.sub(rf"\b(FROM|JOIN) {name}\b", rf"\1 {settings.clickhouse_database}.{name}", query)
        return ask(client, settings, query)

    assert {offset for _, _, offset, _ in asked(laws._MIXED)} == {4, 5, 6, 8}
    assert [row[:2] for row in asked(laws._CLOSED)] == [("u", "stray")]


def test_open_alerts_are_those_whose_last_change_is_no_resolution(client: Client, settings: Settings) -> None:
    insert = """
        INSERT INTO {db}.risk_alerts (alert_id, user_id, portfolio_id, type, severity, symbol, is_resolved)
        VALUES
            ('u/p/POSITION_LIMIT/A/B/9', 'u', 'p', 'POSITION_LIMIT', 'INFO', 'A/B', true),
            ('u/p/POSITION_LIMIT/A/B/10', 'u', 'p', 'POSITION_LIMIT', 'CRITICAL', 'A/B', false),
            ('u/p/POSITION_LIMIT/A/1', 'u', 'p', 'POSITION_LIMIT', 'WARNING', 'A', false),
            ('u/p/POSITION_LIMIT/A/2', 'u', 'p', 'POSITION_LIMIT', 'INFO', 'A', true),
            ('u/p/LOSS_LIMIT/daily/1', 'u', 'p', 'LOSS_LIMIT', 'WARNING', NULL, false),
            ('u/p/LOSS_LIMIT/total/1', 'u', 'p', 'LOSS_LIMIT', 'WARNING', NULL, false),
            ('u/p/LOSS_LIMIT/total/2', 'u', 'p', 'LOSS_LIMIT', 'INFO', NULL, true)
    """
    client.command(insert.replace("{db}", settings.clickhouse_database))
    query = "SELECT alert_id, severity, symbol FROM {db}.open_alerts ORDER BY alert_id"
    assert ask(client, settings, query) == [
        ("u/p/LOSS_LIMIT/daily/1", "WARNING", None),
        ("u/p/POSITION_LIMIT/A/B/10", "CRITICAL", "A/B"),
    ]


def test_every_view_has_the_columns_it_promises(client: Client, settings: Settings) -> None:
    rows = ask(client, settings, "SELECT name FROM system.tables WHERE database = '{db}' AND engine = 'View'")
    stored = {table.name for table in TABLES.values() if table.stored}
    assert {name for (name,) in rows} == {*VIEWS, *VIEWS_AT, *stored}
    columns = ask(
        client,
        settings,
        "SELECT name FROM system.columns WHERE database = '{db}' AND table = 'positions' ORDER BY position",
    )
    promised = "user_id portfolio_id symbol currency quantity cost_basis average_price realized_pnl fees last_trade_at"
    assert [name for (name,) in columns] == promised.split()
