"""`assetstream fees quote`: what a schedule charges for a wallet event."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from assetstream.cli.sql import ask
from assetstream.models.fees import Amount, FeeType, Schedule, ScheduleError, as_json, plain, quote, read_schedule
from assetstream.models.messages import Symbol, to_micros
from assetstream.streams.precision import precision
from assetstream.streams.settings import Settings, load

DAYS = 30
#: what a user has moved of late, of real money. What arrived from others is an outcome of theirs, whose cause is no
#: wallet event
VOLUME = """
SELECT toString(sum(amount)) AS volume
FROM transactions
WHERE user_id = {user:String} AND type = {type:String} AND asset = {asset:String} AND status = 'COMPLETED'
    AND source_topic = {topic:String} AND occurred_at >= fromUnixTimestamp64Micro({since:Int64})
    AND wallet_id NOT IN
    (
        SELECT wallet_id FROM transactions
        WHERE user_id = {user:String} AND type = 'OPEN' AND status = 'COMPLETED' AND wallet_type = 'VIRTUAL'
    )
"""


class Action(StrEnum):
    """What can be done with fees."""

    QUOTE = "quote"


def _checked(kind: Any, name: str) -> Any:
    """A parser of an option."""

    def parse(text: str) -> Any:
        try:
            return TypeAdapter(kind).validate_python(text)
        except ValidationError as error:
            raise typer.BadParameter(f"{error.errors()[0]['msg']}, got {text!r}", param_hint=name) from error

    return parse


def fees(
    action: Annotated[Action, typer.Argument(help="quote: say what is charged for one event.")],
    kind: Annotated[
        str,
        typer.Option("--type", parser=_checked(FeeType, "--type"), metavar="TYPE", help="Of the event."),
    ],
    asset: Annotated[str, typer.Option(parser=_checked(Symbol, "--asset"), metavar="ASSET", help="Of the amount.")],
    amount: Annotated[
        Decimal, typer.Option(parser=_checked(Amount, "--amount"), metavar="AMOUNT", help="Above 0, without the fee.")
    ],
    method: Annotated[str | None, typer.Option(metavar="METHOD", help="Its payment_method.")] = None,
    volume: Annotated[
        Decimal | None,
        typer.Option(
            parser=_checked(Amount, "--volume"), metavar="AMOUNT", help="The user's volume of the last 30 days."
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="Ask ClickHouse for the volume of this user_id.")
    ] = None,
    schedule: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML or JSON; default: the setting FEE_SCHEDULE.")
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a fee schedule charges for a wallet event, by which rule, and how that was computed.

    For publishers, who put it into the event's `fee`: what is booked is what the event says.
    """
    if amount == 0:
        raise typer.BadParameter("must be above 0", param_hint="--amount")
    if user is not None and volume is not None:
        raise typer.BadParameter("give either --volume or --user", param_hint="--volume")
    settings = load(fee_schedule=schedule)
    rules = _schedule(settings)
    if user is not None:
        volume = _volume(settings, user, kind, asset)
    found = quote(rules, kind, asset, amount, method, volume)
    if as_json_:
        told = {"type": kind, "asset": asset, "amount": plain(amount), "method": method}
        told["volume"] = None if volume is None else plain(volume)
        typer.echo(json.dumps({**told, **as_json(found)}))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{plain(found.fee)} {asset}[/bold]")
    console.print(f"rule: {found.rule}", markup=False)
    for step in found.steps:
        console.print(f"  {step}", markup=False)


def _schedule(settings: Settings) -> Schedule:
    path = settings.fee_schedule
    if path is None:
        raise ScheduleError("no fee schedule: name one with --schedule or ASSETSTREAM_FEE_SCHEDULE")
    try:
        return read_schedule(path.read_text(encoding="utf-8"), str(path), precision(settings.asset_precision))
    except (OSError, UnicodeDecodeError) as error:
        raise ScheduleError(f"{path}: can't be read: {error}") from error


def _volume(settings: Settings, user: str, kind: str, asset: str) -> Decimal:
    """What the user moved in the last 30 days by COMPLETED events of this type and asset, as far as it is inserted."""
    since = to_micros(datetime.now(UTC) - timedelta(days=DAYS))
    given = {"user": user, "type": kind, "asset": asset, "topic": settings.topic("transactions"), "since": str(since)}
    return Decimal(json.loads(ask(settings, VOLUME, "JSONEachRow", given))["volume"])
