"""Backup and restore as docs/operations.md says: a copy of the stack's folder, and what comes of it on another machine;
and what a worker says where a restored backup and what it still has don't fit together.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import market
from assetstream.streams.settings import Settings
from tests.integration.pipeline import (
    Check,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    run,
    wait_until,
)

MESSAGES, USERS, SYMBOLS, SEED, BAD = 12_000, 30, 12, 20260304, 0.02


def elsewhere(stack: EmbeddedStack, settings: Settings) -> Settings:
    """The same installation on another stack."""
    there = {"kafka_bootstrap_servers": stack.kafka, "clickhouse_url": stack.clickhouse}
    return settings.model_copy(update=there)


@pytest.mark.timeout(900)
def test_a_copy_made_in_mid_work_goes_on_elsewhere(tmp_path: Path) -> None:
    """The copy is taken while a worker waits; the original goes on, is lost, and the copy takes what came since."""
    parts = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)
    original = EmbeddedStack(tmp_path / "original")
    with original:
        settings = original.settings(topic_prefix="b.", clickhouse_database="b", partitions=4, snapshot_s=0.5)
        with pipeline(settings, tmp_path, "one") as running:
            running.work_through(parts[:3])
            kafka, clickhouse = (int(each.rpartition(":")[2]) for each in (original.kafka, original.clickhouse))
            original.stop()
            subprocess.run(["cp", "-a", tmp_path / "original", tmp_path / "copy"], check=True)
            again = EmbeddedStack(tmp_path / "original", kafka, clickhouse)
            known, fed = copy.deepcopy(running.reference), dict(running._fed)
            with again:
                # the worker has waited, and goes on by itself
                running.work_through(parts[3:])
                Check(running).everything()
                time.sleep(1)  # its snapshots have what came since
                assert running.workers[0].terminate()[0] == 0
    # "Another machine": another folder and other ports. Run and log files of the lost one mean nothing there.
    for name in ("run", "log"):
        shutil.rmtree(tmp_path / "copy" / name, ignore_errors=True)
    with EmbeddedStack(tmp_path / "copy") as restored:
        there = elsewhere(restored, settings)
        # The lost one's machine has snapshots of what the copy does not know of.
        stale = there.model_copy(update={"data_dir": tmp_path / "data-one"})
        refused = run(stale, tmp_path, "worker", "--only", "agents", "--metrics-port", "0", timeout=300)
        assert refused.returncode == 1
        assert "the topic is older than the snapshot (a restored backup?)" in refused.stderr
        with pipeline(there, tmp_path / "there", "other") as running:
            running.reference, running._fed = known, fed
            running.settle()
            Check(running).everything()
            # Publishers send again what they sent since before the backup: what is known of it is a duplicate.
            before = known.counts["trades", "duplicate"]
            running.publish(parts[2][-500:], rate=100)
            running.work_through(parts[3:])
            assert known.counts["trades", "duplicate"] > before + 100
            Check(running).everything()
            # Now the log is as long as the lost one's snapshot, and yet another: it must not come back with that.
            refused = run(stale, tmp_path, "worker", "--only", "agents", "--metrics-port", "0", timeout=300)
            assert refused.returncode == 1
            assert "is not what this machine's snapshot has" in refused.stderr, refused.stderr
            shutil.rmtree(tmp_path / "data-one" / "state")
            running.start("one")
            wait_until(lambda: all(w.is_ready for w in running.workers), "both to be ready")
            running.settle()
            Check(running).everything()
