"""A Kafka of three nodes on loopback, each broker and controller in a process of its own, to kill one after another."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient

from assetstream.streams import processes
from assetstream.streams.embedded_kafka import LOG4J, PROPERTIES, EmbeddedKafka, _java, classpath, new_cluster_id
from tests.integration.pipeline import wait_until

NODES = (1, 2, 3)
JVM = ("-Xms96m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")

#: beside the embedded node's; where a name comes twice, Java takes the last
REPLICATED = """
node.id={node}
controller.quorum.bootstrap.servers=
controller.quorum.voters={voters}
default.replication.factor=3
# not 9 s until a dead node's partitions get other leaders
broker.session.timeout.ms=6000
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
"""


class Node(EmbeddedKafka):
    """One node, with its data in `folder/kafka-<number>`."""

    def __init__(self, folder: Path, number: int, cluster: str, controllers: dict[int, int]) -> None:
        self.name, self.title = f"kafka-{number}", f"Kafka node {number}"
        super().__init__(folder)
        self.number, self._cluster, self._controllers = number, cluster, controllers

    def command(self, port: int) -> list[str]:
        """Java's command line; writes the configuration, and formats the data folder when there is none."""
        data, config, log4j = (self.folder / each for each in ("data", "server.properties", "log4j2.properties"))
        self.folder.mkdir(parents=True, exist_ok=True)
        log4j.write_text(LOG4J)
        voters = ",".join(f"{node}@127.0.0.1:{at}" for node, at in self._controllers.items())
        properties = (PROPERTIES + REPLICATED).format(
            port=port, controller=self._controllers[self.number], data=data, node=self.number, voters=voters
        )
        config.write_text(properties)
        java = [_java(), *JVM, f"-Dlog4j2.configurationFile={log4j}", "-cp", classpath()]
        if not data.exists():
            tool = ["kafka.tools.StorageTool", "format", "-t", self._cluster, "-c", str(config)]
            subprocess.run([*java, *tool], check=True, capture_output=True)
        return [*java, "kafka.Kafka", str(config)]


class Cluster:
    """Three nodes. `kill` one, `restart` it; never two at a time: each partition needs two of three."""

    def __init__(self, folder: Path) -> None:
        cluster = new_cluster_id()
        controllers = {number: processes.free_port() for number in NODES}
        self.nodes = {number: Node(folder, number, cluster, controllers) for number in NODES}
        self._ports: dict[int, int] = {}

    @property
    def bootstrap_servers(self) -> str:
        """All nodes, dead ones too, as an operator would list them."""
        return ",".join(f"127.0.0.1:{port}" for port in self._ports.values())

    def start(self) -> None:
        """Start all of them; return when each answers."""
        with ThreadPoolExecutor(len(NODES)) as pool:
            starts = {number: pool.submit(node.start, attached=True) for number, node in self.nodes.items()}
            self._ports = {number: start.result().port for number, start in starts.items()}

    def stop(self) -> None:
        """End all of them."""
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(lambda node: node.stop(5), self.nodes.values()))

    def kill(self, number: int) -> None:
        """`kill -9`."""
        process = self.nodes[number].process
        assert process is not None
        process.signal(signal.SIGKILL)
        wait_until(lambda: not process.alive, f"the end of node {number}", 20)

    def restart(self, number: int) -> None:
        """Start it again where it was; return when it answers."""
        self.nodes[number].start(port=self._ports[number], attached=True)

    def leaders(self, topic: str) -> dict[int, int]:
        """Who leads each partition."""
        described = self.admin().list_topics(topic, timeout=10).topics[topic]
        return {number: partition.leader for number, partition in described.partitions.items()}

    def is_whole(self) -> bool:
        """Whether every replica of every partition is in sync."""
        topics = self.admin().list_topics(timeout=10).topics.values()
        return all(len(p.isrs) == len(p.replicas) for topic in topics for p in topic.partitions.values())

    def admin(self) -> AdminClient:
        """A client of the whole cluster."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that runs, ended at the end."""
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
