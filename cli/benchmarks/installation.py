"""An installation of the benchmarks' own: topics, database and worker on the stack that the benchmarks started."""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.client import Client
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from prometheus_client.parser import text_string_to_metric_families

from assetstream.cli.benchmarks.report import BenchError
from assetstream.cli.init import init_all
from assetstream.cli.stack import EmbeddedStack
from assetstream.sinks.clickhouse import connect
from assetstream.streams.embedded_kafka import Progress, silent
from assetstream.streams.processes import Server
from assetstream.streams.settings import PREFIX, Settings

#: between two looks at what is committed: what an end of a run may be late by
LOOK_S = 0.02

Ends = dict[tuple[str, int], int]


class WorkerProcess(Server):
    """`assetstream worker` as a process of its own; it serves when `/readyz` says so."""

    name, title, option = "worker", "a worker", "--metrics-port"
    patience = 600.0  # the first start compiles the kernels

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.data_dir)
        self._settings = settings

    def command(self, port: int) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "assetstream.cli.main", "worker", "--metrics-port", str(port)]

    def environment(self) -> dict[str, str]:
        """Ours, pointed at this installation."""
        names = ("kafka_bootstrap_servers", "clickhouse_url", "clickhouse_database", "data_dir", "topic_prefix")
        ours = {PREFIX + name.upper(): str(getattr(self._settings, name)) for name in (*names, "partitions")}
        return {**os.environ, **ours}

    def answers(self, port: int) -> bool:
        """Whether it is ready."""
        return _get(f"http://127.0.0.1:{port}/readyz") is not None

    @property
    def port(self) -> int:
        """Of its metrics. Raises BenchError when it is gone."""
        process = self.process
        if process is None:
            raise BenchError(f"the worker ended: {self._last_words()}")
        return process.port

    @property
    def cpu_seconds(self) -> float:
        """CPU time it has used."""
        process = self.process
        return cpu_seconds(process.pid) if process else 0.0

    def metrics(self) -> dict[tuple[str, str], float]:
        """Its metrics by name and by the value of `topic`, `kind` or whatever its first label is (else "")."""
        page = _get(f"http://127.0.0.1:{self.port}/metrics")
        if page is None:
            raise BenchError("the worker's metrics could not be read")
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }


def _get(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return None


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads so far; 0 where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Installation:
    """Topics, tables and workers of one benchmark, apart from those of the others by prefix and database."""

    def __init__(self, stack: EmbeddedStack, name: str, **settings: Any) -> None:
        self.stack, self.name = stack, name
        self.settings = stack.settings(
            topic_prefix=f"{name}-",
            clickhouse_database=f"bench_{name.replace('-', '_')}",
            data_dir=stack.data_dir / name,
            **settings,
        )
        self._admin = AdminClient(self.settings.kafka(log_level=0))

    def init(self) -> None:
        """Make topics and tables."""
        init_all(self.settings)

    @contextmanager
    def worker(self) -> Iterator[WorkerProcess]:
        """A worker, ready; it is ended behind."""
        process = WorkerProcess(self.settings)
        try:
            process.start(attached=True)
            yield process
        finally:
            process.stop()

    def clickhouse(self) -> Client:
        """A client, to be closed."""
        return connect(self.settings)

    def ask(self, query: str) -> Any:
        """The first value of what ClickHouse answers."""
        client = self.clickhouse()
        try:
            return client.query(query.format(db=self.settings.clickhouse_database)).result_rows[0][0]
        finally:
            client.close()

    def ends(self, *topics: str) -> Ends:
        """The end of every partition of these topics (plain names), by full name and partition."""
        asked = {
            TopicPartition(self.settings.topic(topic), number): OffsetSpec.latest()
            for topic in topics
            for number in range(self.settings.partitions)
        }
        answers = self._admin.list_offsets(asked, request_timeout=10)
        return {(tp.topic, tp.partition): answer.result().offset for tp, answer in answers.items()}

    def when_committed(
        self,
        ends: Ends,
        group: str | None = None,
        patience: float = 600,
        progress: Progress = silent,
        check: Any = None,
    ) -> float:
        """Wait until a group (the agents') has committed all of `ends`; -> when that was seen, seconds since 1970.

        check: called between looks; it may raise. Raises BenchError when `patience` seconds are over.
        """
        group = group or self.settings.group("agents")
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(*each) for each in ends])
        total, deadline, looks = sum(ends.values()), time.monotonic() + patience, 0
        while True:
            answer = self._admin.list_consumer_group_offsets([asked], request_timeout=10)[group].result()
            seen = time.time()
            done = {(tp.topic, tp.partition): max(tp.offset, 0) for tp in answer.topic_partitions}
            if all(done.get(each, 0) >= end for each, end in ends.items()):
                progress("committed", total, total)
                return seen
            looks += 1
            if looks % 25 == 0:
                progress("committed", sum(done.values()), total)
                if check is not None:
                    check()
            if time.monotonic() > deadline:
                raise BenchError(
                    f"{group} committed {sum(done.values()):,} of {total:,} messages within {patience:.0f} s"
                )
            time.sleep(LOOK_S)

    def remove(self) -> None:
        """Delete its topics and its database."""
        names = [name for name in self._admin.list_topics(timeout=10).topics if name.startswith(self.name + "-")]
        if names:
            for future in self._admin.delete_topics(names, request_timeout=30).values():
                future.result()
        client = self.clickhouse()
        try:
            client.command(f"DROP DATABASE IF EXISTS {self.settings.clickhouse_database}")
        finally:
            client.close()
