"""The agenda: what is due at a time, and which of it is due first.

A row of `agenda` says when, what, and which row of another table it is about; one that is done or crossed out is used
again. Due at the same time, what was put down first comes first: each is numbered, and no number is used again.

A binary heap over the rows in use has the earliest at its top. It is derived: sorted anew on restore.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assetstream.models.int128 import inline, kernel
from assetstream.models.interning import word_at
from assetstream.models.rows import Table, append, touch

#: words of a text
_WORDS = 8


class Agenda(NamedTuple):
    """What is due, as kernels take it.

    table of DUE rows; heads: that in row `which` numbers them, and begins the list of free rows; heap uint32[capacity],
    rows, size[0] (int64[1]) of them in use; places uint32[capacity], where a row is in the heap
    """

    table: Table
    heads: Table
    heap: np.ndarray
    places: np.ndarray
    size: np.ndarray
    which: int


@inline
def _comes_before(rows, a, b):  # type: ignore[no-untyped-def]
    if rows[a].at != rows[b].at:
        return rows[a].at < rows[b].at
    return rows[a].number < rows[b].number


@inline
def _swap(agenda, j, k):  # type: ignore[no-untyped-def]
    heap, places = agenda.heap, agenda.places
    heap[j], heap[k] = heap[k], heap[j]
    places[heap[j]], places[heap[k]] = np.uint32(j), np.uint32(k)


@inline
def _rise(agenda, k):  # type: ignore[no-untyped-def]
    while k > 0:
        above = (k - 1) // 2
        if not _comes_before(agenda.table.rows, agenda.heap[k], agenda.heap[above]):
            break
        _swap(agenda, k, above)
        k = above


@inline
def _sink(agenda, k):  # type: ignore[no-untyped-def]
    rows, heap, n = agenda.table.rows, agenda.heap, agenda.size[0]
    while 2 * k + 1 < n:
        below = 2 * k + 1
        if below + 1 < n and _comes_before(rows, heap[below + 1], heap[below]):
            below += 1
        if not _comes_before(rows, heap[below], heap[k]):
            break
        _swap(agenda, k, below)
        k = below


@kernel
def put_down(agenda, kind, at, about, data, text_at, text_len):  # type: ignore[no-untyped-def]
    """Put down what is due at microsecond `at`, about row `about`, with the text of an id. -> its row."""
    table, head = agenda.table, agenda.heads.rows[agenda.which]
    if head.free > 0:
        row = head.free - 1
        head.free = np.int64(table.rows[row].about)
        touch(table, row)
    else:
        row = append(table)
    due = table.rows[row]
    due.kind, due.at, due.about, due.number = kind, at, np.uint32(about), head.next
    for k in range(_WORDS):
        left = text_len - 8 * k
        due.text[k] = word_at(data, text_at + 8 * k, min(8, left)) if left > 0 else np.uint64(0)
    head.next += 1
    touch(agenda.heads, agenda.which)
    place = agenda.size[0]
    agenda.size[0] += 1
    agenda.heap[place], agenda.places[row] = np.uint32(row), np.uint32(place)
    _rise(agenda, place)
    return row


@kernel
def cross_out(agenda, row):  # type: ignore[no-untyped-def]
    """Row `row`, which is in use, is done or came to nothing."""
    table, head = agenda.table, agenda.heads.rows[agenda.which]
    due = table.rows[row]
    due.kind, due.about = np.uint8(0), np.uint32(head.free)
    head.free = row + 1
    touch(table, row)
    touch(agenda.heads, agenda.which)
    place = np.int64(agenda.places[row])
    agenda.size[0] -= 1
    last = agenda.size[0]
    if place < last:
        _swap(agenda, place, last)
        _rise(agenda, place)
        _sink(agenda, place)


@inline
def is_due(agenda, k, timestamp):  # type: ignore[no-untyped-def]
    """Whether place k of the heap is one that is due by a Kafka timestamp (ms)."""
    # at <= 1000·timestamp, in a form that no timestamp can overflow
    return k < agenda.size[0] and (agenda.table.rows[agenda.heap[k]].at + 999) // 1000 <= timestamp


@kernel
def count_due(agenda, timestamp):  # type: ignore[no-untyped-def]
    """How many are due by a Kafka timestamp (ms). Looks at no more than twice as many."""
    n = k = np.int64(0)
    while True:
        if is_due(agenda, k, timestamp):
            n += 1
            k = 2 * k + 1
            continue
        while k % 2 == 0:  # nothing below this one: back to where there is another one beside
            if k == 0:
                return n
            k = (k - 1) // 2
        k += 1


def sort_heap(agenda: Agenda) -> None:
    """Fill the heap with the rows in use, after they were restored."""
    rows = agenda.table.rows[: agenda.table.count[0]]
    used = np.flatnonzero(rows["kind"])
    order = used[np.lexsort((rows["number"][used], rows["at"][used]))]
    agenda.heap[: len(order)] = order
    agenda.places[order] = np.arange(len(order))
    agenda.size[0] = len(order)


def earliest(agenda: Agenda) -> int | None:
    """When the first is due, microseconds UTC; None: nothing is."""
    return int(agenda.table.rows["at"][agenda.heap[0]]) if agenda.size[0] else None
