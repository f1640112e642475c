"""Whether Kafka and ClickHouse answer, as this process sees it: one line when an outage begins, one when it is over.

Whoever tries again meanwhile does so in silence: a line for each try would hide what else the log says.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import Gauge

from assetstream.streams import metrics
from assetstream.streams.settings import Settings

log = structlog.get_logger(__name__)

#: how often Kafka is asked whether it is there, and how long it may think about it
LOOK_S, PATIENCE_S = 1.0, 5.0
#: between two tries of what failed
LONGEST_PAUSE_S = 10.0


class Outage:
    """Of one server; `is_on` while it lasts, and the gauge is 1 then."""

    def __init__(self, server: str, gauge: Gauge) -> None:
        self._server, self._gauge = server, gauge
        self._since = 0.0
        self.is_on = False

    def begins(self, why: str) -> None:
        """It does not answer. Says so, unless that is known."""
        if not self.is_on:
            self.is_on, self._since = True, time.monotonic()
            self._gauge.set(1)
            log.warning(f"{self._server} does not answer, trying on until it does", error=why)

    def ends(self) -> None:
        """It answers. Says so, if it didn't before."""
        if self.is_on:
            self.forget()
            log.warning(f"{self._server} answers again", after_s=round(time.monotonic() - self._since, 1))

    def forget(self) -> None:
        """Nobody asks it any more, so nothing is known."""
        self.is_on = False
        self._gauge.set(0)


KAFKA = Outage("Kafka", metrics.BROKER_DOWN)
CLICKHOUSE = Outage("ClickHouse", metrics.CLICKHOUSE_DOWN)


async def pause(what: str, error: str, pause_s: float) -> float:
    """Wait before something that failed on Kafka is tried again. -> the next pause, if it fails again.

    Says so, but not while Kafka is known to be away.
    """
    if not KAFKA.is_on:
        log.warning(f"{what}, trying again", error=error, pause_s=pause_s)
    await asyncio.sleep(pause_s)
    return min(2 * pause_s, LONGEST_PAUSE_S)


async def watch_kafka(settings: Settings) -> None:
    """Ask Kafka again and again whether it is there: a worker without work would not notice. Never returns."""
    admin = AdminClient(settings.kafka(log_level=0))
    while True:
        try:
            await asyncio.to_thread(admin.list_topics, "__consumer_offsets", PATIENCE_S)
        except KafkaException as error:
            KAFKA.begins(error.args[0].str())
        else:
            KAFKA.ends()
        await asyncio.sleep(LOOK_S)
