"""Local snapshots that can't be written or can't be trusted: the log is the truth, the worker says so in one line, and
every figure is exact."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path

from rocksdict import AccessType, Rdict

from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import market
from assetstream.tables.snapshot import _META, _options
from tests.faults.load import SEED, said
from tests.integration.pipeline import (
    Check,
    Pipeline,
    logs_on_failure,  # noqa: F401
    phases,
    pipeline,
    wait_until,
)

USERS, SYMBOLS, BAD, MESSAGES, PARTITIONS = 10, 6, 0.01, 4_000, 2


def snapshots(running: Pipeline) -> list[Path]:
    """The folders of the account partitions' snapshots."""
    found = sorted((running.folder / "data-one" / "state").glob("*account_changelog/*"))
    assert len(found) == PARTITIONS
    return found


def damaged(running: Pipeline) -> None:
    for folder in snapshots(running):
        for file in [*folder.glob("*.sst"), *folder.glob("*.log")]:
            data = bytearray(file.read_bytes())
            data[:: max(1, len(data) // 50)] = bytes(len(data[:: max(1, len(data) // 50)]))
            file.write_bytes(data)


def truncated(running: Pipeline) -> None:
    for folder in snapshots(running):
        for file in [*folder.glob("*.sst"), *folder.glob("MANIFEST*")]:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def newer(running: Pipeline) -> None:
    for folder in snapshots(running):
        with_meta(folder, {"format": 99})


def foreign(running: Pipeline) -> None:
    for folder in snapshots(running):
        with_meta(folder, {"identity": "another cluster's"})


def with_meta(folder: Path, change: dict[str, object]) -> None:
    db = Rdict(str(folder), _options(), access_type=AccessType.read_write())
    db.put(_META, json.dumps({**json.loads(db.get(_META)), **change}).encode())
    db.close()


HARM: list[tuple[Callable[[Pipeline], None], str]] = [
    (damaged, "snapshot is damaged, made anew from Kafka"),
    (truncated, ""),  # RocksDB may take a short manifest for an empty database: then there is nothing to tell
    (newer, "snapshot is another's, made anew"),
    (foreign, "snapshot is another's, made anew"),
]


def test_what_is_wrong_with_a_snapshot_is_noticed(stack: EmbeddedStack, tmp_path: Path) -> None:
    settings = stack.settings(topic_prefix="harmed.", clickhouse_database="harmed", partitions=PARTITIONS)
    settings = settings.model_copy(update={"snapshot_s": 0.3})
    work = iter(phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES))

    def go_on(running: Pipeline) -> None:
        running.publish(next(work))
        running.settle()
        running.feed()

    with pipeline(settings, tmp_path, "one") as running:
        go_on(running)
        for harm, line in HARM:
            (worker,) = running.workers
            assert worker.terminate()[0] == 0
            harm(running)
            before = len(said(running, line))
            (again,) = running.start("one")
            assert not line or len(said(running, line)) >= before + PARTITIONS, again.tail()
            assert again.metric("restored_rows_total") > 0
            go_on(running)
        Check(running).everything()


def test_a_full_disk_stops_snapshots_not_the_worker(stack: EmbeddedStack, tmp_path: Path) -> None:
    """No file of the worker may grow: RocksDB gets the error that a full disk gives."""
    settings = stack.settings(topic_prefix="full.", clickhouse_database="full", partitions=PARTITIONS)
    settings = settings.model_copy(update={"snapshot_s": 0.3})
    *before, last = phases(market(USERS, SYMBOLS, SEED, bad=BAD), MESSAGES)
    with pipeline(settings, tmp_path, "one") as running:
        running.work_through(before)
        (worker,) = running.workers
        room = (worker.log.stat().st_size + 4_096,) * 2  # for its log
        resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, room)
        running.publish(last)
        running.settle()
        running.feed()
        line = "snapshot can't be written, going on without it"
        wait_until(lambda: len(said(running, line)) > 0, "the worker to say so")
        assert worker.is_ready
        worker.kill()
        running.start("one")
        running.settle()
        Check(running).everything()
