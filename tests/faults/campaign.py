"""A random campaign of faults under load, each round on an installation of its own, then everything against the
reference and the auditor. Every choice follows from the seed: `python -m tests.faults.soak --seed N` does them again
(what a fault hits depends on the machine, too).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from assetstream.cli.audit import audit
from assetstream.models.market import market
from assetstream.sinks.clickhouse import connect
from assetstream.streams import faults, processes
from assetstream.streams.admin import Admin
from assetstream.streams.processes import Server
from tests.faults.load import Servers, kill, process, while_publishing
from tests.integration.pipeline import Check, Pipeline, WorkerProcess, pipeline, wait_until

USERS, SYMBOLS, BAD, RATE = 30, 12, 0.01, 400
SESSION_S = 6
#: steps of a worker's life that it is killed at
STEPS = [point for point in faults.POINTS if not point.startswith(("repartition", "reconciler"))]
#: how long a worker that is to die at a step may live on: it may never come to it
DEATH_S = 20.0
#: all workers are ready again this long after the last fault, or the round fails
HEALED_S = 120.0


class Campaign:
    """The faults of one round on a running pipeline; they are counted in `counts`, by kind."""

    def __init__(
        self, running: Pipeline, servers: Servers, random: Random, say: Callable[[str], None], counts: Counter[str]
    ) -> None:
        self.running, self.servers, self.random, self.say, self.counts = running, servers, random, say, counts
        self.healed_s = 0.0
        self.damaged: set[str] = set()  # folders of snapshots that stay so until their partition comes back to them
        self._kinds: dict[str, Callable[[], None]] = {
            "worker killed": self.worker_killed,
            "worker killed at a step": self.worker_killed_at_a_step,
            "all workers killed": self.all_workers_killed,
            "worker stopped past its session": self.worker_stopped_long,
            "worker stopped for a moment": self.worker_stopped_short,
            "worker left and came back": self.worker_left,
            "worker joined and left": self.worker_joined,
            "snapshot damaged": self.snapshot_damaged,
            "disk lost": self.disk_lost,
            "Kafka killed": lambda: self.killed(self.servers.kafka),
            "Kafka stopped": lambda: self.stopped(self.servers.kafka),
            "ClickHouse killed": lambda: self.killed(self.servers.clickhouse),
            "ClickHouse stopped": lambda: self.stopped(self.servers.clickhouse),
            "both servers killed": lambda: self.killed(self.servers.kafka, self.servers.clickhouse),
        }

    def harm(self, seconds: float) -> None:
        """Faults of all kinds in random order, again and again, for so long; then wait until all is well."""
        end, bag = time.monotonic() + seconds, []
        while time.monotonic() < end:
            if not bag:
                bag = list(self._kinds)
                self.random.shuffle(bag)
            kind = bag.pop()
            self.supervise()
            wait_until(lambda: any(w.is_ready for w in self.running.workers), "a worker to be ready", pause=0.02)
            time.sleep(self.random.random() ** 2 * 3)
            self.say(kind)
            self.counts[kind] += 1
            self._kinds[kind]()
        self.supervise()
        began = time.monotonic()
        wait_until(lambda: all(w.is_ready for w in self.running.workers), "all workers to heal", HEALED_S)
        self.healed_s = time.monotonic() - began

    # -- workers

    def supervise(self) -> None:
        """Start those again that found no Kafka when they started: they end then, and say so."""
        for worker in list(self.running.workers):
            if worker.process.poll() == 1 and "no Kafka answers" in worker.tail(1):
                self.again(worker)

    def a_worker(self) -> WorkerProcess:
        """Mostly one that works, sometimes whichever: also one that starts or restores."""
        workers = self.running.workers
        ready = [worker for worker in workers if worker.is_ready] or workers
        return self.random.choice(ready if self.random.random() < 0.8 else workers)

    def again(self, worker: WorkerProcess) -> WorkerProcess:
        """Start it again in the place of one that has ended."""
        if worker in self.running.workers:
            self.running.workers.remove(worker)
        return self.running.start(worker.name, ready=False)[0]

    def worker_killed(self) -> None:
        victim = self.a_worker()
        victim.kill()
        self.again(victim)

    def all_workers_killed(self) -> None:
        for worker in list(self.running.workers):
            worker.kill()
        for worker in list(self.running.workers):
            self.again(worker)

    def worker_killed_at_a_step(self) -> None:
        step, times = self.random.choice(STEPS), self.random.choice((1, 2, 5, 20))
        self.say(f"  at {step}, the {times}. time")
        victim = self.a_worker()
        victim.kill()
        os.environ["TEST_ASSETSTREAM_FAULT"] = f"{step}:{times}"
        try:
            doomed = self.again(victim)
        finally:
            del os.environ["TEST_ASSETSTREAM_FAULT"]
        self.running.workers.remove(doomed)  # nobody else is to wonder that it ends
        if not processes.wait(lambda: doomed.process.poll() is not None, DEATH_S):
            doomed.kill()
        assert doomed.process.poll() == -signal.SIGKILL, doomed.tail()
        self.again(doomed)

    def worker_stopped_long(self) -> None:
        self._stop(self.a_worker(), SESSION_S + 1 + 4 * self.random.random())

    def worker_stopped_short(self) -> None:
        self._stop(self.a_worker(), 3 * self.random.random())

    def _stop(self, sleeper: WorkerProcess, seconds: float) -> None:
        sleeper.signal(signal.SIGSTOP)
        time.sleep(seconds)
        sleeper.signal(signal.SIGCONT)

    def worker_left(self) -> None:
        leaver = self.a_worker()
        code, _ = leaver.terminate(60)
        assert code == 0, leaver.tail()
        self.again(leaver)

    def worker_joined(self) -> None:
        (guest,) = self.running.start("guest", ready=False)
        time.sleep(12 * self.random.random())
        self.running.workers.remove(guest)
        code, _ = guest.terminate(60)
        assert code in (0, -signal.SIGTERM), guest.tail()  # before it listens to signals it just ends

    # -- what lies on disks

    def snapshot_damaged(self) -> None:
        victim = self.a_worker()
        victim.kill()
        files = sorted((self.running.folder / f"data-{victim.name}" / "state").rglob("*.[ls][os][gt]"))
        for file in self.random.sample(files, min(4, len(files))):
            damage(file, self.random)
            self.damaged.add(str(file.parent))
        self.again(victim)

    def disk_lost(self) -> None:
        victim = self.a_worker()
        victim.kill()
        shutil.rmtree(self.running.folder / f"data-{victim.name}", ignore_errors=True)
        self.again(victim)

    # -- servers

    def killed(self, *servers: Server) -> None:
        for server in servers:
            kill(server)
        time.sleep(8 * self.random.random())
        self.servers.start()

    def stopped(self, server: Server) -> None:
        seconds = self.random.choice((2, 6, 14)) * (0.5 + self.random.random())
        process(server).signal(signal.SIGSTOP)
        time.sleep(seconds)
        process(server).signal(signal.SIGCONT)


def damage(file: Path, random: Random) -> None:
    """Turn some bytes of a file, or cut it short."""
    data = bytearray(file.read_bytes())
    if not data:
        return
    if random.random() < 0.3:
        data = data[: random.randrange(len(data))]
    else:
        for _ in range(8):
            data[random.randrange(len(data))] ^= 0xFF
    file.write_bytes(data)


def one_round(
    servers: Servers,
    folder: Path,
    name: str,
    seed: int,
    seconds: float,
    say: Callable[[str], None],
    counts: Counter[str],
) -> tuple[int, float]:
    """A round on an installation of its own; -> messages, and how long it took to heal at the end.

    Raises AssertionError for whatever is not as it must be.
    """
    random = Random(seed)
    settings = servers.settings(name, session_timeout_s=SESSION_S, snapshot_s=1.0)
    with pipeline(settings, folder, "one", "two") as running, dropped(running):
        campaign = Campaign(running, servers, random, say, counts)
        stream = market(USERS, SYMBOLS, seed, bad=BAD)
        while_publishing(running, stream, RATE, lambda: campaign.harm(seconds), rest=False)
        time.sleep(1.5)  # updates that only marks caused come within MARK_UPDATE_MS
        running.settle()
        say("everything against the reference")
        Check(running).racing()
        say("everything against the auditor")
        for i, worker in enumerate(running.workers):
            report = audit(worker.settings, invariants=i > 0)  # only their snapshots differ: one rebuild is enough
            found = [each for each in report.differences if each.where not in campaign.damaged]
            assert not found, found[:5]
    for worker in running.workers:
        assert worker.process.poll() is not None, f"{worker.name} is left behind"
    return sum(running.published.values()), campaign.healed_s


@contextmanager
def dropped(running: Pipeline) -> Iterator[None]:
    """At the end, if all went well, the installation's topics and tables are dropped: a long campaign has many."""
    yield
    running.end()
    settings = running.settings
    admin = Admin(settings)
    mine = [name for name in admin.partitions() if name.startswith(settings.topic_prefix)]
    admin.results(admin.client.delete_topics(mine))
    client = connect(settings)
    client.command(f"DROP DATABASE {settings.clickhouse_database}")
    client.close()
