"""`assetstream prove`: proofs of the audit log for those who don't trust us."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from confluent_kafka import Message
from confluent_kafka.admin import OffsetSpec

from assetstream.cli.audit.heads import NoHeads, Trail, read_trails
from assetstream.cli.audit.report import Report
from assetstream.models.audit_heads import (
    BadHead,
    ConsistencyProof,
    InclusionProof,
    LoggedRecord,
    Proof,
    frontier_of,
    leaf_hasher,
)
from assetstream.models.merkle import Tree
from assetstream.models.messages import AuditHead
from assetstream.streams.admin import Admin
from assetstream.streams.audit_heads import audited_places
from assetstream.streams.reading import Place, read
from assetstream.streams.settings import Settings, load
from assetstream.streams.topics import AUDITED


class NotProvable(RuntimeError):
    """There is no such proof; the text says why."""


def prove(
    topic: Annotated[str, typer.Argument(help=f"One of {', '.join(AUDITED)}.")],
    partition: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int | None, typer.Argument(min=0, help="Of the record.", show_default=False)] = None,
    since: Annotated[int | None, typer.Option(min=0, metavar="SIZE", help="Of an earlier head.")] = None,
    head: Annotated[
        int | None,
        typer.Option(min=0, metavar="SIZE", help="Of the head to prove it in, instead of the first, or last."),
    ] = None,
) -> None:
    """Print a proof as JSON, for `assetstream verify`, or for anyone who knows RFC 6962.

    With OFFSET: that this record is in the log, under the first head that covers it. With --since: that the log under
    the last head begins with the log under the head of SIZE records, unchanged.
    """
    settings = load()
    if topic.removeprefix(settings.topic_prefix) not in AUDITED:
        raise typer.BadParameter(f"{topic} is not audited, those are {', '.join(AUDITED)}", param_hint="TOPIC")
    if (offset is None) == (since is None):
        raise typer.BadParameter("give either OFFSET or --since")
    place = settings.topic(topic.removeprefix(settings.topic_prefix)), partition
    trail = read_trails(settings, audited_places(settings), Report()).get(place)
    if trail is None:
        raise NoHeads(f'{place[0]}-{place[1]} has no head: start "assetstream notary"')
    if offset is not None:
        proof = _inclusion(settings, place, _tree_of(trail, head), offset, head)
    else:
        proof = _consistency(settings, place, _tree_of(trail, head), since or 0, head)
    typer.echo(proof.model_dump_json(indent=2))


def _tree_of(trail: Trail, size: int | None) -> list[AuditHead]:
    """The heads of the last tree, or the last one that has a head of this size, from its beginning on."""
    trees: list[list[AuditHead]] = []
    for before, after in trail.steps():
        if before.size == 0 and before.next_offset == before.first_offset:
            trees.append([before])
        trees[-1].append(after)
    wanted = [tree for tree in trees if size is None or any(each.size == size for each in tree)]
    if not wanted:
        raise NotProvable(f"no head is of {size:,} records")
    return wanted[-1]


def _inclusion(settings: Settings, place: Place, heads: list[AuditHead], offset: int, size: int | None) -> Proof:
    """Only what lies between the last head before the record and the head it is proved in is read."""
    before = [each for each in heads if each.next_offset <= offset]
    covering = [each for each in heads if each.next_offset > offset and size in (None, each.size)]
    if not before or not covering:
        last = covering[-1] if covering else heads[-1]
        raise NotProvable(
            f"no such head covers offset {offset:,}, but {heads[0].first_offset:,} to {last.next_offset - 1:,}"
        )
    head, leaves, found = covering[0], [], []
    for index, (record, leaf) in enumerate(_records(settings, place, before[-1], head), before[-1].size):
        leaves.append(leaf)
        if record.offset() == offset:
            found.append((index, record))
    tree = _tree(before[-1], leaves, head)
    if not found:
        raise NotProvable(f"no committed record is at offset {offset:,}")
    ((index, record),) = found
    logged = LoggedRecord(
        topic=place[0],
        partition=place[1],
        offset=offset,
        timestamp=record.timestamp()[1],
        key=record.key(),
        value=record.value(),
    )
    return InclusionProof(record=logged, index=index, path=tree.inclusion(index, head.size), head=head)


def _consistency(settings: Settings, place: Place, heads: list[AuditHead], since: int, size: int | None) -> Proof:
    first = next((each for each in heads[1:] if each.size == since), None)
    if first is None:
        raise NotProvable(f"no head is of {since:,} records")
    second = heads[-1] if size is None else next(each for each in heads if each.size == size)
    if second.size < first.size:
        raise NotProvable(f"the head of {second.size:,} records is before that of {first.size:,}")
    tree = _tree(first, [leaf for _, leaf in _records(settings, place, first, second)], second)
    return ConsistencyProof(first=first, second=second, path=tree.consistency(first.size, second.size))


def _records(settings: Settings, place: Place, first: AuditHead, last: AuditHead) -> Iterator[tuple[Message, bytes]]:
    """The records between two heads, with the hashes of their leaves."""
    begin = Admin(settings).offsets([place], OffsetSpec.earliest())[place]
    if begin > first.next_offset:
        raise NotProvable(f"{place[0]}-{place[1]} begins at offset {begin:,} by now: what is needed has expired")
    leaf = leaf_hasher(*place)
    for message in read(settings, {place: (first.next_offset, last.next_offset)}):
        yield message, leaf(message.offset(), message.timestamp()[1], message.key(), message.value())


def _tree(first: AuditHead, leaves: list[bytes], last: AuditHead) -> Tree:
    """The tree of the last head, from the first one's on. Raises BadHead when the leaves don't make it."""
    tree = Tree(leaves, frontier_of(first))
    if first.size + len(leaves) != last.size or tree.root(last.size) != last.root:
        where = f"offsets {first.next_offset:,} to {last.next_offset - 1:,}"
        raise BadHead(f'the records at {where} do not make the head: run "assetstream check --audit"')
    return tree
