"""`assetstream breaks`: where brokers and we differ; explain or resolve a difference."""

from __future__ import annotations

import getpass
import json
import sys
import time
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from assetstream.cli.reconciliation.ours import Books
from assetstream.cli.reconciliation.publish import publish
from assetstream.cli.sql import UNBOUNDED, ask, table
from assetstream.models.messages import BreakDecision, BreakStatus, BreakType, ReconciliationBreak
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import DECISIONS

LOOK_S = 0.5
LONGEST = 1024

QUERY = """
SELECT {columns} FROM breaks
WHERE ({{all:UInt8}} OR status = 'OPEN') AND ({{user:String}} = '' OR user_id = {{user:String}})
    AND ({{broker:String}} = '' OR broker = {{broker:String}}) AND ({{type:String}} = '' OR type = {{type:String}})
ORDER BY opened_at, break_id
SETTINGS date_time_output_format = 'iso'
"""
SHOWN = "status, opened_at, break_id, statement_value, our_value, difference, decided_by, reason"


class Action(StrEnum):
    """What to do with a break."""

    explain = "explain"
    resolve = "resolve"


STATUS = {Action.explain: BreakStatus.EXPLAINED, Action.resolve: BreakStatus.RESOLVED}


class NotDecidable(RuntimeError):
    """There is no such break, or it is RESOLVED; the text says which."""


class NotDecided(RuntimeError):
    """The decision is published, and no reconciler has taken it in time."""


def breaks(
    action: Annotated[Action | None, typer.Argument(help="explain or resolve; without it breaks are listed.")] = None,
    break_id: Annotated[str, typer.Argument(metavar="BREAK_ID", help="Of the break to decide.")] = "",
    user: Annotated[str, typer.Option(metavar="USER", help="Only of this user_id.", show_default=False)] = "",
    broker: Annotated[str, typer.Option(metavar="BROKER", help="Only of this broker.", show_default=False)] = "",
    kind: Annotated[BreakType | None, typer.Option("--type", help="Only of this type.", show_choices=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that are EXPLAINED or RESOLVED.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row.")] = False,
    reason: Annotated[str, typer.Option(help="Why; it goes on the record.", show_default=False)] = "",
    by: Annotated[str, typer.Option(help="Who says so; who is logged in, if not given.", show_default=False)] = "",
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the reconciler to obey.")] = 60.0,
) -> None:
    """List breaks that are OPEN, or say that one is EXPLAINED (it is known, and stays) or RESOLVED (it is gone).

    An explanation holds while the difference stays the same; with another one the break is OPEN again. A break that was
    RESOLVED, and is found again, is OPEN again too.
    """
    settings = load()
    if action is not None:
        _decide(settings, STATUS[action], break_id, reason.strip(), by.strip() or getpass.getuser(), wait)
        return
    given = {"all": str(int(everything)), "user": user, "broker": broker, "type": kind or ""}
    if as_json:
        sys.stdout.buffer.write(ask(settings, QUERY.format(columns="*"), "JSONEachRow", given))
        sys.stdout.flush()
        return
    answer = ask(settings, QUERY.format(columns=SHOWN), "JSONCompactEachRowWithNamesAndTypes", given)
    lines = [json.loads(line) for line in answer.splitlines()]
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table(*lines))


def _decide(settings: Settings, status: BreakStatus, break_id: str, reason: str, by: str, wait: float) -> None:
    if not 0 < len(reason) <= LONGEST:
        raise typer.BadParameter(f"say why, in at most {LONGEST:,} characters", param_hint="--reason")
    if break_id.count("/") < 4:
        raise typer.BadParameter("say which, as `assetstream breaks` shows it", param_hint="BREAK_ID")
    standing = _standing(settings, break_id)
    if standing is None or standing.status is BreakStatus.RESOLVED:
        why = "there is no such break" if standing is None else "it is RESOLVED already"
        raise NotDecidable(f"{break_id}: {why} (assetstream breaks --all)")
    decision = BreakDecision(break_id=break_id, user_id=standing.user_id, status=status, by=by, reason=reason)
    publish(settings, DECISIONS, standing.user_id, decision.model_dump_json().encode())
    deadline = time.monotonic() + wait
    while (now := _standing(settings, break_id)) is None or now.sequence == standing.sequence:
        if time.monotonic() > deadline:
            raise NotDecided(
                "no reconciler has taken it yet: does one run? The decision stays, and is taken when it does"
            )
        time.sleep(LOOK_S)
    typer.echo(f"{break_id} is {now.status}, by {now.decided_by}: {now.reason}")


def _standing(settings: Settings, break_id: str) -> ReconciliationBreak | None:
    with closing(Books(settings, {})) as books:
        return books.break_of(break_id.split("/")[1], break_id)
