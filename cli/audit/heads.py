"""The audit log held against the logs themselves: each head follows from the one before it and what came between.

A head holds the frontier of its tree, so each step from one head to the next is judged by itself: what is wrong with
one says nothing about the others, and where the beginning of a log has expired, it goes from the first head after it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic, time

from confluent_kafka import IsolationLevel, Message
from confluent_kafka.admin import OffsetSpec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from assetstream.cli.audit.report import Report
from assetstream.models.audit_heads import (
    BadHead,
    BadKey,
    frontier_of,
    hash_of,
    is_signed,
    leaf_hasher,
    public_key,
    read_head,
)
from assetstream.models.merkle import EMPTY_ROOT
from assetstream.models.messages import AuditHead, time_text
from assetstream.streams.admin import Admin
from assetstream.streams.audit_heads import Said, audited_places, key_of, read_heads
from assetstream.streams.reading import Place, read
from assetstream.streams.settings import Settings
from assetstream.streams.topics import AUDIT_HEADS, AUDITED, specs

#: what is compared, as reports name it
HEADS, LOGS, SAVED = "audit heads", "audited logs", "saved heads"
#: leaves are put into the tree this many at a time
LEAVES = 10_000

#: told what is being done, how much of it is done, and of how much
Progress = Callable[[str, int, int], None]
#: two heads that follow each other
Step = tuple[AuditHead, AuditHead]


class NoHeads(RuntimeError):
    """There is no audit log to check."""


class Trail:
    """What lies on `audit_heads` of one partition, in its order; `is_known`: all is checked up to the first head."""

    def __init__(self, said: list[Said], is_known: bool = False) -> None:
        self.said, self.is_known = said, is_known
        self.heads = [each.head for each in said if isinstance(each.head, AuditHead)]

    def steps(self) -> list[Step]:
        """Each head with the one before it, where its tree begins with one of no leaves."""
        first = self.heads[0] if self.is_known else _begin(self.heads[0])
        heads = pairwise([first, *self.heads[self.is_known :]])
        return [(_begin(head) if _is_anew(before, head) else before, head) for before, head in heads]


def _begin(head: AuditHead) -> AuditHead:
    """The head of the same tree before its first leaf."""
    none = {"size": 0, "next_offset": head.first_offset, "newest_ms": -1, "root": EMPTY_ROOT, "frontier": []}
    return head.model_copy(update=none)


def _is_anew(before: AuditHead, head: AuditHead) -> bool:
    """Whether another tree begins between two heads: the notary found that records were gone."""
    return before.first_offset != head.first_offset


Trails = dict[Place, Trail]


def audit_heads(
    settings: Settings,
    since: Path | None,
    key: Ed25519PublicKey | None,
    progress: Progress = lambda what, done, total: None,
) -> tuple[Report, list[AuditHead]]:
    """Check heads, their chain and signatures, and the logs against them; -> the report, and the last heads.

    since: a file of last heads, as `save` writes it: they must still be there, and only what came after is read.
    Raises NoHeads, BadHead for that file; BrokerAway, TopicMismatch, KafkaException, Unreadable.
    """
    report, places = Report(), audited_places(settings)
    trails = read_trails(settings, places, report, partial(progress, "reading heads"))
    if not trails:
        raise NoHeads(f'{settings.topic(AUDIT_HEADS)} has no head: start "assetstream notary"')
    last = [trail.heads[-1] for trail in trails.values()]
    if since is not None:
        _go_on_from(load_saved(since), trails, report)
    for trail in trails.values():
        _judge_heads(trail, key, report)
    _judge_logs(settings, places, trails, report, progress)
    return report, last


# -- heads ------------------------------------------------------------------------------------------------------------


def read_trails(
    settings: Settings,
    places: Iterable[Place],
    report: Report,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Trails:
    """What was said of each partition of which there is a head; what is of none is noted."""
    known, said = {key_of(place): place for place in places}, defaultdict[Place, list[Said]](list)
    strangers = 0
    for each in read_heads(settings, progress):
        if each.key in known:
            said[known[each.key]].append(each)
        else:
            strangers += 1
    if strangers:
        report.notes.append(f"{strangers:,} records on {settings.topic(AUDIT_HEADS)} that are of no audited partition")
    trails = {place: Trail(its) for place, its in said.items()}
    return {place: trail for place, trail in trails.items() if trail.heads}


def _judge_heads(trail: Trail, key: Ed25519PublicKey | None, report: Report) -> None:
    """Each by itself, and by the one before it."""
    before = None
    for i, (where, _, head) in enumerate(trail.said):
        report.checked[HEADS] += 1
        if isinstance(head, BadHead):
            report.add(HEADS, where, "a head", head)
            continue
        where = f"{where} (head {head.size} of {_name((head.topic, head.partition))})"
        if i or not trail.is_known:
            _judge_head(where, head, before, report)
        before = head
    last = trail.heads[-1]
    if key is not None and not is_signed(last, key):  # by the chain it holds for all before it
        found = "none" if last.signature is None else "another's"
        report.add(HEADS, f"the last head of {_name((last.topic, last.partition))}", "signed with the key given", found)


def _judge_head(where: str, head: AuditHead, before: AuditHead | None, report: Report) -> None:
    if before is None:
        if head.previous is not None:
            report.add(HEADS, where, "the first head, which follows none", "a head that follows another")
    elif head.previous != hash_of(before):
        report.add(HEADS, where, "the hash of the head before it", "another one: heads were changed, taken or put in")
    elif _is_anew(before, head):
        expected = f"a tree that goes on with offset {before.next_offset}"
        found = f"another, from {head.first_offset} on: records were gone before the notary saw them"
        report.add(HEADS, where, expected, found)
    elif head.size < before.size or head.next_offset < before.next_offset:
        report.add(HEADS, where, f"a tree of {before.size} records or more", "one that shrank")


def load_saved(path: Path) -> list[AuditHead]:
    """Heads of a file, one a line. Raises BadHead."""
    try:
        return [read_head(line) for line in path.read_bytes().splitlines() if line.strip()]
    except (OSError, BadHead) as error:
        raise BadHead(f"{path}: {error}") from error


def read_key(path: Path) -> Ed25519PublicKey:
    """The public key of a PEM file. Raises BadKey."""
    try:
        return public_key(path.read_bytes())
    except (OSError, BadKey) as error:
        raise BadKey(f"{path}: {error}") from error


def save(path: Path, heads: Iterable[AuditHead]) -> None:
    """Write heads to a file, one a line."""
    path.write_text("".join(f"{head.model_dump_json()}\n" for head in heads))


def _go_on_from(saved: Iterable[AuditHead], trails: Trails, report: Report) -> None:
    """Heads that were saved must still stand; what is before them was checked then."""
    for head in saved:
        place, wanted = (head.topic, head.partition), hash_of(head)
        said = trails[place].said if place in trails else []
        at = next(
            (i for i, (*_, each) in enumerate(said) if isinstance(each, AuditHead) and hash_of(each) == wanted), None
        )
        report.checked[SAVED] += 1
        if at is None:
            told = f"head {head.size} of {_name(place)}, recorded {time_text(head.recorded_at)}"
            report.add(SAVED, _name(place), told, "it is not on audit_heads any more: the log was rewritten")
        else:
            trails[place] = Trail(said[at:], is_known=True)


# -- logs -------------------------------------------------------------------------------------------------------------


def _judge_logs(settings: Settings, places: list[Place], trails: Trails, report: Report, progress: Progress) -> None:
    admin = Admin(settings)
    begins = admin.offsets(places, OffsetSpec.earliest())
    ends = admin.offsets(places, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    kept = _kept_ms(settings)
    steps: dict[Place, list[Step]] = {}
    for place in places:
        trail = trails.get(place)
        if trail is None:
            if begins[place] < ends[place]:
                report.add(HEADS, _name(place), "a head", "none: the notary has not seen this partition")
            continue
        if ends[place] < trail.heads[-1].next_offset:
            expected = f"records up to offset {trail.heads[-1].next_offset - 1}"
            report.add(LOGS, _name(place), expected, f"the log ends at {ends[place]}: it was cut off or made anew")
        steps[place] = _whole(place, trail, begins[place], kept[place[0]], report)
    _note_uncovered(trails, ends, report)
    walks = {place: Walk(place, its, report) for place, its in steps.items() if its}
    ranges = {place: (walk.begins, min(walk.ends, ends[place])) for place, walk in walks.items()}
    total, done = sum(max(0, end - begin) for begin, end in ranges.values()), 0

    def more(n: int) -> None:
        nonlocal done
        done += n
        progress("reading logs", done, total)

    began = monotonic()
    for message in read(settings, ranges, more):
        walks[message.topic(), message.partition()].take(message)
    for walk in walks.values():
        walk.finish()
        report.messages += walk.taken
    report.seconds = monotonic() - began


def _whole(place: Place, trail: Trail, begin: int, kept_ms: int, report: Report) -> list[Step]:
    """The steps of which the log, from offset `begin` on, has all records; of the others, whether that may be so."""
    steps = trail.steps()
    anew = [at for at, (before, after) in enumerate(steps) if at and before.next_offset < steps[at - 1][1].next_offset]
    steps = steps[anew[-1] :] if anew else steps  # the log itself was made anew
    gone = [step for step in steps if step[0].next_offset < begin]
    early = [
        after
        for before, after in gone
        if not _is_old(before, kept_ms) or (after.next_offset <= begin and not _is_old(after, kept_ms))
    ]
    if any(after.size > before.size for before, after in gone):
        told = f"{_name(place)} up to offset {begin - 1}"
        if early:
            report.add(LOGS, told, "records that are younger than the topic's retention", "something deleted them")
        else:
            report.notes.append(f"{told}: expired")
    return steps[len(gone) :]


def _is_old(head: AuditHead, kept_ms: int) -> bool:
    return 0 <= kept_ms < time() * 1000 - head.newest_ms


def _kept_ms(settings: Settings) -> dict[str, int]:
    """The retention of each audited topic as it should be, −1: for ever. As it is, somebody may have made it."""
    names = {settings.topic(name) for name in AUDITED}
    return {spec.name: int(spec.config["retention.ms"]) for spec in specs(settings) if spec.name in names}


def _note_uncovered(trails: Trails, ends: Mapping[Place, int], report: Report) -> None:
    behind = [ends[place] - trail.heads[-1].next_offset for place, trail in trails.items()]
    if left := sum(n for n in behind if n > 0):
        report.notes.append(f"{left:,} offsets that came after the last heads")


class Walk:
    """From head to head along one partition, record by record."""

    def __init__(self, place: Place, steps: Sequence[Step], report: Report) -> None:
        """Begins before the first record after the first head, at offset `begins`; `ends` is that of the last head."""
        self.begins, self.ends, self.taken = steps[0][0].next_offset, steps[-1][1].next_offset, 0
        self._name, self._report = _name(place), report
        self._hash = leaf_hasher(*place)
        self._steps = iter(steps)
        self._leaves: list[bytes] = []
        self._step: Step | None = None
        self._go_on()

    def take(self, message: Message) -> None:
        """The next record."""
        offset = message.offset()
        while self._step is not None and offset >= self._step[1].next_offset:
            self._judge(*self._step)
        self._leaves.append(self._hash(offset, message.timestamp()[1], message.key(), message.value()))
        if len(self._leaves) >= LEAVES:
            self._grow()

    def finish(self) -> None:
        """No more records: judge what is left."""
        while self._step is not None:
            self._judge(*self._step)

    def _go_on(self) -> None:
        self._step = next(self._steps, None)
        if self._step is not None:
            self._frontier = frontier_of(self._step[0])

    def _grow(self) -> None:
        self.taken += len(self._leaves)
        self._frontier.extend(self._leaves)
        self._leaves.clear()

    def _judge(self, before: AuditHead, head: AuditHead) -> None:
        """Whether the records between them make a head of the one before it."""
        self._grow()
        n, expected = self._frontier.size - before.size, head.size - before.size
        self._report.checked[LOGS] += n
        last = head.next_offset - 1
        where = f"{self._name}@{before.next_offset}" + (f" to {last}" if last > before.next_offset else "")
        if n != expected:
            what = "some were put in" if n > expected else "some are missing"
            self._report.add(LOGS, where, f"{expected:,} records", f"{n:,}: {what}")
        elif self._frontier.root() != head.root:
            what = "it was changed" if n == 1 else "one was changed, or their order"
            self._report.add(LOGS, where, f"the records of head {head.size:,}", f"others: {what}")
        self._go_on()


def _name(place: Place) -> str:
    return f"{place[0]}-{place[1]}"
