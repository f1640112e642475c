"""What was published, read once: outcomes and dead letters by their cause, alerts and updates by their subject."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import IsolationLevel, Message
from confluent_kafka.admin import OffsetSpec

from assetstream.cli.audit.partitions import Partitions
from assetstream.cli.audit.report import Report, bounds
from assetstream.cli.audit.states import Level, digest
from assetstream.models.reference import SEVERITIES
from assetstream.streams import operations
from assetstream.streams.admin import Admin
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.reading import Place, read
from assetstream.streams.settings import Settings

TOPICS = ("portfolio_updates", "risk_alerts", "asset_transactions", "dead_letters")
SKIPPED = "skipped"
#: what the outcome of a conversion says of its rate
RATE = ("code", "rate", "rate_as_of", "spread_bps")


class Found(NamedTuple):
    """A published message: a digest of what it says, and where it lies; `reason` of a dead letter."""

    digest: bytes
    where: str
    reason: str = ""


class Alert(NamedTuple):
    """An alert as published, and where it lies."""

    message: dict[str, Any]
    where: str


@dataclass
class Published:
    """By what they tell of. Places are (topic with prefix, partition) of an input."""

    letters: dict[tuple[str, int], dict[int, list[Found]]] = field(default_factory=lambda: defaultdict(dict))
    outcomes: dict[tuple[str, int], dict[int, list[Found]]] = field(default_factory=lambda: defaultdict(dict))
    #: by partition, what wallet events and transfers the outcomes tell of, in their order: input (plain), offset
    order: dict[int, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    #: by topic, partition and offset: code, rate, rate_as_of and spread_bps of the outcomes of conversions
    conversions: dict[tuple[str, int, int], dict[str, str | None]] = field(default_factory=dict)
    alerts: dict[str, list[Alert]] = field(default_factory=lambda: defaultdict(list))  # by subject, in their order
    updates: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)  # the last sequence, and where
    begins: dict[tuple[str, int], int] = field(default_factory=dict)  # of output partitions, by plain topic

    def skipped(self, place: tuple[str, int]) -> set[int]:
        """The offsets of an input that an operator had skipped."""
        return {o for o, found in self.letters[place].items() if any(each.reason == SKIPPED for each in found)}

    def expired(self, topic: str) -> bool:
        """Whether an output topic has lost records at its front, so that not all can be expected there."""
        return any(begin > 0 for (name, _), begin in self.begins.items() if name == topic)


def told(message: Mapping[str, Any]) -> bytes:
    """Stands for what a message says, in whatever order it says it."""
    return digest(json.dumps(message, sort_keys=True).encode())


def letter(key: str | None, value: str | None) -> bytes:
    """Stands for a rejected record: key and value in base64."""
    return told({"key": key, "value": value})


def ends_of(settings: Settings, names: tuple[str, ...]) -> dict[tuple[str, int], tuple[int, int]]:
    """The first offset and the end of what is committed of every partition of these topics (plain names)."""
    admin, places = Admin(settings), [(settings.topic(t), p) for t in names for p in range(settings.partitions)]
    begins = admin.offsets(places, OffsetSpec.earliest())
    ends = admin.offsets(places, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    return {place: (begins[place], ends[place]) for place in places}


def read_published(
    settings: Settings, partitions: Partitions, report: Report, progress: Callable[[int, int], None]
) -> Published:
    """Read every output, and hold it against the laws that need nothing else. Raises KafkaException, Unreadable."""
    published = Published()
    ranges = ends_of(settings, TOPICS)
    prefix = len(settings.topic_prefix)
    published.begins = {(topic[prefix:], p): begin for (topic, p), (begin, _) in ranges.items()}
    total = sum(end - begin for begin, end in ranges.values())
    take = _Taking(settings, published, partitions, report)
    done = 0

    def more(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    for together in _in_turn(ranges, partitions):
        for message in read(settings, together, more):
            take.message(message)
    return published


def _in_turn(ranges: dict[Place, tuple[int, int]], partitions: Partitions) -> list[dict[Place, tuple[int, int]]]:
    """What is read together. What is told of a user lies in one partition, or goes on in one with a higher number."""
    if len(partitions.counts) == 1:
        return [ranges]
    return [{at: span for at, span in ranges.items() if at[1] == p} for p in range(partitions.counts[-1])]


class _Taking:
    def __init__(self, settings: Settings, published: Published, partitions: Partitions, report: Report) -> None:
        self.published, self.partitions, self.report = published, partitions, report
        self._prefix = len(settings.topic_prefix)
        self._kinds = {
            settings.topic("portfolio_updates"): self._update,
            settings.topic("risk_alerts"): self._alert,
            settings.topic("asset_transactions"): self._outcome,
            settings.topic("dead_letters"): self._letter,
        }

    def message(self, record: Message) -> None:
        topic, partition = record.topic() or "", record.partition() or 0
        where, key = f"{topic}-{partition}@{record.offset()}", record.key()
        try:
            message = json.loads(record.value() or b"")
            expected_key = self._kinds[topic](message, where)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.report.add("published", where, "a message of ours", f"{type(error).__name__}: {error}")
            return
        self.report.same("keys", where, expected_key, key)
        if key:
            homes = {partition_of(key, count) for count in self.partitions.counts}
            self.report.same("partitions", f"{where} of {key!r}", partition if partition in homes else homes, partition)

    def _starts_late(self, topic: str, user: str) -> bool:
        """Whether the first that was told of a user may have expired."""
        return any(self.published.begins[topic, home] > 0 for home in self.partitions.homes(user))

    def _update(self, update: dict[str, Any], where: str) -> bytes:
        key, sequence = (update["user_id"], update["portfolio_id"]), update["sequence"]
        last = self.published.updates.get(key)
        if last is not None or not self._starts_late("portfolio_updates", key[0]):
            expected = (last[0] if last else 0) + 1
            self.report.same("update sequences", f"{where} of {'/'.join(key)}", expected, sequence)
        self.published.updates[key] = sequence, where
        return str(update["user_id"]).encode()

    def _alert(self, alert: dict[str, Any], where: str) -> bytes:
        subject, _, number = alert["alert_id"].rpartition("/")
        before = self.published.alerts[subject]
        if before or not self._starts_late("risk_alerts", alert["user_id"]):
            last, level = (int(number_of(before[-1])), before[-1].message["severity"]) if before else (0, "INFO")
            self.report.same("alert numbers", f"{where} of {subject}", f"number {last + 1}", f"number {number}")
            changes = alert["severity"] if alert["severity"] != level else f"{level} again"
            self.report.same("alert changes", f"{where} of {subject}", alert["severity"], changes)
        before.append(Alert(alert, where))
        return str(alert["user_id"]).encode()

    def _outcome(self, outcome: dict[str, Any], where: str) -> bytes:
        cause = outcome["cause"]
        place = self.published.outcomes[cause["topic"], cause["partition"]]
        self.published.order[cause["partition"]].append((cause["topic"][self._prefix :], cause["offset"]))
        place.setdefault(cause["offset"], []).append(Found(told(outcome), where))
        if outcome["type"] == "CONVERSION":
            told_of = {name: outcome[name] for name in RATE}
            self.published.conversions[cause["topic"], cause["partition"], cause["offset"]] = told_of
        return str(outcome["user_id"]).encode()

    def _letter(self, found: dict[str, Any], where: str) -> bytes | None:
        topic, number, offset, key = found["topic"], found["partition"], found["offset"], found["key"]
        self.report.same("dead letter ids", where, f"{topic}-{number}-{offset}", found["dead_letter_id"])
        place = self.published.letters[topic, number]
        place.setdefault(offset, []).append(Found(letter(key, found["value"]), where, found["reason"]))
        return None if key is None else base64.b64decode(key)


def number_of(alert: Alert) -> int:
    """Which change of its subject's level an alert tells of."""
    return int(alert.message["alert_id"].rpartition("/")[2])


def judge_alerts(published: Published, before: Mapping[str, Level], after: Mapping[str, Level], report: Report) -> None:
    """The alerts, read after the state `before` and before the state `after`, are as many as the two say, and the last
    one says their level."""
    expired = published.expired("risk_alerts")
    none = Level(0, 0)
    for subject in dict.fromkeys((*before, *published.alerts)):
        first, last = before.get(subject, none), after.get(subject, none)
        alerts = published.alerts.get(subject, [])
        if not alerts and expired:
            continue
        n = number_of(alerts[-1]) if alerts else 0
        where = f"{subject} ({alerts[-1].where})" if alerts else subject
        report.checked["alerts against the changelog"] += 1
        if not first.changes <= n <= last.changes:
            expected = bounds(first.changes, last.changes)
            report.add("alerts against the changelog", where, f"{expected} alerts", f"{n} alerts")
            continue
        for each in (first, last):
            if alerts and n == each.changes:
                severity = alerts[-1].message["severity"]
                report.same("alerts against the changelog", where, SEVERITIES[each.level], severity)


def judge_skips(published: Published, deeds: Mapping[str, Any], settings: Settings, report: Report) -> None:
    """Nothing is skipped that no operator put on the record."""
    for topic, partition in list(published.letters):
        for offset in published.skipped((topic, partition)):
            key = operations.skip_key(topic.removeprefix(settings.topic_prefix), partition, offset)
            where = f"{topic}-{partition}@{offset}"
            report.same("skips", where, "on the record", "on the record" if key in deeds else "not on the record")


def judge_updates(
    published: Published,
    before: Mapping[tuple[str, str], int],
    after: Mapping[tuple[str, str], int],
    report: Report,
) -> None:
    """The last update's sequence is that of the state, read before and after it."""
    expired = published.expired("portfolio_updates")
    for key in dict.fromkeys((*before, *published.updates)):
        if key not in published.updates and expired:
            continue
        sequence, where = published.updates.get(key, (0, "portfolio_updates"))
        first, last = before.get(key, 0), after.get(key, 0)
        report.checked["updates against the changelog"] += 1
        if not first <= sequence <= last:
            report.add(
                "updates against the changelog",
                f"{'/'.join(key)} ({where})",
                f"sequence {bounds(first, last)}",
                f"sequence {sequence}",
            )
