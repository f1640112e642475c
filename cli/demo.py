"""`assetstream demo`: everything at once, on this machine, and gone again at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

from assetstream.cli.alerts import reader
from assetstream.cli.demo_view import View, Vitals
from assetstream.cli.init import init_all
from assetstream.sinks.clickhouse import connect
from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
from assetstream.streams import settings as settings_module
from assetstream.streams.embedded_kafka import EmbeddedKafka
from assetstream.streams.processes import free_port
from assetstream.streams.settings import PREFIX, Settings

READY_S = 600  # the first start compiles the kernels: under a minute on an idle machine
CATCH_UP_S = 20

#: what an analyst would ask first
QUERIES = {
    "P&L by portfolio": (
        "SELECT user_id, portfolio_id, total_pnl, gross_exposure FROM portfolios ORDER BY total_pnl DESC LIMIT 5"
    ),
    "largest positions": (
        "SELECT user_id, symbol, quantity, average_price, realized_pnl FROM positions "
        "ORDER BY abs(cost_basis) DESC LIMIT 5"
    ),
    "what traded most": (
        "SELECT symbol, count() AS fills, sum(notional) AS notional FROM fills "
        "GROUP BY symbol ORDER BY fills DESC LIMIT 5"
    ),
    "alerts still open": (
        "SELECT user_id, type, symbol, severity, current_value, limit_value FROM open_alerts LIMIT 5"
    ),
    "why messages were rejected": (
        "SELECT reason, count() AS messages FROM dead_letters GROUP BY reason ORDER BY messages DESC"
    ),
}


class DemoFailed(RuntimeError):
    """A part of the demo ended or did not come up; the text says which and where its log is."""


def demo(
    seconds: Annotated[float, typer.Option(min=1, help="How long the market runs.")] = 30,
    rate: Annotated[float, typer.Option(min=1, help="Messages a second.")] = 2000,
    users: Annotated[int, typer.Option(min=1)] = 100,
    symbols: Annotated[int, typer.Option(min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Another seed is another market.")] = 7,
) -> None:
    """See all of it run: an embedded stack, a worker, a simulated market, a live view, and a summary at the end."""
    outer = settings_module.load()
    folder = (outer.data_dir / "demo").absolute()
    console = Console()
    with ExitStack() as stack:
        stack.enter_context(_terminated_like_interrupted())
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = _start_servers(stack, console, folder, outer)
        worker, metrics_url = _start_worker(stack, console, settings, folder)
        market = _child(
            stack,
            settings,
            folder,
            "simulate",
            *("--rate", str(rate), "--seconds", str(seconds), "--users", str(users), "--symbols", str(symbols)),
            *("--seed", str(seed), "--bad", "0.002", "--live-times"),
        )
        view = View()
        feed = stack.enter_context(_following(settings, view))
        try:
            _show(console, view, market, worker, metrics_url, folder)
        except KeyboardInterrupt:
            market.send_signal(signal.SIGINT)
        _catch_up(view, metrics_url, market)
        feed.set()
        _summary(console, settings, view, folder)


# -- starting ---------------------------------------------------------------------------------------------------------


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start_servers(stack: ExitStack, console: Console, folder: Path, outer: Settings) -> Settings:
    with console.status("Apache Kafka starts (the first time its jars are fetched)"):
        kafka = EmbeddedKafka(folder)
        stack.callback(kafka.stop)
        kafka_port = kafka.start(attached=True).port
    console.print(f"Apache Kafka at 127.0.0.1:{kafka_port}")
    with console.status("ClickHouse starts"):
        clickhouse = EmbeddedClickHouse(folder)
        stack.callback(clickhouse.stop)
        clickhouse_port = clickhouse.start(attached=True).port
    console.print(f"ClickHouse at http://127.0.0.1:{clickhouse_port}")
    settings = outer.model_copy(
        update={
            "kafka_bootstrap_servers": f"127.0.0.1:{kafka_port}",
            "kafka_security_protocol": "PLAINTEXT",
            "clickhouse_url": f"http://127.0.0.1:{clickhouse_port}",
            "data_dir": folder,
            "topic_prefix": "",
            "replication_factor": 1,
        }
    )
    with console.status("topics and tables are made"):
        init_all(settings)
    return settings


def _start_worker(
    stack: ExitStack, console: Console, settings: Settings, folder: Path
) -> tuple[subprocess.Popen[bytes], str]:
    port = free_port()
    worker = _child(stack, settings, folder, "worker", "--metrics-port", str(port))
    url = f"http://127.0.0.1:{port}"
    end = time.monotonic() + READY_S
    with console.status("the worker starts (the first time it compiles its kernels, about a minute)"):
        while not _answers(f"{url}/readyz"):
            _check(worker, "worker", folder)
            if time.monotonic() > end:
                raise DemoFailed(f"the worker is not ready after {READY_S} s, see {folder}/log/worker.log")
            time.sleep(0.1)
    console.print(f"worker ready, its metrics at {url}/metrics")
    return worker, url


def _child(
    stack: ExitStack, settings: Settings, folder: Path, command: str, *arguments: str
) -> subprocess.Popen[bytes]:
    """`assetstream command` as a process of ours, ended with us."""
    overrides = ("kafka_bootstrap_servers", "kafka_security_protocol", "clickhouse_url", "data_dir", "topic_prefix")
    env = os.environ | {PREFIX + name.upper(): str(getattr(settings, name)) for name in overrides}
    log = folder / "log" / f"{command}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "assetstream.cli.main", command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _check(process: subprocess.Popen[bytes], name: str, folder: Path) -> None:
    if process.poll() is not None:
        log = folder / "log" / f"{name}.log"
        lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise DemoFailed(f"the {name} ended with exit code {process.returncode}: {lines[-1]} (all of it in {log})")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


# -- watching ---------------------------------------------------------------------------------------------------------


@contextmanager
def _following(settings: Settings, view: View) -> Iterator[threading.Event]:
    """Feed the view from `portfolio_updates` and `risk_alerts`, until the event is set."""
    stop = threading.Event()
    names = {settings.topic("portfolio_updates"): view.update, settings.topic("risk_alerts"): view.alert}

    def follow() -> None:
        consumer = Consumer(reader(settings))
        consumer.assign([TopicPartition(t, p, 0) for t in names for p in range(settings.partitions)])
        while not stop.is_set():
            for message in consumer.consume(1000, 0.1):
                if message.error() is None:
                    names[message.topic()](json.loads(message.value()))
        consumer.close()

    thread = threading.Thread(target=follow, name="view", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(5)


def _show(
    console: Console,
    view: View,
    market: subprocess.Popen[bytes],
    worker: subprocess.Popen[bytes],
    metrics_url: str,
    folder: Path,
) -> None:
    """The live view, or plain lines, until the market closes."""
    began = time.monotonic()
    meter = Meter(metrics_url)
    with ExitStack() as stack:
        live = None
        if console.is_terminal:
            live = stack.enter_context(Live(view.render(), console=console, refresh_per_second=4, transient=True))
        said = 0.0
        while market.poll() is None:
            time.sleep(0.25)
            _check(worker, "worker", folder)
            view.vitals = meter.read(time.monotonic() - began)
            if live is not None:
                live.update(view.render())
            elif view.vitals.seconds - said >= 2:
                said = view.vitals.seconds
                console.print(view.plain(), soft_wrap=True)
    if market.returncode not in (0, -signal.SIGINT):
        _check(market, "simulate", folder)


class Meter:
    """Reads the worker's metrics and makes rates and quantiles of what changed lately."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/metrics"
        self._past: list[tuple[float, int, dict[float, float]]] = []

    def read(self, seconds: float) -> Vitals:
        """The worker's vitals now; `seconds` since the start is passed through."""
        with urllib.request.urlopen(self._url, timeout=5) as response:
            families = {f.name: f.samples for f in text_string_to_metric_families(response.read().decode())}

        def total(name: str, **labels: str) -> float:
            return sum(
                s.value
                for s in families.get(name, ())
                if not s.name.endswith("_created") and labels.items() <= s.labels.items()
            )

        messages = int(total("messages"))
        rejected = messages - sum(int(total("messages", result=r)) for r in ("applied", "duplicate", "ignored"))
        buckets: dict[float, float] = {}
        for s in families.get("end_to_end_latency_seconds", ()):
            if s.name.endswith("_bucket") and s.labels["topic"] == "trades":
                buckets[float(s.labels["le"])] = s.value
        now = time.monotonic()
        self._past = [*(p for p in self._past if now - p[0] < 5), (now, messages, buckets)]
        then, before, old = self._past[0]
        recent = {le: n - old.get(le, 0) for le, n in buckets.items()}
        return Vitals(
            seconds,
            messages,
            (messages - before) / (now - then) if now > then else 0.0,
            _quantile(recent, 0.5),
            _quantile(recent, 0.99),
            int(total("partition_lag_records")),
            rejected,
            int(total("clickhouse_rows")),
        )


def _quantile(cumulative: dict[float, float], q: float) -> float | None:
    """The q-quantile of a histogram in milliseconds, interpolated in its bucket; None when it is empty."""
    count = max(cumulative.values(), default=0)
    if count <= 0:
        return None
    low, below = 0.0, 0.0
    for le, n in sorted(cumulative.items()):
        if n >= q * count:
            if le == float("inf"):
                return low * 1000
            return (low + (le - low) * (q * count - below) / max(n - below, 1e-9)) * 1000
        low, below = le, n
    return None


def _catch_up(view: View, metrics_url: str, market: subprocess.Popen[bytes]) -> None:
    """Wait until what was sent is taken and in ClickHouse: the counts stand still for a second."""
    market.wait(30)
    end, still, last = time.monotonic() + CATCH_UP_S, time.monotonic(), (0, 0)
    meter = Meter(metrics_url)
    while time.monotonic() < end and time.monotonic() - still < 1.5:
        vitals = meter.read(view.vitals.seconds)
        now = vitals.messages, vitals.rows
        if now != last:
            still, last = time.monotonic(), now
        view.vitals.messages, view.vitals.rows, view.vitals.rejected = vitals.messages, vitals.rows, vitals.rejected
        time.sleep(0.2)


# -- the end ----------------------------------------------------------------------------------------------------------


def _summary(console: Console, settings: Settings, view: View, folder: Path) -> None:
    console.print(
        f"\n[bold]{view.vitals.messages:,} messages[/] taken, {view.vitals.rejected:,} of them dead letters; "
        f"{len(view.portfolios):,} portfolios, {view.alert_count:,} alerts, {view.vitals.rows:,} rows in ClickHouse."
    )
    client = connect(settings)
    client.database = settings.clickhouse_database
    for title, query in QUERIES.items():
        result = client.query(query)
        table = Table(title=title, title_justify="left", title_style="bold", box=None, header_style="dim")
        for name in result.column_names:
            table.add_column(name)
        for row in result.result_rows:
            table.add_row(*(f"{v.normalize():,f}" if hasattr(v, "normalize") else str(v) for v in row))
        console.print(table)
        console.print(f"  {query}\n", style="dim", soft_wrap=True)
    client.close()
    console.print(f"Its data stays in {folder}. To ask more of it:")
    console.print(f"  ASSETSTREAM_DATA_DIR={folder} assetstream up", soft_wrap=True)
    console.print('  assetstream sql "SELECT * FROM open_alerts"', soft_wrap=True)
