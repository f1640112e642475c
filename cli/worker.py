"""`assetstream worker`: one worker, agents and sinks, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from assetstream.streams import admin, logs, memory
from assetstream.streams import settings as settings_module
from assetstream.streams.health import HealthServer
from assetstream.streams.outages import watch_kafka
from assetstream.streams.settings import Settings

log = structlog.get_logger(__name__)

#: three threads share the interpreter: with Python's 5 ms a checkpoint waits for its turn
SWITCH_INTERVAL_S = 0.0002


class Part(StrEnum):
    """Half of a worker."""

    agents = "agents"
    sinks = "sinks"


def worker(
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics, /healthz, /readyz; 0: any.")] = None,
    only: Annotated[Part | None, typer.Option(help="Only the agents, or only the sinks.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of local snapshots.")] = None,
) -> None:
    """Run one worker: agents and sinks. Run as many as there are cores and machines."""
    settings = settings_module.load(metrics_port=metrics_port, data_dir=data_dir)
    logs.configure(settings.log_level, settings.log_json)
    admin.check_topics(settings)
    if only != Part.agents:
        _check_schema(settings)
    asyncio.run(serve(settings, agents=only != Part.sinks, sinks=only != Part.agents))


def _check_schema(settings: Settings) -> None:
    """A schema that isn't ours is a reason not to start; ClickHouse being away is none: rows wait in Kafka."""
    from assetstream.sinks.clickhouse import PATIENCE_S, ClickHouseAway, connect
    from assetstream.sinks.migrations import check

    with suppress(ClickHouseAway), closing(connect(settings, PATIENCE_S)) as client:
        check(client, settings)


async def serve(settings: Settings, agents: bool = True, sinks: bool = True) -> None:
    """Run the parts until a signal asks to stop or one of them breaks; raises what broke."""
    parts: dict[str, Any] = {}
    health = HealthServer(
        settings.metrics_host,
        settings.metrics_port,
        lambda: [line for part in parts.values() for line in part.waiting_for()] if parts else ["start"],
    )
    await health.start()
    log.info("worker starts", kafka=settings.kafka_bootstrap_servers, metrics=f"http://{health.host}:{health.port}")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    memory.keep()
    if agents:
        from assetstream.agents.worker import Worker

        parts["agents"] = Worker(settings)
    if sinks:
        from assetstream.sinks.sink import Sink

        parts["sinks"] = Sink(settings)
    _on_signals(lambda: [part.stop() for part in parts.values()])
    if agents:
        from assetstream.agents.warmup import warm_up

        await asyncio.to_thread(warm_up, settings)
        parts["agents"].warm = True
    gc.freeze()  # what is loaded by now stays; collections need not look at it again
    watch = asyncio.create_task(watch_kafka(settings))
    try:
        await _until_all_end({name: part.run for name, part in parts.items()}, parts)
    finally:
        watch.cancel()
        await health.stop()
    log.info("worker stopped")


async def _until_all_end(runs: dict[str, Callable[[], Awaitable[None]]], parts: dict[str, Any]) -> None:
    """A part that breaks takes the agents with it only if it is the agents: alerts go on without ClickHouse."""
    tasks = {name: asyncio.ensure_future(run()) for name, run in runs.items()}
    if "agents" in tasks:
        tasks["agents"].add_done_callback(lambda _: [part.stop() for part in parts.values()])
    results = await asyncio.gather(*tasks.values(), return_exceptions=True)
    for error in results:
        if isinstance(error, BaseException):
            raise error


def _on_signals(stop: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
