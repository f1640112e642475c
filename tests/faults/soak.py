"""`make soak MINUTES=30`: a long campaign of random faults, and what it did."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tests.faults.campaign import one_round
from tests.faults.load import own_servers

#: how long a round harms before it heals and is checked
ROUND_S = 150.0

console = Console()


def soak(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long; the round that is under way is finished.")] = 30,
    seed: Annotated[int | None, typer.Option(help="Of a campaign to do again; default: any.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where data and logs go; default: a temporary one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    """Break workers, Kafka, ClickHouse and disks under load, round after round, and hold everything against the
    reference after each. Exits with 1 when anything is lost, doubled, late or wrong.
    """
    seed = SystemRandom().randrange(1_000_000) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="soak-")) if folder is None else folder
    console.print(f"seed {seed}, {minutes:g} minutes, data and logs in {folder}")
    began, counts, messages, rounds, slowest, verdict = time.monotonic(), Counter[str](), 0, 0, 0.0, "exact"

    def say(what: str) -> None:
        elapsed = time.monotonic() - began
        console.print(f"[dim]{elapsed / 60:5.1f} min  round {rounds + 1}[/dim]  {what}", highlight=False)

    with own_servers(folder) as servers:
        while rounds == 0 or time.monotonic() - began < 60 * minutes:
            left = 60 * minutes - (time.monotonic() - began)
            name = f"round_{rounds}"
            try:
                harm_s = min(ROUND_S, max(left, 20))
                done = one_round(servers, folder / name, name, seed + rounds, harm_s, say, counts)
            except AssertionError as error:
                verdict = f"round {rounds + 1} (seed {seed + rounds}) failed: {error}"
                break
            messages, slowest = messages + done[0], max(slowest, done[1])
            rounds += 1
    result = {"seed": seed, "rounds": rounds, "messages": messages, "faults": dict(counts), "healed_s": slowest}
    show({**result, "verdict": verdict}, as_json)
    if verdict != "exact":
        raise typer.Exit(1)


def show(result: dict, as_json: bool) -> None:
    """What the campaign did."""
    if as_json:
        typer.echo(json.dumps(result))
        return
    table = Table("fault", "times")
    for kind, times in sorted(result["faults"].items()):
        table.add_row(kind, str(times))
    console.print(table)
    console.print(
        f"{result['rounds']} rounds exact, {sum(result['faults'].values())} faults, {result['messages']:,} messages; "
        f"at most {result['healed_s']:.1f} s until all workers were ready again"
    )
    typer.echo(f"verdict: {result['verdict']}")


if __name__ == "__main__":
    typer.run(soak)
