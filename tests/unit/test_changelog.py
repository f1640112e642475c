"""Changelog records, stores and snapshots: what is written comes back, and what is damaged is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from assetstream.models.rows import new_table
from assetstream.models.state import Table, grow
from assetstream.tables import changelog
from assetstream.tables import store as stores
from assetstream.tables.changelog import ChangelogError
from assetstream.tables.snapshot import Damaged, Snapshot
from assetstream.tables.store import Store

ROW = np.dtype([("a", "<i8"), ("b", "<u4"), ("pad", "<u4")])


class State(NamedTuple):
    """A state of two tables, enough for a store."""

    left: Table
    right: Table


def empty() -> State:
    return State(new_table(ROW, 4), new_table(ROW, 4))


def change(store: Store, name: str, row: int, value: int) -> None:
    """Set row `row` of table `name`, appending when it is new, as a kernel would."""
    table = getattr(store.state, name)
    if row >= len(table.rows):
        table = grow(table, row + 1)
        store.state = store.state._replace(**{name: table})
    table.rows["a"][row] = value
    table.count[0] = max(int(table.count[0]), row + 1)
    if not table.dirty[row]:
        table.dirty[row] = 1
        table.touched[table.count[1]] = row
        table.count[1] += 1


def new_store() -> Store:
    return Store(empty, ("left", "right"), lambda state: state)


def contents(store: Store) -> dict[str, Any]:
    return {
        n: getattr(store.state, n).rows["a"][: getattr(store.state, n).count[0]].tolist() for n in ("left", "right")
    }


class Log:
    """A changelog in memory: offsets with holes, as transaction markers leave them."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes]] = []
        self.end = 0

    def write(self, store: Store) -> None:
        cut = store.cut()
        written = []
        for value in cut.records():
            self.records.append((self.end, value))
            written.append((self.end, len(value)))
            self.end += 1
        self.end += 1
        obsolete = store.written(cut, written)
        if obsolete is not None:
            self.records = [(offset, value) for offset, value in self.records if offset >= obsolete]

    def restored(self) -> Store:
        store = new_store()
        for offset, value in self.records:
            store.apply(value, offset, "log")
        return store


def test_a_restored_store_is_the_live_one() -> None:
    live, log = new_store(), Log()
    random = np.random.default_rng(1)
    for _ in range(200):
        for _ in range(random.integers(0, 5)):
            name = ("left", "right")[random.integers(2)]
            n = int(getattr(live.state, name).count[0])
            change(live, name, int(random.integers(0, n + 1)), int(random.integers(1 << 40)))
        log.write(live)
    again = log.restored()
    assert contents(again) == contents(live)
    assert again.checkpoint == live.checkpoint == 200
    assert again.position == live.position


def test_the_sweep_keeps_the_log_short_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "SWEEP_SLACK", 4096)
    monkeypatch.setattr(stores, "SWEEP_BYTES", 256)
    live, log = new_store(), Log()
    random = np.random.default_rng(2)
    longest = 0
    for i in range(3000):
        change(live, "left", min(i, 199), i)
        change(live, "right", int(random.integers(0, min(i, 99) + 1)) if i else 0, i)
        log.write(live)
        if i > 1000:
            longest = max(longest, sum(len(value) for _, value in log.records))
            if i % 250 == 0:
                assert contents(log.restored()) == contents(live)
    state = live.state_bytes()
    assert log.records[0][0] > 0, "nothing was ever deleted"
    assert longest < 2 * (stores.SWEEP_FACTOR * state + stores.SWEEP_SLACK) + 8 * state
    assert contents(log.restored()) == contents(live)


def test_a_large_checkpoint_is_several_records() -> None:
    rows = np.zeros(1000, ROW)
    rows["a"] = np.arange(1000)
    numbers = np.arange(1000, dtype=np.uint32)
    values = changelog.encode(7, 1, [(0, 1000, numbers, rows), (1, 0, numbers[:0], rows[:0])], limit=4096)
    assert len(values) > 3
    assert all(len(value) < 4096 + 200 for value in values)
    deltas = [changelog.decode(value, 1, (ROW, ROW), "here") for value in values]
    assert {delta.checkpoint for delta in deltas} == {7}
    back = np.concatenate([np.frombuffer(data, ROW) for d in deltas for t, _, _, data in d.sections if t == 0])
    assert back.tobytes() == rows.tobytes()


@pytest.mark.parametrize("at", [0, 5, 9, 14, 20, 30, 40])
def test_damage_is_refused(at: int) -> None:
    store, log = new_store(), Log()
    change(store, "left", 0, 42)
    log.write(store)
    offset, value = log.records[0]
    broken = bytearray(value)
    broken[at] ^= 1
    with pytest.raises(ChangelogError):
        new_store().apply(bytes(broken), offset, "log")
    with pytest.raises(ChangelogError):
        new_store().apply(value[:-1], offset, "log")


def test_a_missing_record_is_refused() -> None:
    store, log = new_store(), Log()
    for i in range(3):
        change(store, "left", 0, i)
        log.write(store)
    again = new_store()
    again.apply(log.records[0][1], 0, "log")
    with pytest.raises(ChangelogError, match="records are missing"):
        again.apply(log.records[2][1], 4, "log")
    with pytest.raises(ChangelogError, match="beginning of the log"):
        new_store().apply(log.records[1][1], 2, "log")


def test_another_layout_is_refused() -> None:
    value = changelog.encode(1, changelog.fingerprint([ROW]), [])[0]
    with pytest.raises(ChangelogError, match="another row layout"):
        changelog.decode(value, changelog.fingerprint([np.dtype([("a", "<i8")])]), (ROW,), "log")


def test_snapshot_is_a_prefix_of_the_log(tmp_path: Path) -> None:
    store, log = new_store(), Log()
    for i in range(10):
        change(store, "left", i, i * i)
        log.write(store)
    snapshot = Snapshot.open(tmp_path / "s", "cluster/topic/0")
    assert snapshot is not None
    assert snapshot.position == 0
    snapshot.append(log.records[:6], log.records[6][0])
    snapshot.close()
    snapshot = Snapshot.open(tmp_path / "s", "cluster/topic/0")
    assert snapshot is not None
    assert list(snapshot.records()) == log.records[:6]
    assert snapshot.position == log.records[6][0]
    snapshot.append(log.records[7:], log.end)  # one is missing: a hole is worth nothing
    assert snapshot.position == 0
    assert list(snapshot.records()) == []
    snapshot.close()


def test_snapshot_of_another_cluster_is_not_read(tmp_path: Path) -> None:
    store, log = new_store(), Log()
    change(store, "left", 0, 1)
    log.write(store)
    snapshot = Snapshot.open(tmp_path / "s", "one/topic/0")
    assert snapshot is not None
    snapshot.append(log.records, log.end)
    assert Snapshot.open(tmp_path / "s", "one/topic/0") is None, "a folder in use is left alone"
    snapshot.close()
    other = Snapshot.open(tmp_path / "s", "two/topic/0")
    assert other is not None
    assert (other.position, list(other.records())) == (0, [])
    other.close()


def damage(folder: Path, pattern: str, harm: Callable[[bytearray], object]) -> None:
    """Change the bytes of the files that match, one of which must be there."""
    files = [file for file in folder.glob(pattern) if file.stat().st_size > 200]
    assert files
    for file in files:
        data = bytearray(file.read_bytes())
        harm(data)
        file.write_bytes(data)


def flip(data: bytearray) -> None:
    for at in range(100, len(data), 97):
        data[at] ^= 0xFF


def cut_short(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize("harm", [flip, cut_short])
@pytest.mark.parametrize("pattern", ["*.sst", "*.log"])
def test_a_damaged_snapshot_is_noticed_and_made_anew(
    tmp_path: Path, pattern: str, harm: Callable[[bytearray], object]
) -> None:
    store, log = new_store(), Log()
    for i in range(40):
        change(store, "left", i, i * i)
        log.write(store)
    snapshot = Snapshot.open(tmp_path / "s", "cluster/topic/0")
    assert snapshot is not None
    snapshot.append(log.records, log.end)
    if pattern == "*.sst":
        snapshot._db.flush()
    folder = Path(shutil.copytree(tmp_path / "s", tmp_path / "killed"))  # as kill -9 leaves it
    snapshot.close()
    damage(folder, pattern, harm)
    again = Snapshot.open(folder, "cluster/topic/0")
    assert again is not None, "not taken for one that is in use"
    if again.position:
        with pytest.raises(Damaged):
            list(again.records())
        again.remake()
    assert again.position == 0
    again.append(log.records, log.end)
    assert list(again.records()) == log.records
    assert Snapshot.open(folder, "cluster/topic/0") is None  # in use
    again.close()


def test_what_is_derived_is_made_once_for_the_same_rows() -> None:
    """A partition that stays through a rebalance costs nothing."""
    made = []
    again = Store(empty, ("left", "right"), lambda state: made.append(1) or state)
    live, log = new_store(), Log()
    for i in range(2):
        change(live, "left", i, i)
        log.write(live)
    again.rebuild()
    again.apply(log.records[0][1], 0, "log")
    again.rebuild()
    again.rebuild()
    assert len(made) == 2
    again.apply(log.records[1][1], 2, "log")
    again.rebuild()
    assert len(made) == 3
    again.reset()
    again.rebuild()
    assert len(made) == 4
