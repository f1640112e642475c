"""Every command, program and query of README.md and docs/ runs, in order, in an installation that they start.

The documents say the default ports; here they stand for free ones. See tests/documents.py for what a block may be.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from confluent_kafka import KafkaException

from assetstream.cli.lag import lags
from assetstream.streams.processes import free_port
from assetstream.streams.settings import PREFIX, Settings
from tests.documents import ROOT, RUN, Block, all_blocks

READY_S = 240  # the first worker on a machine compiles the kernels
SETTLE_S = 60
BIN = Path(sys.executable).parent


def _in_order() -> list[Block]:
    """What is run here, in the order of the documents; blocks marked `last` come last."""
    run = [block for block in all_blocks() if block.language in RUN and "make" not in block.words]
    return sorted(run, key=lambda block: "last" in block.words)


def _printed() -> dict[str, str]:
    """What a block must print, by the `where` of the block."""
    every = all_blocks()
    return {
        before.where: after.text
        for before, after in pairwise(every)
        if (after.language, after.words) == ("text", ("output",))
    }


class Reader:
    """Who reads the documents and types what they say: a folder, an environment, and workers in other terminals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kafka, self.clickhouse, self.metrics = free_port(), free_port(), free_port()
        own = {
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self.kafka}",
            "CLICKHOUSE_URL": f"http://127.0.0.1:{self.clickhouse}",
            "METRICS_PORT": str(self.metrics),
            "DATA_DIR": str(folder / "data"),
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        self.env = {**inherited, **{PREFIX + name: value for name, value in own.items()}}
        self.env["PATH"] = f"{BIN}:{self.env.get('PATH', '')}"
        self.settings = Settings(**{name.lower(): value for name, value in own.items()})
        self.workers: list[tuple[subprocess.Popen[bytes], Path]] = []
        (folder / "examples").symlink_to(ROOT / "examples")

    def run(self, block: Block) -> str:
        """Run one block; what it printed."""
        text = re.sub(r"\b9092\b", str(self.kafka), block.text)
        text = re.sub(r"\b8123\b", str(self.clickhouse), text)
        text = re.sub(r"\b9108\b", str(self.metrics), text)
        commands = {
            "bash": ["bash", "-euo", "pipefail", "-c", text],
            "python": [sys.executable, "-c", text],
            "sql": ["assetstream", "sql", "--json", text],
        }
        if "background" in block.words:
            self._start(text, block)
            return ""
        if "last" in block.words:
            self.end_workers()
        done = subprocess.run(
            commands[block.language], cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{block.where}\n{text}\n{done.stdout}\n{done.stderr}"
        for number in re.findall(r"assetstream repartition (\d+)", text):
            self.env[f"{PREFIX}PARTITIONS"] = number  # as its last line says
        return done.stdout

    def settle(self) -> None:
        """Wait until all that was published is taken, and in ClickHouse."""
        end = time.monotonic() + SETTLE_S
        while self._behind():
            assert time.monotonic() < end, "the workers do not catch up:\n" + self._logs()
            time.sleep(0.2)

    def _behind(self) -> bool:
        try:
            # the notary's group has run once, and is then behind
            return any(row.lag for row in lags(self.settings) if row.group != self.settings.group("notary"))
        except KafkaException:  # a broker that a busy machine starved elects its leaders anew
            return True

    def _start(self, command: str, block: Block) -> None:
        log = self.folder / f"worker-{len(self.workers)}.log"
        with log.open("wb") as out:
            worker = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.env, stdout=out, stderr=out
            )
        self.workers.append((worker, log))
        end = time.monotonic() + READY_S
        while not self._is_ready(log):
            assert worker.poll() is None, f"{block.where}: {log.read_text()}"
            assert time.monotonic() < end, f"{block.where} is not ready: {log.read_text()}"
            time.sleep(0.2)

    def _is_ready(self, log: Path) -> bool:
        told = re.search(r"metrics=(http://\S+)", log.read_text())
        if told is None:
            return False
        try:
            with urllib.request.urlopen(f"{told[1]}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def end_workers(self) -> None:
        """SIGTERM; every worker ends by itself, with exit code 0."""
        workers, self.workers = self.workers, []
        for worker, _ in workers:
            worker.send_signal(signal.SIGTERM)
        codes = [worker.wait(30) for worker, _ in workers]
        assert codes == [0] * len(workers), "\n".join(log.read_text() for _, log in workers)

    def _logs(self) -> str:
        return "\n".join(log.read_text()[-3000:] for _, log in self.workers)

    def leave(self) -> None:
        """End whatever still runs."""
        for worker, _ in self.workers:
            worker.kill()
            worker.wait()
        subprocess.run(["assetstream", "down"], cwd=self.folder, env=self.env, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    who = Reader(tmp_path_factory.mktemp("reader"))
    try:
        yield who
    finally:
        who.leave()


PRINTED = _printed()
_failed: list[str] = []


@pytest.mark.parametrize("block", _in_order(), ids=lambda block: block.where)
def test_block_runs(reader: Reader, block: Block) -> None:
    if _failed:
        pytest.skip(f"{_failed[0]} failed, and this may build on it")
    _failed.append(block.where)
    printed = reader.run(block)
    if block.where in PRINTED:
        assert printed.splitlines() == PRINTED[block.where].splitlines()
    if block.language == "sql":
        assert printed.strip(), "no row"
    elif reader.workers and "background" not in block.words:
        reader.settle()  # it may have published
    _failed.clear()
