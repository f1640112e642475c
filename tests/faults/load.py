"""A load that goes on until the harm is done, and what the fault tests ask of servers and logs."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assetstream.models.market import Message
from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
from assetstream.streams.embedded_kafka import EmbeddedKafka
from assetstream.streams.processes import Pid, Server
from assetstream.streams.settings import Settings
from tests.integration.pipeline import Pipeline, WorkerProcess, wait_until

#: every random choice follows from it; SEED=… replays a run
SEED = int(os.environ.get("SEED", "1"))


def paced(messages: Iterable[Message], rate: float, calm: threading.Event, rest: bool) -> Iterator[Message]:
    """The messages at `rate` a second until it is calm; then the rest of them, if wanted, as fast as possible."""
    began = time.monotonic()
    for sent, message in enumerate(messages):
        ahead = sent / rate - (time.monotonic() - began)
        if ahead > 0:
            calm.wait(ahead)
        if calm.is_set() and not rest:
            return
        yield message


def while_publishing(
    running: Pipeline, messages: Iterable[Message], rate: float, harm: Callable[[], object], rest: bool = True
) -> None:
    """Publish at `rate` while harm is done, then the `rest` at once; return when all is processed, and known."""
    print(f"SEED={SEED}")
    calm = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(running.publish, paced(messages, rate, calm, rest))
        try:
            harm()
        finally:
            calm.set()
        publishing.result()
    running.feed(ledger=False)  # while the workers are at it
    running.settle()


def said(running: Pipeline, pattern: str) -> list[str]:
    """The lines that match in the logs of all workers."""
    logs = (worker.log.read_text(errors="replace") for worker in running.workers)
    return [line for log in logs for line in log.splitlines() if re.search(pattern, line)]


class Servers:
    """A Kafka and a ClickHouse of a test module's own, to stop, kill and start again on the ports they had."""

    def __init__(self, folder: Path) -> None:
        self.kafka, self.clickhouse = EmbeddedKafka(folder), EmbeddedClickHouse(folder)
        self._ports: dict[Server, int] = {}

    def start(self) -> None:
        """Start both, or whichever was killed; return when they answer."""
        with ThreadPoolExecutor(2) as pool:
            starts = {
                server: pool.submit(server.start, self._ports.get(server, 0), True)
                for server in (self.kafka, self.clickhouse)
            }
            self._ports = {server: start.result().port for server, start in starts.items()}

    def stop(self) -> None:
        """End both."""
        for server in (self.kafka, self.clickhouse):
            if server.process is not None:
                server.process.signal(signal.SIGCONT)
            server.stop()

    def settings(self, name: str, **more: Any) -> Settings:
        """Settings of an installation of its own there."""
        kafka, clickhouse = self._ports[self.kafka], self._ports[self.clickhouse]
        return Settings(
            kafka_bootstrap_servers=f"127.0.0.1:{kafka}",
            clickhouse_url=f"http://127.0.0.1:{clickhouse}",
            topic_prefix=f"{name}.",
            clickhouse_database=name,
            _env_file=None,
            **more,
        )


@contextmanager
def own_servers(folder: Path) -> Iterator[Servers]:
    """Servers that run, ended at the end."""
    servers = Servers(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()


def process(server: Server) -> Pid:
    """Its process, which lives."""
    found = server.process
    assert found is not None
    return found


def kill(server: Server) -> None:
    """`kill -9`, and wait for the end."""
    dying = process(server)
    dying.signal(signal.SIGKILL)
    wait_until(lambda: not dying.alive, f"the end of {server.title}", 20)


def resident(worker: WorkerProcess, what: str = "VmRSS") -> int:
    """MiB of memory that a worker has (VmRSS), or ever had (VmHWM)."""
    (line,) = re.findall(rf"{what}:\s+(\d+) kB", Path(f"/proc/{worker.process.pid}/status").read_text())
    return int(line) >> 10
