"""`assetstream reconcile`: hold a broker's statement against us."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from assetstream.cli.reconciliation import files
from assetstream.cli.reconciliation.complete import Incomplete, complete_cut
from assetstream.cli.reconciliation.ours import Books, digest, tolerances
from assetstream.cli.reconciliation.publish import publish
from assetstream.cli.sql import UNBOUNDED
from assetstream.models.messages import BreakStatus, BrokerStatement, ReconciliationBreak
from assetstream.models.reconciliation import account_of, judge
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import STATEMENTS

LOOK_S = 0.5
SHOWN = ("status", "type", "subject", "statement_value", "our_value", "difference", "break_id")


def reconcile(
    file: Annotated[Path, typer.Argument(help="A statement, JSON or (its name ends in .csv) CSV.", metavar="FILE")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge it, and publish nothing.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Publish it, and leave it to the reconciler.")] = False,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait until ClickHouse has all of ours.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array of breaks.")] = False,
) -> None:
    """Publish a broker's statement, hold it against our trades, positions and balances, and print the breaks.

    Waits until all that was published before is in ClickHouse. What is recorded is what the reconciler finds
    (`assetstream reconciler`, which must run somewhere): this prints the same, now. Exits with 1 when a break is open,
    as well as when it failed; explained ones are printed, and are no reason.
    """
    if dry_run and no_wait:
        raise typer.BadParameter("--dry-run and --no-wait together do nothing", param_hint="--no-wait")
    settings = load()
    statement, value = files.read(file, settings.max_future_skew_s * 1_000_000)
    _check_version(settings, statement)
    if not dry_run:
        publish(settings, STATEMENTS, statement.user_id, value)
    if no_wait:
        return
    found = _found(settings, statement, patience)
    if as_json:
        typer.echo(json.dumps([each.model_dump(mode="json") for each in found]))
    else:
        show(found)
        name = f"statement {statement.statement_id} version {statement.version}"
        typer.echo(f"{name} of {statement.broker} for {statement.user_id}: {len(found)} breaks")
    if any(each.status is BreakStatus.OPEN for each in found):
        raise typer.Exit(1)


def _check_version(settings: Settings, statement: BrokerStatement) -> None:
    """Raises BadStatement for one that the reconciler would ignore or refuse."""
    with closing(Books(settings, {})) as books:
        version, body = books.judged(statement) or (statement.version, digest(statement))
    name = f"statement {statement.statement_id} version {statement.version}"
    if statement.version < version:
        raise files.BadStatement(f"{name} is superseded: version {version} was judged")
    if statement.version == version and body != digest(statement):
        raise files.BadStatement(f"{name} was judged with another body: give a corrected one a higher version")


def _found(settings: Settings, statement: BrokerStatement, patience: float) -> list[ReconciliationBreak]:
    """The breaks of a statement as they stand now. Raises Incomplete."""
    with closing(Books(settings, complete_cut(settings, until(time.monotonic() + patience, patience)))) as books:
        ours, standing = books.ours(statement), books.standing(account_of(statement))
        return judge(statement, ours, standing, tolerances(settings), datetime.now(UTC)).found


def until(deadline: float, patience: float) -> Callable[[str], None]:
    """A pause that raises Incomplete when the deadline is over."""

    def pause(what: str) -> None:
        if time.monotonic() > deadline:
            raise Incomplete(f"waited {patience:g} s in vain for {what}: does a worker run? (assetstream lag)")
        time.sleep(LOOK_S)

    return pause


def show(breaks: list[ReconciliationBreak]) -> None:
    """Breaks as a table, when there are any."""
    if not breaks:
        return
    table = Table()
    for name in SHOWN:
        table.add_column(name, justify="right" if "value" in name or name == "difference" else "left", overflow="fold")
    for each in breaks:
        told: dict[str, Any] = each.model_dump(mode="json")
        table.add_row(*(Text("–" if told[name] is None else told[name]) for name in SHOWN))
    console = Console()
    (console if console.is_terminal else Console(width=UNBOUNDED)).print(table)
