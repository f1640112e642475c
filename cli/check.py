"""`assetstream check`: the auditor."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from assetstream.cli.audit import Report, audit
from assetstream.cli.audit.heads import audit_heads, read_key, save
from assetstream.streams.settings import load

#: columns of a terminal that isn't one: what reads a pipe wants whole lines
UNBOUNDED = 100_000


def check(
    invariants: Annotated[
        bool, typer.Option("--invariants", help="The laws alone, without a rebuild from the inputs.")
    ] = False,
    audit_log: Annotated[
        bool, typer.Option("--audit", help="The audit log alone: every record against the notary's heads.")
    ] = False,
    since: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of --audit: heads saved before must stand; what came since.")
    ] = None,
    saved: Annotated[
        Path | None, typer.Option("--save", metavar="FILE", help="Of --audit: where to save the last heads.")
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of --audit: the last heads must be signed with its key.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Rebuild everything from the inputs with the plain reference model, and compare.

    Positions, balances, limits, levels and remembered ids of the changelogs; every row in ClickHouse; every outcome,
    alert, update and dead letter that was published; the local snapshots. Workers may run meanwhile. Prints every
    difference, and exits with 1 when there is one.

    With --audit: that the logs are what the notary saw, record by record, and that its heads follow each other. The
    last ones are saved for the next time; a file that is there is left alone when there is a difference.
    """
    if invariants and audit_log:
        raise typer.BadParameter("--invariants or --audit, not both")
    if not audit_log and (since or saved or public_key):
        raise typer.BadParameter("--since, --save and --public-key are of --audit")
    key = None if public_key is None else read_key(public_key)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def progress(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        if audit_log:
            report, heads = audit_heads(load(), since, key, progress)
        else:
            report, heads = audit(load(), invariants, progress), []
    if saved is not None and (report.ok or not saved.exists()):
        save(saved, heads)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), ensure_ascii=False))
    else:
        show(report, Console(width=None if sys.stdout.isatty() else UNBOUNDED, highlight=False))
    if not report.ok:
        raise typer.Exit(1)


def show(report: Report, console: Console) -> None:
    """The checks in a table; below it every difference, and what could not be judged."""
    table = Table("check", "compared", "differences")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in dict.fromkeys((*report.checked, *(each.check for each in report.differences))):
        n = sum(each.check == name for each in report.differences)
        table.add_row(name, f"{report.checked[name]:,}", f"{n:,}", style="bold red" if n else "")
    console.print(table)
    for each in report.differences:
        place = Text.assemble((f"{each.check}: ", "bold red"), (each.where, "bold"))
        console.print(place, Text(f"  expected  {each.expected}"), Text(f"  found     {each.found}"), sep="\n")
    for note in report.notes:
        console.print(Text(f"not judged: {note}", "yellow"))
    speed = f", {report.messages / report.seconds:,.0f} messages/s" if report.seconds else ""
    n = len(report.differences)
    verdict = f"{n:,} difference{'' if n == 1 else 's'}" if n else "no difference"
    console.print(
        f"{verdict}; {sum(report.checked.values()):,} things compared, {report.messages:,} messages taken{speed}"
    )
