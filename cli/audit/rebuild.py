"""One partition rebuilt from its inputs with the reference model, and held against everything that came of it.

Topics of a partition are taken one after the other, whole: what is compared here is the same however they interleaved.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import Message

from assetstream.cli.audit.identities import hashes
from assetstream.cli.audit.laws import balance
from assetstream.cli.audit.partitions import Partitions
from assetstream.cli.audit.published import SKIPPED, Found, Published, letter, told
from assetstream.cli.audit.rates import Rates
from assetstream.cli.audit.report import Report
from assetstream.cli.audit.states import RULES, Account, Level, Prices
from assetstream.cli.audit.tables import Tables
from assetstream.models.messages import parse_time, to_micros
from assetstream.models.reference import (
    NO_QUOTE,
    OK,
    SEVERITIES,
    Portfolio,
    Reference,
    Source,
    level_of,
    plain,
    timestamp,
)
from assetstream.sinks.schema import TABLES
from assetstream.streams import topics
from assetstream.streams.batch_writer import partition_of
from assetstream.streams.precision import precision
from assetstream.streams.reading import Place, read
from assetstream.streams.settings import Settings

#: records taken between two looks at ClickHouse
WINDOW = 50_000
#: what an outcome or a settlement event doesn't say, and its row does; what trades did is judged as the views tell it
UNTOLD = (
    "external_id",
    "payment_method",
    "is_booked",
    "is_virtual",
    *(f"{balance}_{name}" for balance in ("cash", "asset") for name in ("available", "locked", "sequence")),
)
AMOUNTS = ("quantity", "cost_basis", "realized_pnl", "fees", "last_price", "price", "available", "locked")
TIMES = ("last_trade_at", "as_of")

#: what a mark takes over of a price
MARK = ("symbol", "price", "currency", "as_of")
Accepted = dict[str, str]
#: by (partition, offset); those of symbols that have moved by what they say too
AcceptedPrices = dict[tuple[Any, ...], Accepted]
#: what one message caused in a table
Rows = tuple[dict[str, Any], ...]
#: inputs whose ids are remembered
REMEMBERED = ("trades", "transactions")
#: inputs that move balances
LEDGER = ("trades", "transactions", topics.TRANSFERS, topics.CLOCK)


class Letter(NamedTuple):
    """A record that is to be in dead letters; key and value in base64."""

    reason: str
    key: str | None
    value: str | None


@dataclass
class Against:
    """What a rebuild is held against, and whom it tells of its progress (how many offsets are newly done)."""

    settings: Settings
    published: Published
    partitions: Partitions
    tables: Tables | None
    report: Report
    progress: Callable[[int], None]
    rates: Rates
    #: trades that were told to settle at another time than by the rules of now
    other_dates: int = 0
    #: what the rebuilds say was sent to `transfers`, and how often
    sent: Counter[bytes] = field(default_factory=Counter)

    def reference(self) -> Reference:
        """A model before its first message, that leaves valuations for the end."""
        made = Reference(
            self.settings.base_currency,
            self.settings.max_future_skew_s,
            self.settings.id_memory,
            judging=False,
            decimals=precision(self.settings.asset_precision),
        )
        made.quote = lambda m, source: self.rates.quote(m, source, made.timestamp_ms)
        made.settles_at = lambda m, source: self._settles_at(made, m, source)
        return made

    def _settles_at(self, reference: Reference, m: dict[str, Any], source: Source) -> int:
        """When a trade settles, as it was published: rules and holidays may have been others when it was booked."""
        rule = reference.date_of(m, source)
        said = self.published.settles_at.get((self.settings.topic(source.topic), source.partition, source.offset))
        told_at = rule if said is None else to_micros(parse_time(said))
        if told_at != rule:
            self.other_dates += 1
        return told_at

    def lies(self, key: str, family: range, number: int) -> bool:
        """Whether what was taken under a key in a family is in this partition of it now."""
        return len(family) == 1 or self.partitions.home(key) == number

    def take(self, reference: Reference, name: str, partition: int, begin: int, end: int) -> Iterator[None]:
        """Give the reference an input from offset `begin` up to, not with, `end`, and compare all that comes of it.

        Yields between the windows; what the reference noted in one is forgotten in the next.
        """
        place = self.settings.topic(name), partition
        skipped = self.published.skipped(place)
        for records, span in windows(self.settings, place, begin, end, self.progress):
            letters = feed(reference, name, records, skipped)
            self.report.messages += len(records)
            self._compare(reference, name, place, letters, span)
            yield
            forget(reference)

    def take_ledger(self, reference: Reference, partition: int, spans: Mapping[str, tuple[int, int]]) -> None:
        """The same of the inputs that move balances, from offset up to offset each, in the order of their outcomes."""
        places = {name: (self.settings.topic(name), partition) for name in spans}
        letters: dict[str, dict[int, Letter]] = {name: {} for name in spans}
        done = {name: begin for name, (begin, _) in spans.items()}
        following = dict(done)
        skipped = {name: self.published.skipped(place) for name, place in places.items()}

        def compare() -> None:
            for name, place in places.items():
                self._compare(reference, name, place, letters[name], range(done[name], following[name]))
                letters[name].clear()
                done[name] = following[name]
            for message in reference.ledger.sent:
                self.sent[told(message)] += 1
            forget(reference)

        clock = places[topics.CLOCK]
        due = self.published.outcomes[clock].keys() | self.published.settlements[clock].keys() | skipped[topics.CLOCK]
        for taken, (name, record) in enumerate(self._in_order(partition, spans), 1):
            if name == topics.CLOCK and record.offset() not in due:
                continue  # it found nothing due: where it was taken among the others isn't known
            letters[name] |= feed(reference, name, [record], skipped[name])
            following[name] = (record.offset() or 0) + 1
            self.report.messages += 1
            if taken % WINDOW == 0:
                compare()
        following = {name: end for name, (_, end) in spans.items()}
        compare()

    def _in_order(self, partition: int, spans: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, Message]]:
        logs = {
            name: read(self.settings, {(self.settings.topic(name), partition): span}, self.progress)
            for name, span in spans.items()
        }
        last = dict.fromkeys(spans, -1)
        for _, name, offset in self.published.order[partition]:
            # several outcomes may have one cause
            if name in spans and spans[name][0] <= offset < spans[name][1] and offset > last[name]:
                last[name] = offset
                for record in logs[name]:
                    yield name, record
                    if (record.offset() or 0) >= offset:
                        break
        for name, log in logs.items():
            for record in log:
                yield name, record

    def _compare(self, reference: Reference, name: str, place: Place, letters: dict[int, Letter], span: range) -> None:
        """Everything that inputs in this range of offsets caused."""
        self._letters(letters, place, span)
        if name == "trades":
            self._rows("fills", [(row,) for row in reference.fills], place, span)
        if name == "prices":
            self._rows("prices", [(row,) for row in reference.prices_accepted], place, span)
        if name in LEDGER:
            told = zip(reference.outcomes, reference.ledger.sequences, strict=True)
            rows = [(_outcome_row(each, sequence),) for each, sequence in told if each["cause"]["topic"] == name]
            outcomes = [each for each in reference.outcomes if each["cause"]["topic"] == name]
            changes = [each for each in reference.balance_changes if each["cause"]["topic"] == name]
            settlements = [each for each in reference.settlements if each["cause"]["topic"] == name]
            legs = [_trade_entries(*each) for each in reference.settled_postings if name == "trades"]
            self._told("asset_transactions", outcomes, self.published.outcomes, place, span)
            self._told("settlement_events", settlements, self.published.settlements, place, span)
            self._rows("transactions", rows, place, span)
            self._rows("ledger_entries", [*(_entries(each) for each in outcomes), *legs], place, span)
            self._rows("balance_changes", [(_change_row(each),) for each in changes], place, span)
            self._rows("settlements", [(_change_row(each),) for each in settlements], place, span)

    # -- topics

    def _told(
        self,
        topic: str,
        messages: Sequence[dict[str, Any]],
        published: Mapping[Place, Mapping[int, list[Found]]],
        place: Place,
        span: range,
    ) -> None:
        expected: dict[int, list[Found]] = {}
        for each in messages:
            said = told({**each, "cause": {**each["cause"], "topic": place[0]}})
            expected.setdefault(each["cause"]["offset"], []).append(Found(said, ""))
        self._once(topic, expected, published[place], place, span)

    def _letters(self, letters: dict[int, Letter], place: Place, span: range) -> None:
        expected = {o: [Found(letter(each.key, each.value), "", each.reason)] for o, each in letters.items()}
        self._once("dead_letters", expected, self.published.letters[place], place, span)
        if self.tables is None:
            return
        names = ("source_offset", "dead_letter_id", "reason", "key", "value")
        rows = [
            ({"source_offset": o, "dead_letter_id": f"{place[0]}-{place[1]}-{o}", **each._asdict()},)
            for o, each in letters.items()
        ]
        self._rows("dead_letters", rows, place, span, names)

    def _once(
        self,
        topic: str,
        expected: Mapping[int, list[Found]],
        found: Mapping[int, list[Found]],
        place: Place,
        span: range,
    ) -> None:
        """What each offset caused is published once, in order, and nothing else; missing ones may have expired."""
        expired = self.published.expired(topic)
        for offset in sorted(expected.keys() | {o for o in found if o in span}):
            wanted, there = expected.get(offset, []), found.get(offset, [])
            if not wanted:
                for each in there:
                    self.report.add(topic, f"{each.where} of {place[0]}-{place[1]}@{offset}", "nothing", _told(each))
            elif len(there) != len(wanted):
                if there or not expired:
                    where = ", ".join(each.where for each in there) or topic
                    many = "one" if len(wanted) == 1 else len(wanted)
                    self.report.add(topic, f"{where} of {place[0]}-{place[1]}@{offset}", many, len(there) or "none")
            else:
                for ours, theirs in zip(wanted, there, strict=True):
                    if theirs._replace(where="") != ours:
                        where = f"{theirs.where} of {place[0]}-{place[1]}@{offset}"
                        self.report.add(topic, where, _told(ours), f"{_told(theirs)}, saying something else")
        self.report.checked[topic] += sum(map(len, expected.values()))

    # -- tables

    def _rows(
        self,
        table: str,
        caused: Sequence[tuple[dict[str, Any], ...]],
        place: Place,
        span: range,
        names: Sequence[str] = (),
    ) -> None:
        """The rows that each message caused are in ClickHouse, once, and no others."""
        if self.tables is None:
            return
        names = names or [n for n in TABLES[table].columns if n not in ("source_topic", "source_partition", *UNTOLD)]
        at = list(names).index("source_offset")
        expected = [tuple(row[name] for name in names) for rows in caused for row in rows]
        found = self.tables.rows(table, names, *place, span.start, span.stop)
        self.report.checked[f"table {table}"] += len(expected)
        if found == expected:
            return
        wanted, there = _by_offset(expected, at), _by_offset(found, at)
        for offset in sorted(wanted.keys() | there.keys()):
            ours, theirs = wanted.get(offset, []), there.get(offset, [])
            if ours != theirs and not (self.tables.kept_since and not theirs and self._dropped(table, names, ours)):
                where = f"{place[0]}-{place[1]}@{offset}"
                self.report.add(f"table {table}", where, *_rows_as_text(ours, theirs, names))

    def _dropped(self, table: str, names: Sequence[str], rows: list[tuple[Any, ...]]) -> bool:
        """Whether the time to live of these rows may be over; when a message was rejected we don't know."""
        assert self.tables is not None
        time = TABLES[table].time
        return time not in names or all(row[list(names).index(time)] < self.tables.kept_since for row in rows)


def _by_offset(rows: Sequence[tuple[Any, ...]], at: int) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        found.setdefault(row[at], []).append(row)
    return {offset: sorted(each, key=repr) for offset, each in found.items()}


def _rows_as_text(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]], names: Sequence[str]) -> tuple[str, str]:
    """Of as many rows as there should be, the columns that differ; else how many there are."""
    if len(ours) != len(theirs):
        return _number_of_rows(ours), _number_of_rows(theirs)
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    columns = [i for i in range(len(names)) if any(a[i] != b[i] for a, b in pairs)]
    expected, found = ((", ".join(f"{names[i]}={pair[k][i]}" for pair in pairs for i in columns)) for k in (0, 1))
    return expected, found


def _number_of_rows(rows: list[tuple[Any, ...]]) -> str:
    return f"{len(rows)} row{'' if len(rows) == 1 else 's'}"


def _told(found: Found) -> str:
    return found.reason or "an outcome"


def windows(
    settings: Settings, place: Place, begin: int, end: int, progress: Callable[[int], None]
) -> Iterator[tuple[list[Message], range]]:
    """The records of an input in runs of WINDOW, each with the offsets that it covers: together all of them."""
    records: list[Message] = []
    for record in read(settings, {place: (begin, end)}, progress):
        records.append(record)
        if len(records) == WINDOW:
            following = (record.offset() or 0) + 1
            yield records, range(begin, following)
            records, begin = [], following
    if begin < end:
        yield records, range(begin, end)


def feed(reference: Reference, name: str, records: Sequence[Message], skipped: set[int]) -> dict[int, Letter]:
    """Give the reference these records, but those that were skipped; -> what is to be in dead letters, by offset."""
    rejected: dict[int, str] = {}
    letters: dict[int, Letter] = {}
    for record in records:
        offset, (_, stamp), key, value = record.offset() or 0, record.timestamp(), record.key(), record.value()
        if offset in skipped:
            rejected[offset] = SKIPPED
        else:
            # confluent types its keys and values as text, too
            reference.feed(name, record.partition() or 0, offset, stamp, key, value, take_mark=False)  # type: ignore[arg-type]
            if reference.dead_letters:
                rejected[offset] = reference.dead_letters.pop()["reason"]
        if offset in rejected:
            letters[offset] = Letter(rejected[offset], _base64(key), _base64(value))
    return letters


def forget(reference: Reference) -> None:
    """Have the reference forget what it noted for others; its state stays."""
    for notes in (reference.fills, reference.prices_accepted, reference.outcomes, reference.balance_changes):
        notes.clear()
    reference.settlements.clear()
    reference.settled_postings.clear()
    for notes_of_ledger in (reference.dead_letters, reference.ledger.sequences, reference.ledger.sent):
        notes_of_ledger.clear()
    reference.details.clear()


def _base64(data: Any) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _outcome_row(outcome: dict[str, Any], sequence: int) -> dict[str, Any]:
    balance = {f"balance_{name}": value for name, value in {**outcome["balance"], "sequence": sequence}.items()}
    told = {"wallet_type": None, "resets": None}  # of its wallet, if anything
    return {**told, **NO_QUOTE, **outcome, **balance, "source_offset": outcome["cause"]["offset"]}


def _change_row(change: dict[str, Any]) -> dict[str, Any]:
    return {**change, "source_offset": change["cause"]["offset"]}


def _trade_entries(event: dict[str, Any], postings: list[dict[str, str]]) -> Rows:
    return _entries({**event, "transaction_id": event["settlement_id"], "postings": postings})


def _entries(outcome: dict[str, Any]) -> Rows:
    return tuple(
        {**outcome, **posting, "entry": entry, "source_offset": outcome["cause"]["offset"]}
        for entry, posting in enumerate(outcome["postings"])
    )


# ----------------------------------------------------------------------------------------------------- price partitions


def rebuild_prices(
    against: Against,
    family: range,
    found: Mapping[int, Prices],
    wanted: set[tuple[int, int]],
    moved: set[str],
    ends: Mapping[int, int],
) -> AcceptedPrices:
    """Hold the price partitions of a family against their inputs.

    -> the accepted prices at the `wanted` (partition, offset), which may lie behind what their partition has applied,
    up to the log's end; and all of symbols that have `moved`.
    """
    reference = against.reference()
    accepted: AcceptedPrices = {}

    def note() -> None:
        for row in reference.prices_accepted:
            against.rates.accepted(row)
            place, price = (row["source_partition"], row["source_offset"]), {name: row[name] for name in MARK}
            if place in wanted:
                accepted[place] = price
            if row["symbol"] in moved:
                accepted[tuple(price.values())] = price

    ends_now = {("prices", number): found[number].applied["prices"] + 1 for number in family}
    for _, inputs in against.partitions.eras(family, ("prices",), ends_now):
        for taken in inputs:
            for _ in against.take(reference, *taken):
                note()
    for number in family:
        expected = {
            symbol: {
                **{name: price.fields[name] for name in MARK},
                # of one that moved into a partition that was added: from before its first record
                "offset": price.source.offset if price.source.partition == number else -1,
            }
            for symbol, price in reference.latest.items()
            if against.lies(symbol, family, number)
        }
        _all_same(against.report, "prices", expected, found[number].latest(), f"price_changelog-{number} {{}}")
    for number in family:
        place, following = (against.settings.topic("prices"), number), found[number].applied["prices"] + 1
        end = min(max((offset + 1 for at, offset in wanted if at == number), default=0), ends[number])
        if against.published.conversions:  # they may be of marks whose prices are not applied yet
            end = ends[number]
        for records, _ in windows(against.settings, place, following, end, lambda n: None):
            feed(reference, "prices", records, against.published.skipped(place))
            note()
            forget(reference)
    return accepted


# --------------------------------------------------------------------------------------------------- account partitions


def rebuild_accounts(against: Against, family: range, found: Mapping[int, Account]) -> None:
    """Hold the account partitions of a family against their inputs."""
    reference = against.reference()
    ends = {(name, number): offset + 1 for number in family for name, offset in found[number].applied.items()}
    before = against.partitions.counts[-1]
    for count, inputs in against.partitions.eras(family, topics.ACCOUNT_INPUTS, ends):
        _split(reference, before, family, count)
        ledgers: dict[int, dict[str, tuple[int, int]]] = {}
        for name, number, begin, end in inputs:
            if name in LEDGER:
                ledgers.setdefault(number, {})[name] = begin, end
                continue
            for _ in against.take(reference, name, number, begin, end):
                pass
        for number, spans in ledgers.items():
            against.take_ledger(reference, number, spans)
        before = count
    for number in family:
        _same_account(against, reference, family, number, found[number])


def judge_transfers(against: Against, ends: Mapping[Place, tuple[int, int]], quiet: bool) -> None:
    """Each step that the rebuilds sent is on `transfers` once; when nothing came since, nothing else is."""
    name, found = against.settings.topic(topics.TRANSFERS), Counter[bytes]()
    for record in read(against.settings, dict(ends)):
        value = json.loads(record.value() or b"null")
        found[told(value) if isinstance(value, dict) else b""] += 1
    against.report.checked["transfers sent"] += against.sent.total()
    if missing := (against.sent - found).total():
        against.report.add("transfers sent", name, "every step once", f"{missing} missing")
    if quiet and (others := (found - against.sent).total()):
        against.report.add("transfers sent", name, "every step once", f"{others} that nobody sent, or twice")


def _split(reference: Reference, before: int, family: range, count: int) -> None:
    """Partitions that were added take over what those that they came of remembered."""
    for number in (each for each in family if each < before):
        added = [each for each in family if before <= each < count and each % before == number]
        reference.split(number, added, lambda user: partition_of(user.encode(), count))


def _same_account(against: Against, reference: Reference, family: range, number: int, found: Account) -> None:
    report, place = against.report, f"account_changelog-{number} {{}}"

    def here(rows: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: row for key, row in rows.items() if against.lies(key[0], family, number)}

    _all_same(report, "positions", here(_positions(reference)), found.positions(), place)
    balances = {key: balance(*amounts) for key, amounts in found.balances().items()}
    report.all_same("balances", here(reference.balances), balances, place)
    wallets = {key: wallet.plain() for key, wallet in reference.ledger.wallets.items()}
    report.all_same("wallets", here(wallets), found.wallets(), place)
    report.all_same("limits", here(_limits(reference)), found.limits(), place)
    due = {identity: {"expires_at": timestamp(at)} for identity, at in reference.ledger.due(number).items()}
    there = {identity: {"expires_at": timestamp(at)} for identity, at in found.due().items()}
    report.all_same("holds that expire", due, there, place)
    for name in REMEMBERED:
        _same_ids(report, name, number, [*reference.remembered(name, number)], found)
    _same_levels(report, number, reference, here(reference.portfolios), found)


def _positions(reference: Reference) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {
        (*key, symbol): {
            "currency": position.currency,
            "last_trade_at": position.last_trade_at,
            "quantity": position.book.quantity,
            "cost_basis": position.book.cost_basis,
            "realized_pnl": position.book.realized_pnl,
            "fees": position.book.fees,
            "last_price": position.last_price,
        }
        for key, portfolio in reference.portfolios.items()
        for symbol, position in portfolio.positions.items()
    }


def _limits(reference: Reference) -> dict[tuple[str, str], dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for key, portfolio in reference.portfolios.items():
        limits = dict(portfolio.limits or {})
        for name in ("user_id", "portfolio_id", "updated_at"):
            limits.pop(name, None)
        if limits:
            limits["asset_limits"] = dict(sorted(limits["asset_limits"].items()))
        found[key] = limits
    return found


def _same_ids(report: Report, name: str, number: int, ids: Sequence[tuple[str, ...]], found: Account) -> None:
    """The partition remembers exactly these ids."""
    check, where = f"remembered ids of {name}", f"account_changelog-{number}"
    seen = found.remembered(name)
    report.checked[check] += len(ids)
    expected = dict(zip(hashes(ids), ids, strict=True))
    there = list(zip(seen["id_lo"].tolist(), seen["id_hi"].tolist(), strict=True))
    if len(there) != len(expected):
        report.add(check, where, f"{len(expected)} ids", f"{len(there)} ids")
    for key in expected.keys() - set(there):
        report.add(check, f"{where} {'/'.join(expected[key])}", "remembered", "not remembered")
    strangers = len(set(there) - expected.keys())
    if strangers:
        report.add(check, where, "no others", f"{strangers} others")


def _same_levels(
    report: Report, number: int, reference: Reference, portfolios: Mapping[tuple[str, str], Portfolio], found: Account
) -> None:
    """The levels of portfolios' rules follow from positions, limits, and the marks and baselines of the partition."""
    reference.marks = found.marks()
    for key, (day, week) in found.baselines().items():
        if key in portfolios:
            portfolios[key].day_baseline, portfolios[key].week_baseline = day, week
    reference.value_all()
    levels = found.levels()
    for key, portfolio in portfolios.items():
        for rule, expected in _determined(portfolio):
            subject = f"{'/'.join(key)}/{rule}"
            level = levels.get(subject, Level(OK, 0)).level
            report.same("levels", f"account_changelog-{number} {subject}", SEVERITIES[expected], SEVERITIES[level])


def _determined(portfolio: Portfolio) -> Iterator[tuple[str, int]]:
    """The rules whose level doesn't depend on the way there, each with it: an incomplete portfolio's may only rise."""
    values = (
        portfolio.gross_exposure,
        -portfolio.total_pnl,
        portfolio.day_baseline - portfolio.total_pnl,
        portfolio.week_baseline - portfolio.total_pnl,
    )
    for (rule, name), value in zip(RULES, values, strict=True):
        limit = portfolio.limit(name)
        if not portfolio.unpriced or limit is None:
            yield rule, level_of(value, limit)


def compare_marks(report: Report, number: int, found: Account, accepted: AcceptedPrices) -> None:
    """Every mark that a partition took is an accepted price; of a symbol that has moved since, one of before."""
    for symbol, mark in found.marks().items():
        _, partition, offset = mark.source
        ours = _readable({"symbol": symbol, **mark.fields})
        where = f"account_changelog-{number} {symbol}, of prices-{partition}@{offset}"
        place = (partition, offset) if offset >= 0 else tuple(ours[name] for name in MARK)
        report.same("marks", where, accepted.get(place), ours)


def _all_same(report: Report, check: str, expected: Mapping[Any, Any], found: Mapping[Any, Any], place: str) -> None:
    """As `Report.all_same`, rows of units and times; they are made readable only where they differ."""
    keys = expected.keys() | found.keys()
    differing = {key for key in keys if expected.get(key) != found.get(key)}
    report.checked[check] += len(keys) - len(differing)
    ours, theirs = ({key: _readable(rows[key]) for key in differing & rows.keys()} for rows in (expected, found))
    report.all_same(check, ours, theirs, place)


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: plain(value) if name in AMOUNTS else timestamp(value) if name in TIMES else value
        for name, value in row.items()
    }
