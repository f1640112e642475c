"""`assetstream replay-dead-letters`: publish rejected messages again, repaired or as they were, each one once."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import Producer
from rich.progress import Progress

from assetstream.models.verdicts import Verdict
from assetstream.streams import operations
from assetstream.streams.admin import Admin, TopicMismatch
from assetstream.streams.reading import read_to_end
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import INPUTS, OPERATIONS, RECONCILED

#: letters per transaction
BATCH = 500
TRANSACTION_S = 30.0


class BadRepair(ValueError):
    """A line of the file of repaired messages can't be used; the text says which and why."""


@dataclass(frozen=True)
class Letter:
    """A dead letter; `key` and `value` are what is to be published (again). `topic` is the full name."""

    id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str
    detail: str

    @classmethod
    def of(cls, body: dict[str, Any]) -> Letter:
        """From a record of `dead_letters`."""
        key, value = (None if body[k] is None else base64.b64decode(body[k]) for k in ("key", "value"))
        where = body["topic"], body["partition"], body["offset"]
        return cls(body["dead_letter_id"], *where, key, value, body["reason"], body["detail"])

    def line(self) -> str:
        """As --export writes it: a JSON object on one line, the value as it came when it is an object, else as text."""
        about = {"dead_letter_id": self.id, "reason": self.reason, "detail": self.detail, "key": _text(self.key)}
        return f'{json.dumps(about, ensure_ascii=False)[:-1]}, "value": {_shown(self.value)}}}'

    @property
    def content(self) -> str:
        """A hash of what is to be published, and where."""
        return sha256(repr((self.topic, self.key, self.value)).encode()).hexdigest()

    def repaired(self, line: dict[str, Any]) -> Letter:
        """With the key and value that a line of the file has."""
        value = line["value"]
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        key = line.get("key", _text(self.key))
        body = (None if key is None else str(key).encode(), text.encode())
        return Letter(self.id, self.topic, self.partition, self.offset, *body, self.reason, self.detail)


def replay_dead_letters(
    topic: Annotated[list[str] | None, typer.Option(help="Only of these input topics; may be repeated.")] = None,
    reason: Annotated[list[str] | None, typer.Option(help="Only with these reasons; may be repeated.")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Only this dead_letter_id; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All but the skipped.")] = False,
    export: Annotated[
        bool, typer.Option("--export", help="Publish nothing: print them to repair, a JSON object a line.")
    ] = False,
    repaired: Annotated[
        Path | None, typer.Option(help="Publish these: lines of --export with key or value corrected; - for stdin.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that a replay had published and that were rejected again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Publish nothing: say what would be.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What was done as one JSON object.")] = False,
) -> None:
    """Publish dead letters again to the topics they came from, unchanged or repaired.

    Each dead letter is published at most once, however often this runs: what was published is on the topic
    `operations`, written in the same transaction. A message that was rejected again, just as it was replayed, is left
    alone too, unless --again says that by now it may be accepted.
    """
    if repaired is None and not (topic or reason or ids or everything):
        raise typer.BadParameter("say which: --topic, --reason, --id, --all, or --repaired FILE")
    settings = load()
    _known("--topic", topic, (*INPUTS, *RECONCILED))
    _known("--reason", reason, [verdict.reason for verdict in Verdict if verdict.is_rejection])
    repairs = _repairs(repaired) if repaired is not None else {}
    chosen = _choose(settings, topic, reason, set(ids or ()) | repairs.keys())
    if missing := repairs.keys() - {letter.id for letter in chosen}:
        raise BadRepair(f"no dead letter {min(missing)} is on {settings.topic('dead_letters')} (any more)")
    letters = [letter.repaired(repairs[letter.id]) if letter.id in repairs else letter for letter in chosen]
    if export:
        for letter in letters:
            typer.echo(letter.line())
        return
    done = Replay(settings).publish(letters, again, dry_run)
    if as_json:
        typer.echo(json.dumps(done))
    else:
        verb = "would be published" if dry_run else "published"
        typer.echo(f"{done['published']:,} {verb}, {done['before']:,} were published before, of {done['letters']:,}")


def _known(option: str, given: list[str] | None, known: Any) -> None:
    for name in given or ():
        if name not in known:
            raise typer.BadParameter(f"{name} is none of {', '.join(known)}", param_hint=option)


def _choose(settings: Settings, topics: list[str] | None, reasons: list[str] | None, ids: set[str]) -> list[Letter]:
    """The dead letters that are meant, in the order of the topics they came from."""
    wanted = {settings.topic(name) for name in topics or (*INPUTS, *RECONCILED)}
    allowed = set(reasons) if reasons else None
    found = []
    for letter in _letters(settings):
        named = letter.id in ids if ids else True
        # what was skipped breaks a kernel: it must be meant by name
        meant = letter.reason in allowed if allowed is not None else ids or letter.reason != Verdict.SKIPPED.reason
        if letter.topic in wanted and named and meant:
            found.append(letter)
    return sorted(found, key=lambda letter: (letter.topic, letter.partition, letter.offset))


def _letters(settings: Settings) -> Iterator[Letter]:
    name = settings.topic("dead_letters")
    if name not in Admin(settings).partitions():
        raise TopicMismatch([f'topic {name} is missing: run "assetstream init"'])
    with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("reading dead letters", total=None)
        for record in read_to_end(settings, name, lambda done, total: bar.update(task, completed=done, total=total)):
            yield Letter.of(json.loads(record.value() or b"{}"))


def _repairs(path: Path) -> dict[str, dict[str, Any]]:
    """Lines of the file by dead_letter_id. Raises BadRepair."""
    text = sys.stdin.read() if str(path) == "-" else path.read_text()
    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            body = json.loads(line, parse_float=str)  # a decimal keeps its digits, as a string
        except ValueError as error:
            raise BadRepair(f"{path} line {number}: {error}") from error
        if not isinstance(body, dict) or not isinstance(body.get("dead_letter_id"), str) or body.get("value") is None:
            raise BadRepair(f'{path} line {number}: needs "dead_letter_id" and "value"')
        if body["dead_letter_id"] in found:
            raise BadRepair(f"{path} line {number}: {body['dead_letter_id']} is there twice")
        found[body["dead_letter_id"]] = body
    return found


class Replay:
    """Publishes letters in transactions, each with the record that it was published."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # One id for all who replay: a second one that starts fences the first.
        fenced = {"transactional.id": settings.group("replay"), "transaction.timeout.ms": int(TRANSACTION_S * 1000)}
        more = {"partitioner": "murmur2_random", "message.max.bytes": 4 << 20, "log_level": 0}
        self._producer = Producer(settings.kafka(**fenced, **more))

    def publish(self, letters: list[Letter], again: bool, dry_run: bool) -> dict[str, int]:
        """-> how many letters there were, were published now, and had been published before."""
        if not dry_run:
            self._producer.init_transactions(TRANSACTION_S)  # before the record is read, or two might both find nothing
        deeds = operations.read(self._settings)
        contents = set() if again else {deed.get("content") for deed in deeds.values()}
        left = [
            letter
            for letter in letters
            if operations.replay_key(letter.id) not in deeds and letter.content not in contents
        ]
        if not dry_run:
            with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
                task = bar.add_task("publishing", total=len(left))
                for at in range(0, len(left), BATCH):
                    self._transaction(left[at : at + BATCH])
                    bar.advance(task, min(BATCH, len(left) - at))
        return {"letters": len(letters), "published": len(left), "before": len(letters) - len(left)}

    def _transaction(self, letters: list[Letter]) -> None:
        record = self._settings.topic(OPERATIONS)
        self._producer.begin_transaction()
        for letter in letters:
            self._producer.produce(letter.topic, letter.value, letter.key)
            what = {"dead_letter_id": letter.id, "reason": letter.reason, "content": letter.content}
            deed = operations.signed(action="replay", **what)
            self._producer.produce(record, deed, operations.replay_key(letter.id))
            self._producer.poll(0)
        self._producer.commit_transaction(TRANSACTION_S)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="replace")


def _shown(data: bytes | None) -> str:
    """JSON: the object that the bytes are, digit for digit; else their text as a string."""
    text = _text(data)
    with suppress(ValueError):
        if isinstance(json.loads(text or ""), dict):
            return " ".join((text or "").splitlines())
    return json.dumps(text, ensure_ascii=False)
