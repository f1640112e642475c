"""`assetstream sql` against the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from assetstream.cli.main import app
from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.migrations import migrate
from assetstream.sinks.schema import VIEWS

DB = "sql_test"
Ask = Callable[..., Result]


@pytest.fixture
def ask(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Runs the command against a database with our tables."""
    settings = stack.settings(clickhouse_database=DB)
    client = connect(settings)
    migrate(client, settings)
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", stack.clickhouse)
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_DATABASE", DB)
    yield lambda *args: CliRunner().invoke(app, ["sql", *args])
    client.command(f"DROP DATABASE {DB}")
    client.close()


def test_json_keeps_large_and_exact_numbers_as_strings(ask: Ask) -> None:
    query = (
        "SELECT toUInt64(18446744073709551615) AS u, toDecimal128('0.100000000000000001', 18) AS d, [1, 2] AS a, "
        "NULL AS n, number FROM numbers(2);"
    )
    result = ask("--json", query)
    assert result.exit_code == 0
    row = {"u": "18446744073709551615", "d": "0.100000000000000001", "a": [1, 2], "n": None}
    assert [json.loads(line) for line in result.stdout.splitlines()] == [{**row, "number": "0"}, {**row, "number": "1"}]


def test_a_table_shows_names_and_whole_values(ask: Ask) -> None:
    result = ask("SELECT version, checksum, NULL AS nothing FROM schema_migrations WHERE version = 1")
    assert result.exit_code == 0
    head, row = (line for line in result.stdout.splitlines() if line[0] in "┃│")
    assert [cell.strip() for cell in head.strip("┃").split("┃")] == ["version", "checksum", "nothing"]
    version, checksum, nothing = (cell.strip() for cell in row.strip("│").split("│"))
    assert (version, len(checksum), nothing) == ("1", 64, "null")


def test_views_answer_also_when_empty(ask: Ask) -> None:
    for view in VIEWS:
        assert ask("--json", f"SELECT * FROM {view}").stdout == ""
        assert ask(f"SELECT * FROM {view}").stdout.count("\n") > 2  # the names of its columns


def test_a_format_of_its_own_is_left_alone(ask: Ask) -> None:
    assert ask("SELECT 1 AS a, 'x' AS b FORMAT CSVWithNames").stdout == '"a","b"\n1,"x"\n'


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT * FROM nowhere", "nowhere"),
        ("SELEC 1", "Syntax error"),
        ("SELECT nope", "nope"),
    ],
)
def test_an_error_is_one_line_and_exit_1(ask: Ask, query: str, told: str) -> None:
    result = ask(query)
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("ClickHouse refuses: ")
    assert told in line
    assert "version" not in line


def test_what_is_not_there_is_told_with_what_to_do(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_DATABASE", "nothing_here")
    result = ask("SELECT 1 FROM fills")
    assert result.exit_code == 1
    assert result.stderr.endswith("run `assetstream init`\n")
    monkeypatch.setenv("ASSETSTREAM_CLICKHOUSE_URL", "http://127.0.0.1:1")
    result = ask("SELECT 1")
    assert result.exit_code == 1
    assert result.stderr == "ClickHouse at http://127.0.0.1:1 does not answer: [Errno 111] Connection refused\n"
