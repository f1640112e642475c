"""The auditor: everything an installation holds against its inputs and its laws.

    report = audit(settings)

Works beside running workers. What grows meanwhile is bracketed: the state is read, then the outputs and ClickHouse,
then the state again. What the first state says must be in the outputs, and they may hold no more than the second says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from typing import Any

from assetstream.cli.audit.laws import compare_views, judge_ledger, judge_offsets, judge_states, judge_tables
from assetstream.cli.audit.partitions import Partitions
from assetstream.cli.audit.published import (
    Published,
    ends_of,
    judge_alerts,
    judge_skips,
    judge_updates,
    number_of,
    read_published,
)
from assetstream.cli.audit.rates import Rates
from assetstream.cli.audit.rebuild import (
    AcceptedPrices,
    Against,
    compare_marks,
    judge_transfers,
    rebuild_accounts,
    rebuild_prices,
)
from assetstream.cli.audit.report import Difference, Report
from assetstream.cli.audit.snapshots import judge_snapshots, read_snapshots
from assetstream.cli.audit.states import Account, Changelogs, Level, Prices
from assetstream.cli.audit.tables import Tables
from assetstream.cli.lag import committed, lags
from assetstream.sinks.schema import TABLES
from assetstream.streams import operations, topics
from assetstream.streams.admin import check_topics
from assetstream.streams.reading import Place, read
from assetstream.streams.settings import Settings

__all__ = ["Difference", "Report", "audit"]

#: sinks that come no further for this long are not waited for
SINKS_S = 60.0
SINKS_POLL_S = 0.5

#: columns of an alert's row
ALERT = tuple(TABLES["risk_alerts"].columns)

#: told what is being done, how much of it is done, and of how much
Progress = Callable[[str, int, int], None]


class State:
    """All partitions' state as the changelogs have it at one moment."""

    def __init__(self, settings: Settings, changelogs: Changelogs) -> None:
        changelogs.catch_up()
        self.accounts: dict[int, Account] = changelogs.accounts()
        self.prices: dict[int, Prices] = changelogs.prices()
        partitions = chain(self.accounts.items(), self.prices.items())
        #: the last applied offset by input partition
        self.applied: dict[Place, int] = {
            (settings.topic(name), number): offset
            for number, partition in partitions
            for name, offset in partition.applied.items()
        }

    def levels(self) -> dict[str, Level]:
        """Of all subjects."""
        return {subject: level for account in self.accounts.values() for subject, level in account.levels().items()}

    def sequences(self) -> dict[tuple[str, str], int]:
        """Of all portfolios."""
        return {key: n for account in self.accounts.values() for key, n in account.sequences().items()}


def audit(settings: Settings, invariants: bool = False, progress: Progress = lambda what, done, total: None) -> Report:
    """Compare changelogs, outputs, ClickHouse and the snapshots under DATA_DIR with each other and with a rebuild from
    the inputs; with `invariants`, which needs no inputs, only with each other and the laws.

    Raises BrokerAway, TopicMismatch, KafkaException, ChangelogError, Unreadable, ClickHouseError and SchemaError where
    nothing can be judged.
    """
    check_topics(settings)
    tables = Tables(settings)
    try:
        return _Audit(settings, tables, progress).run(invariants)
    finally:
        tables.close()


class _Audit:
    def __init__(self, settings: Settings, tables: Tables, progress: Progress) -> None:
        self.settings, self.tables, self.progress = settings, tables, progress
        self.report = Report()
        #: what the reconciler read: agents have nothing to say of it
        self.reconciled = {settings.topic(name) for name in topics.RECONCILED}
        self.inputs = [(settings.topic(name), p) for name in topics.INPUTS for p in range(settings.partitions)]

    def run(self, invariants: bool) -> Report:
        settings, report = self.settings, self.report
        changelogs = Changelogs(settings)
        partitions = Partitions.on_record(settings, operations.read(settings))
        self.progress("reading changelogs", 0, 0)
        quiet = self._is_quiet()
        state = State(settings, changelogs)
        behind = self._await_sinks()
        reading = partial(self.progress, "reading outputs")
        published = read_published(settings, partitions, report, reading)
        judge_skips(published, operations.read(settings), settings, report)
        group_offsets = committed(settings, settings.group("agents"), self.inputs)
        self.progress("asking ClickHouse", 0, 0)
        judge_states(settings, partitions, state.accounts, state.prices, report)
        judge_tables(partitions, self.tables, report)
        if not behind:
            compare_views(self.tables, state.accounts, state.applied, report)
        last_sources = self.tables.last_sources()
        alert_rows = {row[0]: row for row in self.tables.ask(f"SELECT {', '.join(ALERT)} FROM risk_alerts")}
        snapshots = read_snapshots(settings, report)
        self.progress("reading changelogs", 0, 0)
        later = State(settings, changelogs)
        quiet = quiet and state.applied == later.applied and self._is_quiet()
        if quiet and not behind:
            judge_ledger(self.tables, report)
        judge_offsets(group_offsets, state.applied, later.applied, report)
        judge_alerts(published, state.levels(), later.levels(), report)
        judge_updates(published, state.sequences(), later.sequences(), report)
        self._judge_alert_rows(published, alert_rows, state.levels(), later.levels(), behind)
        self._judge_later(published, last_sources, later.applied)
        judge_snapshots(snapshots, changelogs.witnesses, report)
        if not invariants:
            self._rebuild(state, published, partitions, behind, quiet)
        return report

    def _is_quiet(self) -> bool:
        """Whether agents have taken all that is on their inputs, and so nothing is on its way between users."""
        group = self.settings.group("agents")
        return all(row.lag == 0 for row in lags(self.settings) if row.group == group)

    def _await_sinks(self) -> bool:
        """Wait until what is on `analytics` now is in ClickHouse; -> whether something is still missing there."""
        group, wanted = self.settings.group("sinks"), ends_of(self.settings, (topics.ANALYTICS,))
        last, since = None, time.monotonic()
        while True:
            at = committed(self.settings, group, list(wanted))
            left = {place: (max(at[place], begin), end) for place, (begin, end) in wanted.items()}
            left = {place: span for place, span in left.items() if span[0] < span[1]}
            # markers of transactions are not committed past
            if not left or next(read(self.settings, left), None) is None:
                return False
            if at != last:
                last, since = at, time.monotonic()
            elif time.monotonic() - since > SINKS_S:
                break
            missing = sum(end - begin for begin, end in left.values())
            done = sum(end - begin for begin, end in wanted.values())
            self.progress("waiting for sinks", done - missing, done)
            time.sleep(SINKS_POLL_S)
        for (topic, partition), (begin, end) in left.items():
            found = f"sinks stand at {begin}: start one, or see what its log says"
            self.report.add("sinks", f"{topic}-{partition}", f"in ClickHouse up to offset {end}", found)
        return True

    def _judge_alert_rows(
        self,
        published: Published,
        rows: Mapping[str, tuple[Any, ...]],
        before: Mapping[str, Level],
        after: Mapping[str, Level],
        behind: bool,
    ) -> None:
        """Every alert that was published up to `before` has its row, saying the same; none is of after `after`."""
        none, expired, told = Level(0, 0), published.expired("risk_alerts"), set()
        for subject, alerts in published.alerts.items():
            for alert in alerts:
                message, found = alert.message, rows.get(alert.message["alert_id"])
                told.add(message["alert_id"])
                expected = (*(message.get(name) for name in ALERT[:-3]), *message["cause"].values())
                dropped = message["created_at"] < self.tables.kept_since
                due = number_of(alert) <= before.get(subject, none).changes and not (behind or dropped)
                if found is not None or due:
                    columns = (dict(zip(ALERT, row, strict=True)) if row else None for row in (expected, found))
                    self.report.same("table risk_alerts", f"{message['alert_id']} ({alert.where})", *columns)
        for alert_id in rows.keys() - told:
            subject, _, number = alert_id.rpartition("/")
            first, last = (int(each.get(subject, none).changes) for each in (before, after))
            if int(number) > last or (int(number) <= first and not expired):
                self.report.add("table risk_alerts", alert_id, "nothing, as on risk_alerts", "a row")

    def _judge_later(
        self,
        published: Published,
        last_sources: Mapping[tuple[str, str, int], int],
        applied: Mapping[Place, int],
    ) -> None:
        """Nothing tells of inputs that are not applied; a mark is taken before its price is."""
        prices = self.settings.topic("prices")
        for (table, topic, partition), offset in last_sources.items():
            if table in ("portfolio_updates", "risk_alerts") and topic == prices:
                continue
            self._judge_source(f"table {table}", f"{topic}-{partition}@{offset}", (topic, partition), offset, applied)
        for check, causes in (("asset_transactions", published.outcomes), ("dead_letters", published.letters)):
            for place, by_offset in causes.items():
                for offset, found in by_offset.items():
                    where = f"{found[0].where} of {place[0]}-{place[1]}@{offset}"
                    self._judge_source(check, where, place, offset, applied)

    def _judge_source(self, check: str, where: str, place: Place, offset: int, applied: Mapping[Place, int]) -> None:
        if place[0] in self.reconciled:
            return
        last = applied.get(place)
        if last is None:
            self.report.add(check, where, "the cause lies on an input of ours", f"it lies on {place[0]}-{place[1]}")
        elif offset > last:
            self.report.add(check, where, f"the cause is applied (up to {last})", f"it is offset {offset}")

    def _rebuild(self, state: State, published: Published, partitions: Partitions, behind: bool, quiet: bool) -> None:
        ranges = ends_of(self.settings, topics.INPUTS)
        if not self._inputs_are_whole(ranges, state.applied):
            return
        total, done = sum(offset + 1 for offset in state.applied.values()), 0

        def more(n: int) -> None:
            nonlocal done
            done += n
            self.progress("rebuilding", done, total)

        began = time.monotonic()
        rates = Rates(self.settings, published, self.report)
        against = Against(
            self.settings, published, partitions, None if behind else self.tables, self.report, more, rates
        )
        taken = [
            (symbol, *mark.source[1:]) for each in state.accounts.values() for symbol, mark in each.marks().items()
        ]
        marks, moved = {(p, o) for _, p, o in taken}, {symbol for symbol, _, offset in taken if offset < 0}
        prices = {number: ranges[self.settings.topic("prices"), number][1] for number in state.prices}
        accepted: AcceptedPrices = {}
        for family in partitions.families():
            accepted |= rebuild_prices(against, family, state.prices, marks, moved, prices)
        for number, account in state.accounts.items():
            compare_marks(self.report, number, account, accepted)
        for family in partitions.families():
            rebuild_accounts(against, family, state.accounts)
        judge_transfers(against, ends_of(self.settings, (topics.TRANSFERS,)), quiet)
        self.report.seconds = time.monotonic() - began

    def _inputs_are_whole(self, ranges: Mapping[Place, tuple[int, int]], applied: Mapping[Place, int]) -> bool:
        whole = True
        for (topic, partition), (begin, end) in ranges.items():
            where, last = f"{topic}-{partition}", applied[topic, partition]
            if begin > 0:
                found = f"it begins at {begin}: retention has taken the rest, and no rebuild is possible"
                self.report.add("inputs", where, "a log that begins at offset 0", found)
                whole = False
            elif end <= last:
                self.report.add("inputs", where, f"a log up to offset {last}, as applied", f"it ends at {end}")
                whole = False
        return whole
