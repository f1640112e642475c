"""Finding things: strings by their bytes, rows by a pair of numbers, remembered ids. Open addressing, linear probing.

An index is a power of two of slots, at most two thirds of them used; it is derived from the rows, and made again when
they are restored or outgrow it. Rows are never removed, except that a full ring of ids forgets the oldest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from assetstream.models.int128 import high, inline, kernel, load_word, low, prefetch, product64
from assetstream.models.rows import Table, append, touch

#: the longest id, symbol or asset
MAX_BYTES = 64

_K1, _K2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_32 = np.uint64(32)
_0, _1, _ALL = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)


def slots_for(capacity: int) -> int:
    """How many slots an index needs for `capacity` rows."""
    return max(16, 1 << (3 * capacity // 2).bit_length())


@inline
def mix(x, y):  # type: ignore[no-untyped-def]
    """64 well mixed bits of two uint64: their product, folded."""
    p = product64(x ^ _K1, y ^ _K2)
    return low(p) ^ high(p)


# ----------------------------------------------------------------------------------------------------------- strings


@inline
def word_at(data, at, n):  # type: ignore[no-untyped-def]
    """The n (1 … 8) bytes from `at` as a uint64, little-endian, zeros above; never reads beyond `data`."""
    if at + 8 <= len(data):
        return load_word(data, at) & (_ALL >> np.uint64(64 - 8 * n))
    word = _0
    for k in range(n):
        word |= np.uint64(data[at + k]) << np.uint64(8 * k)
    return word


class Strings(NamedTuple):
    """Interned strings: row k of `table` is string k.

    lengths int32[capacity], bytes of each; index uint32[slots], string + 1, 0: free; buffer uint8[64], to compose in.
    """

    table: Table
    lengths: np.ndarray
    index: np.ndarray
    buffer: np.ndarray


@inline
def hash_text(data, at, n):  # type: ignore[no-untyped-def]
    """Hash of the n bytes from `at`."""
    h = mix(np.uint64(n), _K1)
    for k in range(0, n, 8):
        h = mix(h, word_at(data, at + k, min(8, n - k)))
    return h


@inline
def _same(text, data, at, n):  # type: ignore[no-untyped-def]
    for k in range(0, n, 8):  # noqa: SIM110
        if text[k >> 3] != word_at(data, at + k, min(8, n - k)):
            return False
    return True


@kernel
def find_string(rows, lengths, index, data, at, n):  # type: ignore[no-untyped-def]
    """(number, slot) of a string: −1 and the slot where it would go when it is not known."""
    mask = np.uint64(len(index) - 1)
    slot = hash_text(data, at, n) & mask
    while index[slot] != 0:
        k = np.int64(index[slot]) - 1
        if lengths[k] == n and _same(rows[k].text, data, at, n):
            return k, slot
        slot = (slot + _1) & mask
    return np.int64(-1), slot


@kernel
def intern(strings, data, at, n):  # type: ignore[no-untyped-def]
    """The number of a string of 1 … 64 bytes, which is added when it is new."""
    k, slot = find_string(strings.table.rows, strings.lengths, strings.index, data, at, n)
    if k < 0:
        k = append(strings.table)
        text = strings.table.rows[k].text
        for b in range(0, n, 8):
            text[b >> 3] = word_at(data, at + b, min(8, n - b))
        strings.lengths[k] = np.int32(n)
        strings.index[slot] = np.uint32(k + 1)
    return k


@kernel
def index_strings(rows, n, lengths, index):  # type: ignore[no-untyped-def]
    """Fill `lengths` and the empty `index` from the first n rows."""
    mask = np.uint64(len(index) - 1)
    for k in range(n):
        text = rows[k].text
        length = 64
        while length > 0 and (text[(length - 1) >> 3] >> np.uint64(8 * ((length - 1) & 7))) & np.uint64(255) == _0:
            length -= 1
        lengths[k] = np.int32(length)
        h = mix(np.uint64(length), _K1)
        for b in range(0, length, 8):
            h = mix(h, text[b >> 3])
        slot = h & mask
        while index[slot] != 0:
            slot = (slot + _1) & mask
        index[slot] = np.uint32(k + 1)


@inline
def _big_endian(word):  # type: ignore[no-untyped-def]
    x = word
    x = ((x & np.uint64(0x00FF00FF00FF00FF)) << np.uint64(8)) | ((x >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF))
    x = ((x & np.uint64(0x0000FFFF0000FFFF)) << np.uint64(16)) | ((x >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF))
    return (x << _32) | (x >> _32)


@kernel
def comes_before(rows, a, b):  # type: ignore[no-untyped-def]
    """Whether string a is before string b in byte order."""
    for k in range(8):
        x, y = rows[a].text[k], rows[b].text[k]
        if x != y:
            return _big_endian(x) < _big_endian(y)
    return False


@inline
def _sift(rows, keys, items, root, n):  # type: ignore[no-untyped-def]
    while 2 * root + 1 < n:
        child = 2 * root + 1
        if child + 1 < n and comes_before(rows, keys[child], keys[child + 1]):
            child += 1
        if not comes_before(rows, keys[root], keys[child]):
            break
        keys[root], keys[child] = keys[child], keys[root]
        items[root], items[child] = items[child], items[root]
        root = child


@kernel
def sort_by_string(rows, keys, items, n):  # type: ignore[no-untyped-def]
    """Order items[:n] by the byte order of the strings keys[:n], both in place (heap sort)."""
    for root in range(n // 2 - 1, -1, -1):
        _sift(rows, keys, items, root, n)
    for end in range(n - 1, 0, -1):
        keys[0], keys[end] = keys[end], keys[0]
        items[0], items[end] = items[end], items[0]
        _sift(rows, keys, items, 0, end)


# ------------------------------------------------------------------------------------------- pairs of numbers


@inline
def pair(a, b):  # type: ignore[no-untyped-def]
    """Two numbers below 2^32 as the key of a pair index."""
    return (np.uint64(a) << _32) | np.uint64(b)


@inline
def expect_pair(index, key):  # type: ignore[no-untyped-def]
    """A pair's key is looked for soon."""
    prefetch(index, np.int64(mix(key, _0) & np.uint64(len(index) - 1)) * 2)


@inline
def find_pair(index, key):  # type: ignore[no-untyped-def]
    """(row, slot) of a pair's key in an index uint64[slots, 2] of (key, row + 1); −1 and its slot when not known."""
    mask = np.uint64(len(index) - 1)
    slot = mix(key, _0) & mask
    while index[slot, 1] != _0:
        if index[slot, 0] == key:
            return np.int64(index[slot, 1]) - 1, slot
        slot = (slot + _1) & mask
    return np.int64(-1), slot


@inline
def put_pair(index, slot, key, row):  # type: ignore[no-untyped-def]
    """Fill the free slot that `find_pair` named."""
    index[slot, 0] = key
    index[slot, 1] = np.uint64(row + 1)


@kernel
def index_pairs(a, b, first, n, index):  # type: ignore[no-untyped-def]
    """Fill the empty index with rows first … n−1, whose keys are (a[i], b[i])."""
    for i in range(first, n):
        key = pair(a[i], b[i])
        _, slot = find_pair(index, key)
        put_pair(index, slot, key, i)


# --------------------------------------------------------------------------------------------- remembered ids


class Ring(NamedTuple):
    """The last ids, each with its body: a ring once it holds as many as the memory is for.

    table of SEEN rows; head: table of HEAD rows, of which `which` is this ring's; index uint32[slots], row + 1
    """

    table: Table
    heads: Table
    index: np.ndarray
    which: int
    memory: int


@inline
def find_id(rows, index, lo, hi):  # type: ignore[no-untyped-def]
    """The row of a remembered id, −1 when it is not remembered."""
    mask = np.uint64(len(index) - 1)
    slot = lo & mask
    while index[slot] != 0:
        row = rows[index[slot] - 1]
        if row.id_lo == lo and row.id_hi == hi:
            return np.int64(index[slot]) - 1
        slot = (slot + _1) & mask
    return np.int64(-1)


@kernel
def free_slot(rows, index, i):  # type: ignore[no-untyped-def]
    """Take row i, that of an id, out of the index: entries behind it that would be cut off move up."""
    mask = np.uint64(len(index) - 1)
    hole = rows[i].id_lo & mask
    while np.int64(index[hole]) != i + 1:
        hole = (hole + _1) & mask
    slot = (hole + _1) & mask
    while index[slot] != 0:
        home = rows[index[slot] - 1].id_lo & mask
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            index[hole] = index[slot]
            hole = slot
        slot = (slot + _1) & mask
    index[hole] = 0


class Events(NamedTuple):
    """Wallet events that are remembered: all that are open, and the last that became final.

    table of EVENT rows; heads: that in row `which` counts the final ones, and begins the list of free rows; index as of
    a Ring; finals uint32[capacity], their rows from the oldest on, round from finals_at[0] on, finals_at[1] of them
    """

    table: Table
    heads: Table
    index: np.ndarray
    finals: np.ndarray
    finals_at: np.ndarray
    which: int
    memory: int


@kernel
def index_events(rows, n, index):  # type: ignore[no-untyped-def]
    """As `index_ids`, without the rows that are free."""
    for i in range(n):
        if rows[i].seen != 0:
            put_id(index, rows[i].id_lo, i)


@kernel
def new_event(events, lo, hi):  # type: ignore[no-untyped-def]
    """A row for an event that is not remembered, of which nothing is due; all else but the id is the caller's."""
    table, head = events.table, events.heads.rows[events.which]
    if head.free > 0:
        row = head.free - 1
        head.free = np.int64(table.rows[row].balance)
        touch(events.heads, events.which)
        touch(table, row)
    else:
        row = append(table)
    event = table.rows[row]
    event.id_lo, event.id_hi, event.seen, event.due = lo, hi, np.uint8(0), np.int32(-1)
    put_id(events.index, lo, row)
    return row


@kernel
def became_final(events, row):  # type: ignore[no-untyped-def]
    """Number a row among the final ones; the oldest of those are forgotten when they are too many."""
    rows, head, at = events.table.rows, events.heads.rows[events.which], events.finals_at
    size = len(events.finals)
    rows[row].final = head.next
    head.next += 1
    touch(events.heads, events.which)
    events.finals[(at[0] + at[1]) % size] = np.uint32(row)
    at[1] += 1
    while at[1] > events.memory:
        oldest = np.int64(events.finals[at[0]])
        at[0] = (at[0] + 1) % size
        at[1] -= 1
        free_slot(rows, events.index, oldest)
        rows[oldest].seen = np.uint8(0)
        rows[oldest].balance = np.uint32(head.free)
        head.free = oldest + 1
        touch(events.table, oldest)


@inline
def remember(ring, lo, hi, body):  # type: ignore[no-untyped-def]
    """Remember a new id; the oldest makes room for it when the ring is full."""
    table, head = ring.table, ring.heads.rows[ring.which]
    i = head.next
    if i >= ring.memory:
        i = np.int64(0)
    if i < table.count[0]:
        free_slot(table.rows, ring.index, i)
        touch(table, i)
    else:
        i = append(table)
    head.next = i + 1
    touch(ring.heads, ring.which)
    row = table.rows[i]
    row.id_lo, row.id_hi, row.body = lo, hi, body
    put_id(ring.index, lo, i)


@inline
def put_id(index, lo, i):  # type: ignore[no-untyped-def]
    """Enter row i, of an id whose lower limb is `lo`, into the index."""
    mask = np.uint64(len(index) - 1)
    slot = lo & mask
    while index[slot] != 0:
        slot = (slot + _1) & mask
    index[slot] = np.uint32(i + 1)


@kernel
def index_ids(rows, n, index):  # type: ignore[no-untyped-def]
    """Fill the empty index with the first n rows."""
    for i in range(n):
        put_id(index, rows[i].id_lo, i)
