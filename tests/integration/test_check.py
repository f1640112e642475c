"""`assetstream check` on a real installation: quiet where all is well, and loud, with the place, where it isn't."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from rocksdict import AccessType, Options, Rdict

from assetstream.cli.audit import Difference, audit
from assetstream.cli.stack import EmbeddedStack
from assetstream.models.market import market
from assetstream.models.messages import time_text
from assetstream.sinks.clickhouse import connect
from assetstream.streams.settings import Settings
from tests.integration.pipeline import (
    INPUTS,
    LEDGER,
    Pipeline,
    Record,
    logs_on_failure,  # noqa: F401
    partition_of,
    pipeline,
    run,
    wait_until,
)

HEAD, MESSAGES, USERS, SYMBOLS, SEED, BAD = 150, 12_000, 20, 12, 20261123, 0.05
#: published once everything is taken: a conversion at a mark of now
EXTRA = 3
PREFIX, DATABASE = "check.", "checked"
PART = 2_000
POISON = {
    "user_id": "someone",
    "portfolio_id": "main",
    "wallet_id": "w",
    "symbol": "AAPL",
    "currency": "USD",
    "side": "BUY",
    "quantity": "1",
    "price": "1",
    "executed_at": "2024-01-01T09:00:00Z",
}


class Audited:
    """An installation whose worker has ended, and what an audit finds that it did not find before."""

    def __init__(self, running: Pipeline) -> None:
        self.running = running
        self.settings = audited(running)
        self.known: set[Difference] = set()

    def fresh(self) -> set[Difference]:
        """What is wrong since the last time."""
        found = set(audit(self.settings).differences)
        assert self.known <= found
        fresh, self.known = found - self.known, found
        return fresh


def audited(running: Pipeline) -> Settings:
    """The settings with the worker's own data folder."""
    return running.settings.model_copy(update={"data_dir": running.folder / "data-one"})


def convert_now(running: Pipeline) -> None:
    """One conversion at a mark of now: EXTRA messages."""
    (worker,) = running.workers
    taken, now = worker.metric("marks_taken_total"), time_text(datetime.now(UTC))
    pair = {"symbol": "XTS/USD", "price": "0.8", "currency": "USD", "as_of": now}
    running.publish([("prices", b"XTS/USD", json.dumps(pair).encode())])
    wait_until(lambda: worker.metric("marks_taken_total") > taken, "the mark to be taken")
    common = {"user_id": "live", "wallet_id": "w", "status": "COMPLETED", "asset": "USD", "occurred_at": now}
    for event in (
        {"transaction_id": "d", "type": "DEPOSIT", "amount": "10"},
        {"transaction_id": "c", "type": "CONVERSION", "amount": "10", "to_asset": "XTS"},
    ):
        running.publish([("transactions", b"live", json.dumps({**common, **event}).encode())])
    running.settle()


def stream(first: int, last: int) -> Iterator[tuple[str, bytes | None, bytes | None]]:
    return islice(market(USERS, SYMBOLS, SEED, bad=BAD), first, last)


@pytest.fixture(scope="module")
def running(stack: EmbeddedStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A market with bad messages, all topics racing, taken by one worker that runs on."""
    settings = stack.settings(topic_prefix=PREFIX, clickhouse_database=DATABASE)
    settings = settings.model_copy(update={"snapshot_s": 1.0})
    with pipeline(settings, tmp_path_factory.mktemp("check"), "one") as running:
        running.publish(stream(0, HEAD))
        running.settle()
        (worker,) = running.workers
        wait_until(lambda: worker.metric("marks_taken_total") >= SYMBOLS, "marks to be taken")
        running.publish(stream(HEAD, MESSAGES // 2))
        running.settle()
        convert_now(running)
        yield running


def test_beside_a_worker_under_load_nothing_is_wrong(running: Pipeline) -> None:
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(running.publish, stream(MESSAGES // 2, MESSAGES), 300)
        reports = []
        while not publishing.done():
            reports.append(audit(audited(running)))
        publishing.result()
    assert [report.differences for report in reports] == [[]] * len(reports)
    taken = [report.messages for report in reports]
    assert taken == sorted(taken)
    own = len(running.read("transfers", "clock"))  # what the worker told itself
    assert MESSAGES // 2 <= taken[0] < taken[-1] + 1 <= MESSAGES + EXTRA + own + 1


@pytest.fixture(scope="module")
def rested(running: Pipeline) -> Audited:
    """All of the market is taken, and the worker has ended."""
    running.settle()
    (worker,) = running.workers
    assert worker.terminate()[0] == 0
    return Audited(running)


def test_a_clean_run_passes(rested: Audited) -> None:
    done = run(rested.settings, rested.running.folder, "check", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["ok"] is True
    assert found["differences"] == found["notes"] == []
    rested.running.feed()
    reference, checked = rested.running.reference, found["checked"]
    sent = len(reference.ledger.sent)
    ticks = reference.counts["clock", "applied"]
    assert found["messages"] == MESSAGES + EXTRA + sent + ticks == reference.counts.total()
    assert {outcome["code"] for outcome in reference.outcomes} >= {"EXPIRED"}
    assert checked["rates of conversions"] == 1
    assert reference.balances["live", "w", "XTS"]["available"] == "12.5"
    assert checked["transfers sent"] == sent > 0
    assert checked["balance = Σ postings"] == len(reference.balances)
    assert checked["transit is empty"] > 0
    assert checked["table fills"] == checked["remembered ids of trades"] == len(reference.fills) > MESSAGES / 2
    assert checked["table prices"] == len(reference.prices_accepted)
    assert checked["table transactions"] == checked["asset_transactions"] == len(reference.outcomes) > 100
    legs = sum(len(each["postings"]) for each in reference.outcomes)
    assert checked["table ledger_entries"] == legs + sum(len(legs) for _, legs in reference.settled_postings)
    assert checked["table settlements"] == checked["settlement_events"] == len(reference.settlements) > MESSAGES / 2
    assert checked["table dead_letters"] == checked["dead_letters"] == len(reference.dead_letters) > 100
    assert checked["positions"] == checked["view positions"] == len(reference.positions)
    assert checked["balances"] == checked["view balances"] == len(reference.balances)
    assert checked["limits"] == len(reference.portfolios)
    assert checked["levels"] == 4 * checked["limits"]
    assert checked["prices"] == len(reference.latest)
    assert checked["table risk_alerts"] == checked["alert numbers"] > 10
    # of an account partition that has worked, all five inputs
    places = {(r.topic, r.partition) for r in rested.running.read(*INPUTS, *LEDGER)}
    accounts = {partition for topic, partition in places if topic != "prices"}
    assert checked["group offsets"] == 5 * len(accounts) + sum(topic == "prices" for topic, _ in places)
    assert checked["snapshots"] > rested.settings.partitions


def test_the_laws_alone_need_no_inputs(rested: Audited) -> None:
    done = run(rested.settings, rested.running.folder, "check", "--invariants")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no difference; " in done.stdout
    assert " 0 messages taken" in done.stdout
    assert "Σ notional = cost basis − realized P&L" in done.stdout
    assert "remembered ids" not in done.stdout


def test_snapshots_that_differ_from_their_logs(rested: Audited) -> None:
    topic = f"{PREFIX}account_changelog"
    folder, touched = rested.settings.data_dir / "state" / topic, []
    for number in (0, 1):
        db = Rdict(str(folder / str(number)), Options(raw_mode=True), access_type=AccessType.read_write())
        records = {key: value for key, value in db.items() if key != b"meta"}
        key = max(records)
        touched.append(f"snapshot of account_changelog-{number}@{int.from_bytes(key[1:], 'big')}")
        if number == 0:
            db[key] = records[key][:-1] + bytes([records[key][-1] ^ 1])
        else:
            del db[key]
        db.close()
    (folder / "2" / "CURRENT").write_text("nonsense\n")
    changed, cut, broken = sorted(rested.fresh(), key=lambda each: (each.where.startswith("/"), each.where))
    assert changed == ("snapshots", touched[0], "the bytes that the log has", "other bytes")
    assert cut == ("snapshots", touched[1], "the record that the log has", "nothing")
    assert broken[:3] == ("snapshots", str(folder / "2"), "a readable snapshot")


class Rows:
    """Rows in ClickHouse, by where they came from."""

    def __init__(self, settings: Settings) -> None:
        self._client = connect(settings)
        self._client.database = settings.clickhouse_database

    def first(self, table: str, where: str = "1") -> tuple[str, int, int]:
        """The source of the first of these rows."""
        columns = "source_topic, source_partition, source_offset"
        query = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {columns} LIMIT 1"
        topic, partition, offset = self._client.query(query).result_rows[0]
        return topic, partition, offset

    def do(self, statement: str) -> None:
        self._client.command(statement, settings={"mutations_sync": 1, "insert_deduplicate": 0})


def at(source: tuple[str, int, int]) -> str:
    topic, partition, offset = source
    return f"source_topic = '{topic}' AND source_partition = {partition} AND source_offset = {offset}"


def place(source: tuple[str, int, int]) -> str:
    return "{}-{}@{}".format(*source)


def test_rows_that_were_doubled_deleted_changed_and_forged(rested: Audited) -> None:
    rows = Rows(rested.settings)
    doubled, deleted, price = (rows.first(table) for table in ("fills", "transactions", "prices"))
    changed, replaced = (rows.first("fills", f"source_partition = {number}") for number in (5, 6))
    posted = rows.first("wallet_entries", "source_partition = 4")
    letter = rows.first("dead_letters", f"topic = '{PREFIX}trades'")
    rows.do(f"INSERT INTO fills SELECT * FROM fills WHERE {at(doubled)}")
    rows.do(f"ALTER TABLE fills UPDATE notional = notional + toDecimal128('0.01', 18) WHERE {at(changed)}")
    rows.do(f"ALTER TABLE transactions DELETE WHERE {at(deleted)}")
    rows.do(f"ALTER TABLE wallet_entries UPDATE amount = amount * 2 WHERE {at(posted)} AND entry = 0")
    rows.do(f"ALTER TABLE prices UPDATE currency = 'XXX' WHERE {at(price)}")
    rows.do(f"ALTER TABLE dead_letters DELETE WHERE {at(letter)}")
    topic, partition, offset = replaced
    rows.do(
        f"INSERT INTO dead_letters SELECT * REPLACE ('{topic}-{partition}-{offset}' AS dead_letter_id, "
        f"'{topic}' AS topic, {partition} AS partition, {offset} AS offset, '{topic}' AS source_topic, "
        f"{partition} AS source_partition, {offset} AS source_offset) FROM dead_letters LIMIT 1"
    )
    trades = {(r.partition, r.offset): r for r in rested.running.read("trades")}
    names = {source: trades[source[1:]].json for source in (doubled, changed)}
    found = {each[:2]: each[2:] for each in rested.fresh()}
    entry = found.pop(("table ledger_entries", place(posted)))
    assert float(entry[1].removeprefix("amount=")) == 2 * float(entry[0].removeprefix("amount="))
    money = [(where, values) for (check, where), values in found.items() if check.startswith("Σ")]
    positions = ["{user_id}/{portfolio_id}/{symbol}".format(**names[source]) for source in (doubled, changed)]
    (postings,) = [where for where, _ in money if where not in positions]
    assert postings.startswith(f"{place(posted)} ")
    assert sorted(where for where, _ in money if where != postings) == sorted(positions)
    trade = names[doubled]
    expected = {
        ("rows once", f"fills {trade['user_id']}/{trade['trade_id']}/{doubled[0]}/{doubled[1]}/{doubled[2]}"): "2 rows",
        ("table fills", place(doubled)): "2 rows",
        ("table transactions", place(deleted)): "0 rows",
        ("table prices", place(price)): "currency=XXX",
        ("table dead_letters", place(letter)): "0 rows",
        ("table dead_letters", place(replaced)): "1 row",
        ("applied or rejected", place(replaced)): "fills and dead_letters",
    }
    rest = {key: values[1] for key, values in found.items() if not key[0].startswith("Σ")}
    (wallet,) = [where for check, where in rest if check == "balance = Σ postings"]
    assert wallet.startswith("wallet:")
    assert float(found["balance = Σ postings", wallet][0]) != float(rest.pop(("balance = Σ postings", wallet)))
    notional = rest.pop(("table fills", place(changed)))
    assert notional.startswith("notional=")
    assert rest == expected


def test_outputs_that_were_forged_and_repeated(rested: Audited) -> None:
    settings, running = rested.settings, rested.running
    alert, outcome = running.read("risk_alerts")[0], running.read("asset_transactions")[0]
    letter, update = running.read("dead_letters")[0], running.read("portfolio_updates")[0]
    *subject, _ = alert.json["alert_id"].split("/")
    subject = "/".join(subject)
    number = max(int(r.json["alert_id"].rpartition("/")[2]) for r in alerts_of(running, subject))
    level = alerts_of(running, subject)[-1].json["severity"]
    forged = {**alert.json, "alert_id": f"{subject}/{number + 1}", "severity": "INFO" if level != "INFO" else "WARNING"}
    (trade,) = islice((r for r in running.read("trades") if r.partition == 6), 1)
    buried = {**letter.json, "topic": f"{PREFIX}trades", "partition": 6, "offset": trade.offset}
    buried["dead_letter_id"] = f"{PREFIX}trades-6-{trade.offset}"
    sent = [
        publish(settings, alert, forged),
        publish(settings, outcome, {**outcome.json, "status": "FAILED"}),
        publish(settings, letter, buried),
        publish(settings, update, update.json),
    ]
    found = {each[:2]: each[3] for each in rested.fresh()}
    sequences = [r.json["sequence"] for r in running.read("portfolio_updates") if of(r.json) == of(update.json)]
    cause = outcome.json["cause"]
    first = f"{PREFIX}asset_transactions-{outcome.partition}@{outcome.offset}"
    assert found == {
        ("alerts against the changelog", f"{subject} ({sent[0]})"): f"{number + 1} alerts",
        (
            "asset_transactions",
            f"{first}, {sent[1]} of {cause['topic']}-{cause['partition']}@{cause['offset']}",
        ): "2",
        ("dead_letters", f"{sent[2]} of {PREFIX}trades-6@{trade.offset}"): letter.json["reason"],
        ("update sequences", f"{sent[3]} of {'/'.join(of(update.json))}"): str(update.json["sequence"]),
        **(
            {("updates against the changelog", f"{'/'.join(of(update.json))} ({sent[3]})"): "sequence 1"}
            if max(sequences) > 1
            else {}
        ),
    }


def alerts_of(running: Pipeline, subject: str) -> list[Record]:
    return [r for r in running.read("risk_alerts") if r.json["alert_id"].rpartition("/")[0] == subject]


def of(update: dict[str, Any]) -> tuple[str, str]:
    return update["user_id"], update["portfolio_id"]


def publish(settings: Settings, like: Record, message: dict[str, Any]) -> str:
    """Publish where another record lies; -> where it lies now."""
    sent: list[Any] = []
    producer = Producer(settings.kafka())
    producer.produce(
        settings.topic(like.topic),
        json.dumps(message).encode(),
        like.key,
        like.partition,
        on_delivery=lambda error, record: sent.append(error or record),
    )
    assert producer.flush(30) == 0
    return f"{sent[0].topic()}-{sent[0].partition()}@{sent[0].offset()}"


def test_inputs_that_expired_are_told_and_nothing_is_rebuilt(rested: Audited) -> None:
    topic = rested.settings.topic("trades")
    admin = AdminClient(rested.settings.kafka())
    (deleted,) = admin.delete_records([TopicPartition(topic, 6, 5)]).values()
    deleted.result()
    report = audit(rested.settings)
    (told,) = [each for each in report.differences if each.check == "inputs"]
    assert told.where == f"{topic}-6"
    assert told.found == "it begins at 5: retention has taken the rest, and no rebuild is possible"
    assert report.messages == 0
    assert report.checked["rows once"] > MESSAGES / 2
    done = run(rested.settings, rested.running.folder, "check")
    assert done.returncode == 1
    assert f"inputs: {topic}-6" in done.stdout
    assert f"{len(report.differences)} differences; " in done.stdout


def test_more_partitions_and_a_skipped_message(
    stack: EmbeddedStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions are added twice, with ids that come again after they moved; and an operator skips a message."""
    monkeypatch.setenv("TEST_ASSETSTREAM_POISON", "breaks-the-kernel")
    settings = stack.settings(topic_prefix="checked_grown.", clickhouse_database="checked_grown", partitions=2)
    messages = [*stream(0, 3 * PART)]
    again = [each for each in messages[:PART] if each[0] in ("trades", "transactions")]
    with pipeline(settings, tmp_path, "one") as running:
        for part, partitions in enumerate((2, 4, 8)):
            if partitions > 2:
                (worker,) = running.workers
                assert worker.terminate()[0] == 0
                grown = run(running.settings, tmp_path, "repartition", str(partitions))
                assert grown.returncode == 0, grown.stderr
                running.settings = running.settings.model_copy(update={"partitions": partitions})
                running.start("one")
                running.publish(again)
            running.publish(messages[part * PART : part * PART + HEAD])
            running.settle()
            running.publish(messages[part * PART + HEAD : (part + 1) * PART])
            running.settle()
            time.sleep(1.5)  # updates that only marks caused come within MARK_UPDATE_MS
        poison = json.dumps({**POISON, "trade_id": "breaks-the-kernel"}).encode()
        running.publish([("trades", POISON["user_id"].encode(), poison)])
        partition = partition_of(POISON["user_id"].encode(), 8)
        (offset,) = [r.offset for r in running.read("trades") if r.value == poison]
        skipped = run(running.settings, tmp_path, "skip", "trades", str(partition), str(offset), "--reason", "poison")
        assert skipped.returncode == 0, skipped.stderr
        running.settle()
        report = audit(audited(running))
        assert report.differences == []
        told = (r.json["cause"] for r in running.read("asset_transactions", "settlement_events"))
        ticks = {(each["partition"], each["offset"]) for each in told if each["topic"].endswith("clock")}
        assert report.messages == 3 * PART + 2 * len(again) + 1 + report.checked["transfers sent"] + len(ticks)
        assert report.checked["skips"] == 1
        # a partition that was added remembers what the one that it came of did
        assert PART < report.checked["table fills"] < report.checked["remembered ids of trades"]
        settings = audited(running)
    publish(settings, running.read("dead_letters")[0], letter_of(running, partition))
    forged = [each for each in audit(settings).differences if each.check == "skips"]
    assert [each.where for each in forged] == [f"checked_grown.trades-{partition}@0"]


def letter_of(running: Pipeline, partition: int) -> dict[str, Any]:
    """A forged dead letter that says that the first trade of a partition was skipped."""
    letter = running.read("dead_letters")[0].json
    where = {"topic": "checked_grown.trades", "partition": partition, "offset": 0}
    return {**letter, **where, "dead_letter_id": f"checked_grown.trades-{partition}-0", "reason": "skipped"}
