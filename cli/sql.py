"""`assetstream sql`: ask ClickHouse."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any

import typer
from clickhouse_connect.driver.exceptions import Error
from rich.console import Console
from rich.table import Table
from rich.text import Text

from assetstream.sinks.clickhouse import connect, translate
from assetstream.streams.settings import Settings, load

#: exact numbers: what a JSON reader's float would spoil comes as a string
EXACT = {
    "output_format_json_quote_64bit_integers": 1,
    "output_format_json_quote_decimals": 1,
}
#: columns of a terminal that isn't one: what reads a pipe wants whole values
UNBOUNDED = 100_000
OWN_FORMAT = re.compile(r"\bFORMAT\s+\w+\s*$", re.IGNORECASE)
NUMBER = re.compile(r"^(Nullable\()?(U?Int|Float|Decimal)")


def sql(
    query: Annotated[str, typer.Argument(help="One SQL statement; tables of the installation's database by name.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
) -> None:
    """Ask ClickHouse, and print a table.

    With --json one JSON object a row, 64-bit integers and decimals as strings. A query with a FORMAT of its own is
    printed as ClickHouse writes it.
    """
    query = query.strip().rstrip(";").rstrip()
    if OWN_FORMAT.search(query):
        sys.stdout.buffer.write(ask(load(), query, "TabSeparated"))
    elif as_json:
        sys.stdout.buffer.write(ask(load(), query, "JSONEachRow"))
    else:
        answer = ask(load(), query, "JSONCompactEachRowWithNamesAndTypes")
        lines = [json.loads(line) for line in answer.splitlines()]
        if lines:
            Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table(*lines))
    sys.stdout.flush()


def ask(settings: Settings, query: str, default_format: str, given: dict[str, str] | None = None) -> bytes:
    """ClickHouse's answer to one statement, in `default_format` unless it names another.

    given: the values of its parameters `{name:Type}`

    Raises ClickHouseAway, ClickHouseRefused.
    """
    client = connect(settings)
    client.database = settings.clickhouse_database
    try:
        return client.raw_query(query, given, settings={**EXACT, "default_format": default_format})
    except Error as error:
        raise translate(error, settings.clickhouse_url) from error
    finally:
        client.close()


def table(names: list[str], types: list[str], *rows: list[Any]) -> Table:
    """Rows as a rich table, numbers to the right."""
    shown = Table()
    for name, kind in zip(names, types, strict=True):
        shown.add_column(Text(name), justify="right" if NUMBER.match(kind) else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(value) for value in row))
    return shown


def _cell(value: Any) -> Text:
    if value is None:
        return Text("null", style="dim")
    return Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
