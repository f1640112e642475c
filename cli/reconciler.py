"""`assetstream reconciler`: judges brokers' statements, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing, suppress
from typing import Annotated

import structlog
import typer

from assetstream.cli.reconciliation.ours import RowsExpire
from assetstream.cli.reconciliation.process import Reconciler
from assetstream.sinks.clickhouse import PATIENCE_S, ClickHouseAway, connect
from assetstream.sinks.migrations import check
from assetstream.streams import admin, logs
from assetstream.streams import settings as settings_module
from assetstream.streams.health import HealthServer
from assetstream.streams.settings import Settings

log = structlog.get_logger(__name__)


def reconciler(
    metrics_port: Annotated[int | None, typer.Option(help="Port of /metrics, /healthz, /readyz; 0: any.")] = None,
) -> None:
    """Judge brokers' statements as they come, and hold our own accounts against each other daily.

    One is enough; more share the work. Breaks are told on the topic reconciliation_breaks and in ClickHouse, each
    change once.
    """
    settings = settings_module.load(metrics_port=metrics_port)
    logs.configure(settings.log_level, settings.log_json)
    admin.check_topics(settings)
    if settings.clickhouse_ttl_days is not None:
        raise RowsExpire
    with suppress(ClickHouseAway), closing(connect(settings, PATIENCE_S)) as client:
        check(client, settings)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    work = Reconciler(settings)
    health = HealthServer(settings.metrics_host, settings.metrics_port, work.waiting_for)
    await health.start()
    log.info("reconciler starts", kafka=settings.kafka_bootstrap_servers, metrics=f"http://{health.host}:{health.port}")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.stop)
    try:
        await asyncio.to_thread(work.run)
    finally:
        await health.stop()
    log.info("reconciler stopped")
