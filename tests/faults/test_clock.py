"""The workers' clocks are set an hour forward and back while everything runs.

Kafka's own is left alone (its Java is too slow under the library that does it). It stamps the inputs, and messages are
judged by those stamps only.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import libfaketime
import pytest

from assetstream.models.market import market
from tests.faults.load import SEED, own_servers, while_publishing
from tests.integration.pipeline import (
    Check,
    Pipeline,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    wait_until,
)

USERS, SYMBOLS, BAD, MESSAGES, RATE = 20, 10, 0.02, 9_000, 250
HOUR_S = 3600
#: how long a clock stays wrong
WRONG_S = 6
LIBRARY = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"


class Clock:
    """The wall clock of the processes that are started while it is `worn`; what never runs back is left alone."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)

    def worn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LD_PRELOAD", str(LIBRARY))
        monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(self.file))
        monkeypatch.setenv("FAKETIME_CACHE_DURATION", "1")
        monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")

    def set(self, seconds: int) -> None:
        """So many seconds ahead of the true time."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self.file)

    def jump(self) -> None:
        """An hour forward, two back, and right again."""
        for seconds in (HOUR_S, -HOUR_S, 0):
            self.set(seconds)
            time.sleep(WRONG_S)


def test_clocks_jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(tmp_path / "clock")
    *before, last = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)
    with own_servers(tmp_path) as servers, pipeline(servers.settings("jumps"), tmp_path) as running:
        clock.worn(monkeypatch)
        running.start("one", "two")
        monkeypatch.undo()
        running.work_through(before)

        while_publishing(running, last, RATE, clock.jump)
        wait_until(lambda: all(worker.is_ready for worker in running.workers), "both to be ready")
        assert all(worker.process.poll() is None for worker in running.workers)
        Check(running).everything()
        assert hours_off(running) == {-1, 0, 1}, "the clocks were not set"


def hours_off(running: Pipeline) -> set[int]:
    """By how many hours dead letters were rejected before or after they came."""
    came = {
        (r.topic, r.partition, r.offset): r.timestamp for r in running.read("trades", "transactions", "risk_limits")
    }
    found = set()
    for record in running.read("dead_letters"):
        letter = record.json
        place = (letter["topic"].removeprefix(running.settings.topic_prefix), letter["partition"], letter["offset"])
        if place in came:
            rejected = datetime.fromisoformat(letter["rejected_at"])
            late = rejected - datetime.fromtimestamp(came[place] / 1000, UTC)
            found.add(round(late / timedelta(hours=1)))
    return found
