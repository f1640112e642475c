"""Workers that are killed, stopped and woken again in mid-load: every output once and in order, every figure exact."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import market
from tests.integration.pipeline import (
    Check,
    Pipeline,
    WorkerProcess,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    wait_until,
)

SEED = 1
USERS, SYMBOLS, BAD = 30, 12, 0.01
PHASED, MIXED = 30_000, 15_000
#: in each of two phases of trades, and while everything races
KILLS = 2
#: messages a second while workers are killed: mostly they have a backlog
RATE = 1500
SESSION_S = 6


@contextmanager
def two_workers(stack: EmbeddedStack, name: str, folder: Path) -> Iterator[Pipeline]:
    settings = stack.settings(topic_prefix=f"{name}.", clickhouse_database=name, session_timeout_s=SESSION_S)
    # snapshots are taken often, so that restores begin with one
    settings = settings.model_copy(update={"snapshot_s": 1.0})
    with pipeline(settings, folder, "one", "two") as running:
        yield running


def while_publishing(running: Pipeline, publish: Callable[[], int], harm: Callable[[], bool]) -> int:
    """Publish in a thread and do harm meanwhile, as often as it returns true; -> what was published."""
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(publish)
        while harm():
            pass
        published = publishing.result()
    running.settle()
    return published


class Killer:
    """Kills one of the workers at a random moment after some worker is ready, and starts another in its place."""

    def __init__(self, running: Pipeline, random: Random, kills: int) -> None:
        self.running, self.random, self.left = running, random, kills

    def __call__(self) -> bool:
        workers = self.running.workers
        wait_until(lambda: any(worker.is_ready for worker in workers), "a worker to be ready", pause=0.02)
        time.sleep(self.random.random() ** 2 * 3)
        ready = [worker for worker in workers if worker.is_ready] or workers
        # mostly one that works, sometimes whichever: also one that starts or restores
        victim = self.random.choice(ready if self.random.random() < 0.8 else workers)
        victim.kill()
        workers.remove(victim)
        self.running.start(victim.name, ready=False)
        self.left -= 1
        return self.left > 0


def took_part(worker: WorkerProcess) -> int:
    """Input records this process has committed."""
    return int(worker.metric("messages_total"))


def test_killed_again_and_again(stack: EmbeddedStack, tmp_path: Path) -> None:
    """`kill -9`, first while trades and wallet events come, in phases; then while everything races."""
    random = Random(SEED)
    with two_workers(stack, "killed", tmp_path) as running:
        stream = market(USERS, SYMBOLS, SEED, bad=BAD)
        for phase in phases(stream, PHASED):
            if len(phase) > PHASED / 4:
                killer = Killer(running, random, KILLS)
                while_publishing(running, lambda phase=phase: running.publish(phase, RATE), killer)
            else:
                running.publish(phase)
                running.settle()
            running.feed()
        running.settle()
        Check(running).everything()

        mixed = list(islice(stream, MIXED))
        while_publishing(running, lambda: running.publish(mixed, RATE), Killer(running, random, KILLS))
        running.feed()
        for worker in running.workers:
            worker.wait_ready()
        time.sleep(1.5)  # updates that only marks caused come within MARK_UPDATE_MS
        running.settle()
        Check(running).racing()


def test_stopped_past_its_session_and_woken(stack: EmbeddedStack, tmp_path: Path) -> None:
    """A worker that sleeps loses its partitions; what it had in hand when it wakes up must not count."""
    with two_workers(stack, "stopped", tmp_path) as running:
        sleeper, other = running.workers
        *before, last = phases(market(USERS, SYMBOLS, SEED + 1, bad=BAD), PHASED // 2)
        running.work_through(before)

        def stop() -> bool:
            wait_until(lambda: took_part(sleeper) > 0, "the worker to be at work", pause=0.02)
            time.sleep(0.5)
            sleeper.signal(signal.SIGSTOP)
            time.sleep(SESSION_S + 2)
            wait_until(
                lambda: other.metric("ready_partitions") == running.settings.partitions, "the other to take over"
            )
            sleeper.signal(signal.SIGCONT)
            return False

        while_publishing(running, lambda: running.publish(last, RATE), stop)
        running.feed()
        wait_until(
            lambda: [worker.metric("ready_partitions") for worker in running.workers] == [4, 4],
            "both workers to share the partitions again",
        )
        running.settle()
        Check(running).everything()
        assert sleeper.terminate()[0] == 0
