"""`assetstream bench`: the benchmarks, on a stack of their own that ends with them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from assetstream.cli.benchmarks import kernels, latency, memory, peers, profile, recovery, scaling, throughput, wallets
from assetstream.cli.benchmarks.machine import in_a_line, machine
from assetstream.cli.benchmarks.report import Table, write
from assetstream.cli.stack import EmbeddedStack
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.settings import load


@dataclass(frozen=True)
class Sizes:
    """How much each part takes."""

    messages: int = 1_000_000
    warm_kafka: bool = True  # a smaller backlog first, which is not counted
    faust_messages: int = 100_000
    seconds: float = 60
    warm_up: float = 30
    rate: int = 10_000
    positions: tuple[int, ...] = (10_000, 1_000_000)
    repetitions: int = 21
    memory_rows: int = 1_000_000
    wallet_events: int = 500_000
    rounds: int = 30
    batches: tuple[int, ...] = (100, 500, 2_000, 10_000)
    scaling_positions: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    partitions: tuple[int, ...] = (1, 2, 4, 8, 16)
    scaling_messages: int = 200_000
    recovery_positions: int = 1_000_000
    recovery_ids: int = 1_000_000
    kills: int = 5


#: everything once, small: shows that the benchmarks work, not how fast anything is
QUICK = Sizes(
    messages=20_000,
    warm_kafka=False,
    faust_messages=2_000,
    seconds=1,
    warm_up=1,
    rate=5_000,
    positions=(10_000,),
    repetitions=3,
    memory_rows=10_000,
    wallet_events=10_000,
    rounds=3,
    batches=(500, 2_000),
    scaling_positions=(1_000, 10_000),
    partitions=(),
    recovery_positions=10_000,
    recovery_ids=10_000,
    kills=1,
)

PARTS = (
    "revaluation",
    "memory",
    "ledger",
    "profile",
    "throughput",
    "raw",
    "peers",
    "wallets",
    "latency",
    "scaling",
    "recovery",
)


class Bench:
    """One run: the stack and the backlog are made when a part needs them, and end with the `with` block."""

    def __init__(self, folder: Path, sizes: Sizes, kafka_streams: bool, progress: Progress) -> None:
        self.sizes, self._folder, self._kafka_streams, self._progress = sizes, folder, kafka_streams, progress
        self._exit = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.__exit__(*error)

    @cached_property
    def stack(self) -> EmbeddedStack:
        """Kafka and ClickHouse, empty."""
        folder = self._folder / "stack"
        shutil.rmtree(folder, ignore_errors=True)
        self._exit.push(_remove_unless_failed(folder))
        self._progress("starting Kafka and ClickHouse", 0, 0)
        return self._exit.enter_context(EmbeddedStack(folder, progress=self._progress))

    @cached_property
    def backlog(self) -> throughput.Backlog:
        """The trades that throughput, raw and peers take."""
        made = throughput.backlog(self.stack, "backlog", self.sizes.messages, self._progress)
        return self._exit.enter_context(made)

    @cached_property
    def ours(self) -> throughput.Run:
        """Our worker over the backlog, once, for all that is compared with it.

        A smaller backlog first, which is not counted: Kafka's JVM is busy compiling itself when it is new, and those
        who come later would find it warm.
        """
        if self.sizes.warm_kafka:
            messages = max(self.sizes.messages // 3, 1_000)
            with throughput.backlog(self.stack, "warm-up", messages, self._progress) as warm:
                throughput.run_worker(warm, self._progress)
        return throughput.run_worker(self.backlog, self._progress)

    @cached_property
    def bare(self) -> tuple[int, float]:
        """The backlog read and nothing done."""
        return throughput.read_raw(self.backlog, self._progress)

    # -- the parts, each by its name ----------------------------------------------------------------------------------

    def throughput(self) -> list[Table]:
        """A backlog by one worker, everything durable."""
        return throughput.table(self.ours, self.bare[0] / self.bare[1])

    def raw(self) -> list[Table]:
        """What a bare consumer reads."""
        return [throughput.raw_table(*self.bare)]

    def peers(self) -> list[Table]:
        """Other stream processors over the same backlog."""
        ours = self.ours.rate
        results = peers.run_peers(self.backlog, self.sizes.faust_messages, self._kafka_streams, self._progress)
        return [peers.table(results, ours)]

    def wallets(self) -> list[Table]:
        """A backlog of wallet events by one worker, everything durable."""
        return wallets.run(self.stack, self.sizes.wallet_events, self.sizes.warm_kafka, self._progress)

    def latency(self) -> list[Table]:
        """Produced to readable, at a steady load."""
        s = self.sizes
        return latency.run(self.stack, s.rate, s.rate // 10, s.warm_up, s.seconds, self._progress)

    def revaluation(self) -> list[Table]:
        """All positions valued anew and judged."""
        return kernels.revaluation(self.sizes.positions, self.sizes.repetitions, self._progress)

    def memory(self) -> list[Table]:
        """Bytes a position and a remembered id."""
        return memory.run(self.sizes.memory_rows, self._progress)

    def ledger(self) -> list[Table]:
        """Wallet events decoded and booked."""
        return kernels.ledger(self.sizes.wallet_events, self.sizes.batches, self._progress)

    def profile(self) -> list[Table]:
        """Where a message's time goes."""
        return profile.run(self.stack, self.sizes.rounds, self._progress)

    def scaling(self) -> list[Table]:
        """Throughput against batch size, positions and partitions."""
        s = self.sizes
        return [
            *kernels.scaling(s.batches, s.scaling_positions, self._progress),
            *scaling.run(self.stack, s.partitions, s.scaling_messages, self._progress),
        ]

    def recovery(self) -> list[Table]:
        """A large state restored; alerts after a worker was killed."""
        s = self.sizes
        return recovery.run(
            self.stack, s.recovery_positions, s.recovery_ids, s.kills, min(s.seconds, 10), self._progress
        )


def bench(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(PARTS)}; else all.", metavar="[PART]...")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small version: does it work, not how fast is it.")] = False,
    messages: Annotated[int | None, typer.Option(min=1_000, help="Trades in the backlog.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="How long latency is measured.")] = None,
    rate: Annotated[int | None, typer.Option(min=100, help="Trades a second there; a tenth of it prices.")] = None,
    positions: Annotated[int | None, typer.Option(min=100, help="Positions that recovery restores.")] = None,
    kafka_streams: Annotated[
        bool, typer.Option("--kafka-streams", help="With Kafka Streams among the peers (needs a JDK).")
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--write", help="Put the tables into this page, as docs/benchmarks.md.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the benchmarks on a stack of their own, on this machine.

    Nothing else should run on it. Quix Streams is installed for the peers, into DATA_DIR/bench.
    """
    chosen = parts or [part for part in PARTS if not (quick and part == "peers")]
    if unknown := [part for part in chosen if part not in PARTS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    sizes = QUICK if quick else Sizes()
    given = {"messages": messages, "seconds": seconds, "rate": rate, "recovery_positions": positions}
    sizes = Sizes(**{**vars(sizes), **{name: value for name, value in given.items() if value is not None}})
    facts, tables = machine(), []
    console = Console(stderr=as_json)
    with _display() as progress, Bench(load().data_dir / "bench", sizes, kafka_streams, progress) as run:
        for part in PARTS:
            if part in chosen:
                results: list[Table] = getattr(run, part)()
                tables += results
                for table in results:
                    table.show(console)
    if as_json:
        typer.echo(json.dumps({"machine": facts, "tables": [table.as_dict() for table in tables]}))
    else:
        console.print(in_a_line(facts).strip("*"), style="dim")
    if page is not None:
        write(page, tables, in_a_line(facts))


def _remove_unless_failed(folder: Path) -> Callable[..., None]:
    """An exit that removes the folder, unless something failed: then its logs are wanted."""

    def leave(kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            shutil.rmtree(folder, ignore_errors=True)

    return leave


@contextmanager
def _display() -> Iterator[Progress]:
    """What is being done, and how far: a bar on a terminal, else a line for every step; on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        said: list[str] = []

        def line(what: str, done: int, total: int) -> None:
            if said[-1:] != [what]:
                said.append(what)
                print(f"{what} …", file=sys.stderr, flush=True)

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
