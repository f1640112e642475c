"""A notary's heads over random logs, and an auditor that must name whatever was done to logs or heads, no more.

The log is a list here, and so is `audit_heads`; what makes heads and what judges them is the code that does so in work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from assetstream.agents.notary import Book
from assetstream.cli.audit import heads as auditor
from assetstream.cli.audit.report import Report
from assetstream.models.audit_heads import BadHead, read_head
from assetstream.streams.audit_heads import Said, key_of
from assetstream.streams.reading import Place
from assetstream.streams.settings import Settings

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
PLACE: Place = ("trades", 0)
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Record:
    """Looks like confluent_kafka's Message."""

    at: int
    ms: int
    k: bytes | None
    v: bytes | None

    def topic(self) -> str:
        return PLACE[0]

    def partition(self) -> int:
        return PLACE[1]

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 1, self.ms

    def key(self) -> bytes | None:
        return self.k

    def value(self) -> bytes | None:
        return self.v


@dataclass
class World:
    """One audited partition and what was said of it; offsets that no record has are markers."""

    records: list[Record]
    end: int
    said: list[bytes] = field(default_factory=list)
    begin: int = 0
    kept_ms: int = -1

    def audited(self, now_ms: int = 0) -> Report:
        with self.in_place(now_ms):
            return auditor.audit_heads(Settings(), None, None)[0]

    @contextmanager
    def in_place(self, now_ms: int = 0) -> Iterator[None]:
        class Admin:
            def __init__(self, settings: Settings) -> None: ...

            def offsets(admin, places: list[Place], spec: Any, level: Any = None) -> dict[Place, int]:  # noqa: N805
                return dict.fromkeys(places, self.begin if level is None else self.end)

        with (
            patch.object(auditor, "Admin", Admin),
            patch.object(auditor, "audited_places", lambda settings: [PLACE]),
            patch.object(auditor, "read_heads", lambda *_: self._heads()),
            patch.object(auditor, "read", lambda settings, ranges, more: self._read(ranges)),
            patch.object(auditor, "_kept_ms", lambda settings: {PLACE[0]: self.kept_ms}),
            patch.object(auditor, "time", lambda: now_ms / 1000),
        ):
            yield

    def _heads(self) -> Iterator[Said]:
        for i, value in enumerate(self.said):
            try:
                yield Said(f"audit_heads-0@{i}", key_of(PLACE), read_head(value))
            except BadHead as error:
                yield Said(f"audit_heads-0@{i}", key_of(PLACE), error)

    def _read(self, ranges: Mapping[Place, tuple[int, int]]) -> Iterator[Record]:
        first, end = ranges.get(PLACE, (0, 0))
        yield from (record for record in self.records if max(first, self.begin) <= record.at < end)


def notarized(records: list[Record], end: int, cuts: list[int]) -> World:
    """Heads after so many records as `cuts` says, by one notary after the other."""
    world, head, at = World(records, end), None, 0
    for cut in [*cuts, len(records)]:
        book = Book(PLACE, head, 0, None)
        for record in records[at : at + cut]:
            book.take(record)  # type: ignore[arg-type]
        at += cut
        book.grow()
        if at >= len(records):
            book.next_offset = max(book.next_offset, end)
        if book.has_news:
            head = book.next_head(NOW)
            world.said.append(head.model_dump_json().encode())
    return world


TEXTS = st.none() | st.binary(max_size=3)


@st.composite
def worlds(draw: st.DrawFn, least: int = 1) -> World:
    gaps = draw(st.lists(st.integers(1, 3), min_size=least, max_size=30))
    offsets = [sum(gaps[: i + 1]) - 1 for i in range(len(gaps))]
    records = [Record(at, DAY_MS + at, draw(TEXTS), draw(TEXTS)) for at in offsets]
    return notarized(records, offsets[-1] + draw(st.integers(1, 3)), draw(st.lists(st.integers(0, 6), max_size=8)))


def covers(where: str, offset: int) -> bool:
    """Whether the place of a difference, trades-0@3 to 7, is one that holds this offset."""
    span = where.removeprefix("trades-0@").split(" to ")
    return int(span[0]) <= offset <= int(span[-1])


@given(worlds())
def test_what_nobody_touched_is_in_order(world: World) -> None:
    report = world.audited()
    assert report.differences == []
    assert report.notes == []
    assert report.checked == {auditor.HEADS: len(world.said), auditor.LOGS: len(world.records)}
    last = read_head(world.said[-1])
    assert (last.size, last.first_offset, last.next_offset) == (len(world.records), 0, world.end)
    assert len({read_head(value).next_offset for value in world.said}) == len(world.said), "only what is new is said"


@given(worlds(2), st.data())
def test_whatever_is_done_to_a_record_is_named(world: World, data: st.DataObject) -> None:
    records, i = world.records, data.draw(st.integers(0, len(world.records) - 1))
    at = records[i].at
    what = data.draw(st.sampled_from(["value", "key", "time", "removed", "put in", "swapped"]))
    if what == "removed":
        del records[i]
    elif what == "put in":
        free = sorted({*range(world.end)} - {record.at for record in records})
        if not free:
            return
        at = data.draw(st.sampled_from(free))
        records[:] = sorted([*records, Record(at, DAY_MS, b"x", b"y")], key=lambda record: record.at)
    elif what == "swapped":
        j = data.draw(st.integers(0, len(records) - 1))
        one, other = records[i], records[j]
        if (one.k, one.v) == (other.k, other.v):
            return
        records[i], records[j] = replace(other, at=one.at), replace(one, at=other.at)
    else:
        changes = {"value": {"v": (records[i].v or b"") + b"!"}, "key": {"k": (records[i].k or b"") + b"!"}}
        records[i] = replace(records[i], **changes.get(what, {"ms": records[i].ms + 1}))
    report = world.audited()
    assert any(covers(each.where, at) for each in report.differences), report
    assert {each.check for each in report.differences} == {auditor.LOGS}
    assert len(report.differences) <= (2 if what == "swapped" else 1), "one thing done, one thing said"


@given(worlds(3), st.data())
def test_whatever_is_done_to_the_heads_is_named(world: World, data: st.DataObject) -> None:
    if len(world.said) < 2:
        return
    i = data.draw(st.integers(0, len(world.said) - 2))  # who takes the last ones away is found by saved heads
    what = data.draw(st.sampled_from(["removed", "twice", "nonsense", "size", "offset", "time"]))
    if what == "removed":
        del world.said[i]
    elif what == "twice":
        world.said.insert(i, world.said[i])
    elif what == "nonsense":
        world.said[i] = b"{}"
    else:
        head = read_head(world.said[i])
        changes: dict[str, Any] = {"size": head.size + 1} if what == "size" else {"next_offset": head.next_offset + 1}
        changes = {"recorded_at": NOW.replace(hour=10)} if what == "time" else changes
        world.said[i] = head.model_copy(update=changes).model_dump_json().encode()
    assert any(each.check == auditor.HEADS for each in world.audited().differences)


@given(worlds(3), st.data())
def test_a_log_that_was_rewritten_with_its_heads_is_found_by_who_kept_a_head(world: World, data: st.DataObject) -> None:
    with world.in_place():
        _, kept = auditor.audit_heads(Settings(), None, None)
    i = data.draw(st.integers(0, len(world.records) - 1))
    records = [*world.records]
    records[i] = replace(records[i], v=b"another")
    forged = notarized(records, world.end, [len(records)])
    assert forged.audited().ok, "by itself it is in order"
    with forged.in_place(), patch.object(auditor, "load_saved", lambda path: kept):
        report, _ = auditor.audit_heads(Settings(), object(), None)  # type: ignore[arg-type]
    assert [each.check for each in report.differences] == [auditor.SAVED]


@given(worlds(3), st.data())
def test_what_was_checked_before_is_not_read_again(world: World, data: st.DataObject) -> None:
    kept = read_head(world.said[data.draw(st.integers(0, len(world.said) - 1))])
    with world.in_place(), patch.object(auditor, "load_saved", lambda path: [kept]):
        report, _ = auditor.audit_heads(Settings(), object(), None)  # type: ignore[arg-type]
    assert report.ok, report
    assert report.checked[auditor.LOGS] == len(world.records) - kept.size


@given(worlds(3), st.data())
def test_what_has_expired_is_no_difference_and_what_was_deleted_before_its_time_is(
    world: World, data: st.DataObject
) -> None:
    world.begin = data.draw(st.integers(0, world.end))
    gone = sum(record.at < world.begin for record in world.records)
    world.kept_ms = DAY_MS
    expired = world.audited(now_ms=3 * DAY_MS)
    assert expired.ok, expired
    assert expired.notes or not gone
    assert world.begin or not expired.notes
    assert expired.checked[auditor.LOGS] <= len(world.records) - gone
    world.kept_ms = -1
    report = world.audited(now_ms=3 * DAY_MS)
    assert report.differences or not gone
    assert world.begin or report.ok
    assert all("something deleted them" in each.found for each in report.differences)


@given(worlds(2))
def test_a_log_that_was_cut_off(world: World) -> None:
    world.records, world.end = world.records[:-1], world.records[-1].at
    found = [each.found for each in world.audited().differences]
    assert any("it was cut off or made anew" in each for each in found)


def test_a_gap_that_was_accepted_stays_on_the_record() -> None:
    records = [Record(at, DAY_MS, b"k", b"%d" % at) for at in range(10)]
    world = notarized(records[:4], 4, [4])
    book = Book(PLACE, read_head(world.said[-1]), 0, None)
    book.begin_anew(6)
    for record in records[6:]:
        book.take(record)  # type: ignore[arg-type]
    book.grow()
    world.said.append(book.next_head(NOW).model_dump_json().encode())
    world.records, world.end, world.begin, world.kept_ms = records, 10, 6, DAY_MS
    report = world.audited(now_ms=3 * DAY_MS)
    assert [(each.check, each.expected) for each in report.differences] == [
        (auditor.HEADS, "a tree that goes on with offset 4")
    ]
    assert report.checked[auditor.LOGS] == 4


@pytest.mark.parametrize("is_empty", [True, False])
def test_a_partition_that_no_notary_saw(is_empty: bool) -> None:
    world = notarized([Record(0, DAY_MS, None, None)], 1, [])
    with world.in_place(), patch.object(auditor, "audited_places", lambda settings: [PLACE, ("prices", 0)]):
        world.begin = world.end if is_empty else 0
        world.kept_ms = DAY_MS
        with patch.object(auditor, "_kept_ms", lambda settings: {"trades": DAY_MS, "prices": DAY_MS}):
            report, _ = auditor.audit_heads(Settings(), None, None)
    assert [each.where for each in report.differences if "has not seen" in each.found] == (
        [] if is_empty else ["prices-0"]
    )


def test_a_key_vouches_for_all_heads_before_it() -> None:
    ours, theirs = (Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2))
    world = notarized([Record(0, DAY_MS, None, None)], 1, [])

    def differences(key: Ed25519PrivateKey) -> list[tuple[str, str]]:
        with world.in_place():
            report, _ = auditor.audit_heads(Settings(), None, key.public_key())
        return [(each.where, each.found) for each in report.differences]

    assert differences(ours) == [("the last head of trades-0", "none")]
    for key, other in ((ours, theirs), (theirs, ours)):  # keys may be exchanged
        book = Book(PLACE, read_head(world.said[-1]), 0, key)
        assert book.has_news, "though nothing came"
        book.told(head := book.next_head(NOW))
        assert not book.has_news
        world.said.append(head.model_dump_json().encode())
        assert differences(key) == []
        assert differences(other) == [("the last head of trades-0", "another's")]
        assert not Book(PLACE, head, 0, key).has_news
