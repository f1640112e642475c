"""The command `assetstream`: the composition root.

A command's module is imported when the command runs, so that `assetstream --help` answers at once.
"""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from assetstream.cli.errors import told

#: command → the module in assetstream.cli that has a function of the command's name (- as _), or a Typer of commands of
#: its own, and what help says
COMMANDS = {
    "demo": ("demo", "See all of it run: stack, worker, simulated market, a live view."),
    "up": ("stack", "Start Apache Kafka and ClickHouse in the background."),
    "down": ("stack", "Stop them; their data stays."),
    "status": ("stack", "Say what runs, where, and where its data is."),
    "init": ("init", "Create topics and ClickHouse tables; does nothing to what is there."),
    "worker": ("worker", "Run one worker."),
    "simulate": ("simulate", "Publish a simulated market."),
    "alerts": ("alerts", "Follow risk alerts."),
    "sql": ("sql", "Ask ClickHouse."),
    "balance": ("balance", "Say what a user's wallets hold, or held at some time."),
    "holdings": ("holdings", "Say what positions a user has, or had at some time."),
    "gains": ("gains", "Say what a user realised, lot by lot: FIFO, LIFO, HIFO or average cost."),
    "risk": ("risk", "Look ahead: risk report, stress tests, what breaks a limit, simulated losses."),
    "statement": ("statement", "A user's period: opening, everything that moved, closing, and that it adds up."),
    "trial-balance": ("trial_balance", "Add up all postings: each asset must come to zero."),
    "reconcile": ("reconcile", "Hold a broker's statement against us, and print the breaks."),
    "breaks": ("breaks", "List breaks with brokers; explain or resolve one."),
    "reconciler": ("reconciler", "Judge brokers' statements as they come."),
    "fees": ("fees", "Say what a fee schedule charges for a wallet event."),
    "lag": ("lag", "Say how much each consumer group has still to read."),
    "schemas": ("schemas", "Print the JSON Schema of every topic."),
    "skip": ("skip", "Send a poisonous message, before which its partition halts, to dead_letters."),
    "replay-dead-letters": ("replay", "Publish rejected messages again, unchanged or repaired."),
    "check": ("check", "Audit everything that was processed, and print every difference."),
    "notary": ("notary", "Make the audit log tamper-evident: publish tree heads of all that comes."),
    "prove": ("prove", "Print a proof of the audit log that others can check."),
    "verify": ("verify", "Check a proof, without Kafka."),
    "repartition": ("repartition", "Raise the number of partitions, with all state."),
    "bench": ("bench", "Run the benchmarks."),
}


class _Command(TyperCommand):
    """A name and a line of help, until it is called: then the function of that name in its module."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        name = str(self.name)
        module = import_module(f"assetstream.cli.{COMMANDS[name][0]}")
        found = getattr(module, name.replace("-", "_"))
        single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        if isinstance(found, typer.Typer):
            single = found
        else:
            single.command(name)(found)
        return typer.main.get_command(single).make_context(info_name, args, parent=parent, **extra)


class _Commands(TyperGroup):
    """All commands, in the order of the table; an error that is no bug becomes a line on stderr, exit 1."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, text) in COMMANDS.items():
            self.add_command(_Command(name, help=text, callback=None))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if (text := told(error)) is None:
                raise
            typer.secho(text, fg="red", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"assetstream {version('assetstream')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Exact positions, P&L and risk alerts from Kafka, exactly once.

    Settings come from the environment (ASSETSTREAM_…) or a .env file. Exits with 0: done, 1: failed,
    2: wrong use.
    """
    # its warnings precede an exception, which we tell in one line
    logging.getLogger("urllib3").addHandler(logging.NullHandler())


if __name__ == "__main__":
    app()
