"""The same backlog taken by other stream processors, on the same broker, one after the other.

Their work is less than ours: positions by weighted-average cost in exact decimals with changelog, and an alert for one
trade in a hundred; no portfolio totals, no updates, no analytics, no id memory, no checks of what comes in.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import AdminClient, NewTopic

from assetstream.cli.benchmarks.report import BenchError, Table
from assetstream.cli.benchmarks.throughput import Backlog
from assetstream.streams import embedded_kafka
from assetstream.streams.embedded_kafka import Progress
from assetstream.streams.processes import Server

HERE = Path(__file__).parent
QUIX = "quixstreams==3.28.1"
KAFKA_STREAMS = f"org.apache.kafka:kafka-streams:{embedded_kafka.VERSION}"
PATIENCE_S = 900.0


class PeerResult(NamedTuple):
    """What a peer took, and `target`: how many times as fast we are to be. seconds: None when it was skipped."""

    name: str
    target: float
    messages: int
    seconds: float | None
    note: str


class PeerProcess(Server):
    """A peer's process; what it prints is in its log, `first` and `last` with times."""

    option = "none"

    def __init__(self, folder: Path, name: str, command: list[str]) -> None:
        self.name = self.title = name
        super().__init__(folder)
        self.log = folder / f"{name}.log"
        self.pid_file = folder / f"{name}.json"
        self._command = command

    def command(self, port: int) -> list[str]:
        """The program."""
        return self._command

    def environment(self) -> dict[str, str]:
        """Without our settings, and with modules found beside the script only."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def answers(self, port: int) -> bool:
        """It serves nothing."""
        return True

    def time_of(self, word: str) -> float | None:
        """The time printed after a word, None: not printed yet."""
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith(f"{word} "):
                return float(line.split()[1])
        return None

    def must_live(self) -> None:
        """Raises BenchError when it has ended before its time."""
        if self.process is None and self.time_of("first") is None:
            raise BenchError(f"{self.title} ended: {self._last_words()}")


class Peer(NamedTuple):
    """A peer: `command` is its program without the arguments that all take."""

    name: str
    key: str
    target: float
    command: list[str]
    commits: bool  # whether the group's committed offsets say when it is done


def run_peers(backlog: Backlog, faust_messages: int, kafka_streams: bool, progress: Progress) -> list[PeerResult]:
    """Run the peers one after the other. Kafka Streams only if asked for; what this machine lacks is skipped."""
    folder = backlog.installation.settings.data_dir / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    n, results = backlog.trades.n, []
    faust = Peer(
        "Faust, a table in rocksdict, at least once", "faust", 40, [sys.executable, str(HERE / "faust_peer.py")], False
    )
    results.append(_run(backlog, faust, min(n, faust_messages), folder, progress))
    for peer in (_quix, *([_kafka_streams] if kafka_streams else [])):
        found = peer(folder, progress)
        results.append(
            _run(backlog, found, n, folder, progress) if isinstance(found, Peer) else found._replace(messages=n)
        )
    return results


def _run(backlog: Backlog, peer: Peer, messages: int, folder: Path, progress: Progress) -> PeerResult:
    """One peer over the backlog.

    The clock starts at its first trade; it stops when the group's committed offsets are at the end, or for a peer
    without exactly once (Faust commits every few seconds) when it has handled the last of `messages`.
    """
    here = backlog.installation
    settings = here.settings
    group = f"{here.name}-{peer.key}-{time.time_ns()}"
    alerts = f"{group}-alerts"
    admin = AdminClient(settings.kafka(log_level=0))
    for made in admin.create_topics([NewTopic(alerts, settings.partitions, 1)]).values():
        made.result()
    arguments = [settings.kafka_bootstrap_servers, settings.topic("trades"), alerts, group, str(folder / group)]
    process = PeerProcess(folder, peer.key, [*peer.command, *arguments, str(messages)])
    progress(peer.name, 0, 0)
    try:
        process.start(attached=True)
        if peer.commits:
            ended = here.when_committed(
                backlog.ends,
                group,
                PATIENCE_S,
                lambda _, done, total: progress(peer.name, done, total),
                process.must_live,
            )
        else:
            ended = _when_printed(process, "last")
        began = process.time_of("first")
    finally:
        process.stop()
        shutil.rmtree(folder / group, ignore_errors=True)
    assert began is not None
    return PeerResult(peer.name, peer.target, messages, ended - began, "")


def _when_printed(process: PeerProcess, word: str) -> float:
    deadline = time.monotonic() + PATIENCE_S
    while (found := process.time_of(word)) is None:
        if process.process is None:
            raise BenchError(f"{process.title} ended before its last trade, see {process.log}")
        if time.monotonic() > deadline:
            raise BenchError(f"{process.title} did not come to its last trade within {PATIENCE_S:.0f} s")
        time.sleep(0.2)
    return found


def _quix(folder: Path, progress: Progress) -> Peer | PeerResult:
    """Quix Streams, in an environment of its own: it needs an older confluent-kafka than we do."""
    name, target = "Quix Streams, exactly once", 4.0
    environment = folder.parent.parent / "quix-venv"
    python = environment / "bin" / "python"
    ready = environment / QUIX
    if not ready.exists():
        progress(f"installing {QUIX}", 0, 0)
        shutil.rmtree(environment, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(environment)],
            [str(python), "-m", "pip", "install", "--quiet", QUIX],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                why = (done.stderr.strip() or "failed").splitlines()[-1]
                return PeerResult(name, target, 0, None, f"skipped: {QUIX} could not be installed: {why}")
        ready.touch()
    return Peer(name, "quix", target, [str(python), str(HERE / "quix_peer.py")], True)


def _kafka_streams(folder: Path, progress: Progress) -> Peer | PeerResult:
    """Kafka Streams, compiled here; its jars come as Kafka's do."""
    name, target = "Kafka Streams, exactly_once_v2, BigDecimal, 2 threads", 2.5
    javac = shutil.which("javac")
    if javac is None:
        return PeerResult(name, target, 0, None, "skipped: no javac, so no Java development kit, on this machine")
    classes, jars = folder / "classes", _jars(folder.parent.parent, progress)
    path = os.pathsep.join([str(classes), embedded_kafka.classpath(progress), f"{jars}/*"])
    command = [javac, "--release", "17", "-cp", path, "-d", str(classes), str(HERE / "KafkaStreamsPeer.java")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"KafkaStreamsPeer.java does not compile: {done.stderr.strip()}")
    java = str(Path(javac).resolve().with_name("java"))
    return Peer(name, "kafka-streams", target, [java, "-Xmx1g", "-cp", path, "KafkaStreamsPeer"], True)


def _jars(folder: Path, progress: Progress) -> Path:
    """Kafka Streams' own jars: what Kafka's class path lacks."""
    from jgo.maven import MavenContext, PythonResolver
    from jgo.parse import Endpoint

    jars = folder / f"kafka-streams-{embedded_kafka.VERSION}"
    if not jars.exists():
        progress("fetching Kafka Streams", 0, 0)
        partial = jars.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        context = MavenContext(resolver=PythonResolver(), repo_cache=partial / "repository")
        (coordinate,) = Endpoint.parse(KAFKA_STREAMS).coordinates
        dependency = context.create_dependency(replace(coordinate, scope="compile"))
        roots, others = context.resolver.resolve([dependency])
        (partial / "jars").mkdir(parents=True)
        for each in (*roots, *others):
            if each.artifact.artifactId in ("kafka-streams", "rocksdbjni"):
                jar = each.artifact.resolve()
                jar.rename(partial / "jars" / jar.name)
        (partial / "jars").rename(jars)
        shutil.rmtree(partial, ignore_errors=True)
    return jars


def table(results: list[PeerResult], ours: float) -> Table:
    """The peers beside our worker's rate in the same run."""
    rows = []
    for name, target, messages, seconds, note in results:
        rate = messages / seconds if seconds else None
        rows.append((name, messages, rate, ours / rate if rate else None, target, note or "measured"))
    columns = ("peer", "messages", "messages/s", "assetstream is faster by", "wanted", "state")
    note = f"assetstream in the same run: {ours:,.0f} messages/s, with more work and more outputs (see above)."
    return Table("peers", "The same backlog, taken by other stream processors", columns, rows, note)
