"""A statement from a file: the JSON of the topic `broker_statements`, or CSV.

CSV has a header line, and one row for each thing that is said; `kind` says what a row is, empty cells are absent:

    kind       columns
    statement  statement_id, broker, user_id, period_start, period_end [portfolio_id, version, positions_complete, sections]
    trade      trade_id, symbol, side, quantity, price, executed_at [fee, currency]
    position   symbol, quantity
    balance    wallet_id, asset, total

There is one row of kind `statement`. A section without a row (no trade at all, say) is judged only if `sections` names
it: `trades positions balances`.
"""  # noqa: E501

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

from assetstream.models.messages import BrokerStatement, Rejection, parse

SECTIONS = {"trade": "trades", "position": "positions", "balance": "balances"}
HEAD = (
    "statement_id",
    "broker",
    "user_id",
    "period_start",
    "period_end",
    "portfolio_id",
    "version",
    "positions_complete",
    "sections",
)
COLUMNS = {
    "statement": HEAD,
    "trade": ("trade_id", "symbol", "side", "quantity", "price", "executed_at", "fee", "currency"),
    "position": ("symbol", "quantity"),
    "balance": ("wallet_id", "asset", "total"),
}


class BadStatement(ValueError):
    """A file is no statement; the text says where and why."""


def read(path: Path, max_skew_us: int) -> tuple[BrokerStatement, bytes]:
    """The statement of a file, and the message that says it. A name that ends in .csv is CSV, any other JSON.

    Raises BadStatement.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadStatement(f"{path}: {error}") from error
    value = (from_csv(text, str(path)) if path.suffix.lower() == ".csv" else text).encode()
    found = parse("broker_statements", value, time.time_ns() // 1_000_000, max_skew_us)
    if isinstance(found, Rejection):
        raise BadStatement(f"{path}: {found.verdict.reason}: {found.detail}")
    assert isinstance(found, BrokerStatement)
    return found, value


def from_csv(text: str, name: str) -> str:
    """The JSON of a CSV file. Raises BadStatement for what isn't laid out as it has to be; values are not judged."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    statement: dict[str, Any] | None = None
    sections: dict[str, list[dict[str, str]]] = {}
    try:
        _known(rows.fieldnames or (), name)
        for row in rows:
            where = f"{name} line {rows.line_num}"
            kind, cells = _cells(row, where)
            if kind in SECTIONS:
                sections.setdefault(SECTIONS[kind], []).append(cells)
            elif statement is not None:
                raise BadStatement(f"{where}: a second row of kind statement")
            else:
                statement = _head(cells, where)
    except csv.Error as error:
        raise BadStatement(f"{name} line {rows.line_num}: {error}") from error
    if statement is None:
        raise BadStatement(f"{name}: no row of kind statement")
    empty: dict[str, list[dict[str, str]]] = {section: [] for section in statement.pop("sections", ())}
    return json.dumps({**statement, **empty, **sections})


def _known(columns: Any, name: str) -> None:
    known = {"kind", *(column for each in COLUMNS.values() for column in each)}
    if "kind" not in columns:
        raise BadStatement(f"{name} line 1: no column kind")
    if len(set(columns)) < len(columns) or (unknown := sorted(set(columns) - known)):
        what = f"unknown column {unknown[0]!r}" if len(set(columns)) == len(columns) else "a column is there twice"
        raise BadStatement(f"{name} line 1: {what}; columns are {', '.join(sorted(known))}")


def _cells(row: dict[str, Any], where: str) -> tuple[str, dict[str, str]]:
    if None in row or None in row.values():
        raise BadStatement(f"{where}: {'more' if None in row else 'fewer'} cells than the header has")
    cells = {column: cell.strip() for column, cell in row.items() if cell.strip()}
    kind = cells.pop("kind", "")
    if kind not in COLUMNS:
        raise BadStatement(f"{where}: kind {kind!r} is none of {', '.join(COLUMNS)}")
    if foreign := sorted(cells.keys() - set(COLUMNS[kind])):
        raise BadStatement(f"{where}: a {kind} has no {foreign[0]}")
    return kind, cells


def _head(cells: dict[str, str], where: str) -> dict[str, Any]:
    head: dict[str, Any] = dict(cells)
    if "version" in head:
        if not head["version"].isdecimal():
            raise BadStatement(f"{where}: version {head['version']!r} is no number")
        head["version"] = int(head["version"])
    if "positions_complete" in head:
        if head["positions_complete"].lower() not in ("true", "false"):
            raise BadStatement(f"{where}: positions_complete is true or false, not {head['positions_complete']!r}")
        head["positions_complete"] = head["positions_complete"].lower() == "true"
    if "sections" in head:
        head["sections"] = head["sections"].replace(",", " ").split()
        if unknown := sorted(set(head["sections"]) - set(SECTIONS.values())):
            raise BadStatement(f"{where}: section {unknown[0]!r} is none of {', '.join(SECTIONS.values())}")
    return head
