"""Flat JSON objects scanned in numba: where the value of each known field lies, without copying anything.

It understands objects of strings, numbers, booleans and nulls in printable ASCII without escapes, which is what nearly
every message is. Whatever else it meets (nested values, escapes, non-ASCII, broken JSON) it only reports as "not
understood"; the strict parser of `messages.py` then decides. It never understands what is not valid JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assetstream.models.spans import Window, kernel, load8, load64, store64

# what a field's value is; a field that is null or not there is ABSENT
ABSENT, STRING, NUMBER, TRUE, FALSE = 0, 1, 2, 3, 4

#: character classes of a string: all of its characters may be in an id, in a symbol, in any text
IDS, SYMBOLS, TEXTS = 1, 2, 4


def _classes() -> np.ndarray:
    table = np.zeros(256, np.uint8)
    table[32:128] = TEXTS
    for c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-":
        table[c] = IDS | SYMBOLS | TEXTS
    table[ord("/")] = SYMBOLS | TEXTS
    table[ord('"')] = table[ord("\\")] = 0
    return table


_CLASSES = _classes()


def fields(names: Sequence[str]) -> np.ndarray:
    """A table of names (ASCII, at most 31 characters) to find, by numbers as they come: uint64[F, 9].

    A row has the name with its closing quote in four words, the masks to compare them under, and the name's length.
    """
    table = np.zeros((len(names), 9), np.uint64)
    text = table.view(np.uint8)
    for f, name in enumerate(names):
        quoted = name.encode("ascii") + b'"'
        text[f, : len(quoted)] = np.frombuffer(quoted, np.uint8)
        text[f, 32 : 32 + len(quoted)] = 255
        table[f, 8] = len(name)
    return table


def scratch(known: np.ndarray) -> np.ndarray:
    """Space for what `scan` finds of the known fields in a message, int64[F + 1, 5]; `value` reads it.

    A row is a field: AT and LENGTH, the span of a STRING's inside or of a NUMBER; KIND; CHARS, of a STRING which of
    IDS, SYMBOLS, TEXTS hold for all its characters; and the field that last came after it, which is tried first next
    time (the last row is for unknown fields and the start).
    """
    found = np.zeros((len(known) + 1, 5), np.int64)
    found[:, _AFTER] = np.append(np.arange(1, len(known) + 1), 0)
    return found


AT, LENGTH, KIND, CHARS, _AFTER = range(5)


@kernel
def value(found: Window, f: int, what: int) -> int:
    """AT, LENGTH, KIND or CHARS of field f, as `scan` found it."""
    return np.int64(load64(found, 40 * f + 8 * what))


@kernel
def _put(found, f, what, number):  # type: ignore[no-untyped-def]
    store64(found, 40 * f + 8 * what, number)


@kernel
def _space(data, p, end):  # type: ignore[no-untyped-def]
    """The position of the next character that is no white space."""
    while p < end:
        c = load8(data, p)
        if c > 32 or (c != 32 and c != 10 and c != 13 and c != 9):
            break
        p += 1
    return p


@kernel
def _is(data, p, known, f):  # type: ignore[no-untyped-def]
    """Whether name f is at p; the caller has checked that 32 bytes can be read there."""
    row = 72 * f
    for w in range(row, row + (np.int64(load64(known, row + 64)) & 24) + 1, 8):
        if (load64(data, p + w - row) & load64(known, w + 32)) != load64(known, w):
            return False
    return True


@kernel
def match(data: Window, p: int, end: int, known: Window, likely: int) -> int:
    """The number of the name that is, with its closing quote, at p, or −1; `likely` is tried first."""
    count = known[1] // 72
    if p + 32 <= data[1]:
        if likely < count and _is(data, p, known, likely):
            return likely
        for f in range(count):
            if _is(data, p, known, f):
                return f
        return -1
    # the last few bytes of the buffer
    for f in range(count):
        size = np.int64(load64(known, 72 * f + 64))
        if p + size < end:
            same = True
            for i in range(size + 1):
                same = same and load8(data, p + i) == load8(known, 72 * f + i)
            if same:
                return f
    return -1


@kernel
def _string(data, p, end):  # type: ignore[no-untyped-def]
    """The position of the closing quote of the string whose inside starts at p (−1: not understood), its classes."""
    chars = np.uint8(IDS | SYMBOLS | TEXTS)
    while p < end:
        c = _CLASSES[load8(data, p)]
        if c == 0:
            break
        chars &= c
        p += 1
    if p >= end or load8(data, p) != 34:
        return -1, np.uint8(0)
    return p, chars


@kernel
def _digits(data, p, end):  # type: ignore[no-untyped-def]
    while p < end and 48 <= load8(data, p) <= 57:
        p += 1
    return p


@kernel
def _number(data, p, end):  # type: ignore[no-untyped-def]
    """The position after the JSON number at p, or −1 when it is none."""
    if p < end and load8(data, p) == 45:
        p += 1
    start = p
    p = _digits(data, p, end)
    if p == start or (load8(data, start) == 48 and p > start + 1):
        return -1
    if p < end and load8(data, p) == 46:
        start = p + 1
        p = _digits(data, start, end)
        if p == start:
            return -1
    if p < end and (load8(data, p) == 101 or load8(data, p) == 69):
        p += 1
        if p < end and (load8(data, p) == 45 or load8(data, p) == 43):
            p += 1
        start = p
        p = _digits(data, start, end)
        if p == start:
            return -1
    return p


@kernel
def _literal(data, p, end, a, b, c):  # type: ignore[no-untyped-def]
    """Whether the three characters after p are a, b, c."""
    return p + 4 <= end and load8(data, p + 1) == a and load8(data, p + 2) == b and load8(data, p + 3) == c


@kernel
def scan(data: Window, at: int, n: int, known: Window, found: Window) -> bool:
    """Find the known fields of the JSON object in the `n` bytes from `at`; False when it was not understood.

    Of a repeated field the last one counts. Every byte of the message is checked to be valid JSON.
    """
    end = at + n
    count = known[1] // 72
    for f in range(count):
        _put(found, f, KIND, ABSENT)
    p = _space(data, at, end)
    if p >= end or load8(data, p) != 123:
        return False
    p = _space(data, p + 1, end)
    if p < end and load8(data, p) == 125:
        return _space(data, p + 1, end) == end
    last = count
    while True:
        if p >= end or load8(data, p) != 34:
            return False
        p += 1
        f = match(data, p, end, known, value(found, last, _AFTER))
        if f >= 0:
            p += np.int64(load64(known, 72 * f + 64))
            _put(found, last, _AFTER, f)
            last = f
        else:
            p, _ = _string(data, p, end)
            if p < 0:
                return False
            last = count
        p = _space(data, p + 1, end)
        if p >= end or load8(data, p) != 58:
            return False
        p = _space(data, p + 1, end)
        if p >= end:
            return False
        start = p
        length = 0
        chars = np.uint8(0)
        c = load8(data, p)
        if c == 34:
            kind = STRING
            start = p + 1
            p, chars = _string(data, start, end)
            if p < 0:
                return False
            length = p - start
            p += 1
        elif c == 45 or 48 <= c <= 57:
            kind = NUMBER
            p = _number(data, p, end)
            if p < 0:
                return False
            length = p - start
        elif c == 110 and _literal(data, p, end, 117, 108, 108):
            kind = ABSENT
            p += 4
        elif c == 116 and _literal(data, p, end, 114, 117, 101):
            kind = TRUE
            p += 4
        elif c == 102 and _literal(data, p + 1, end, 108, 115, 101) and load8(data, p + 1) == 97:
            kind = FALSE
            p += 5
        else:
            return False
        if f >= 0:
            _put(found, f, AT, start)
            _put(found, f, LENGTH, length)
            _put(found, f, KIND, kind)
            _put(found, f, CHARS, np.int64(chars))
        p = _space(data, p, end)
        if p >= end:
            return False
        c = load8(data, p)
        if c == 44:
            p = _space(data, p + 1, end)
        elif c == 125:
            return _space(data, p + 1, end) == end
        else:
            return False


@kernel
def deeper_than(data: np.ndarray, limit: int) -> bool:
    """Whether brackets nest deeper than `limit` in a JSON text (uint8), without recursion. Strings don't count."""
    depth = 0
    quoted = False
    p = 0
    while p < len(data):
        c = data[p]
        if quoted:
            if c == 92:
                p += 1
            elif c == 34:
                quoted = False
        elif c == 34:
            quoted = True
        elif c == 91 or c == 123:
            depth += 1
            if depth > limit:
                return True
        elif c == 93 or c == 125:
            depth -= 1
        p += 1
    return False


@kernel
def _two(data, p):  # type: ignore[no-untyped-def]
    """The number of the two digits at p, or −10,000 when they are none."""
    a = np.int64(load8(data, p)) - 48
    b = np.int64(load8(data, p + 1)) - 48
    if a < 0 or a > 9 or b < 0 or b > 9:
        return -10_000
    return 10 * a + b


@kernel
def _month_days(year, month):  # type: ignore[no-untyped-def]
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


#: 2300-01-01, in microseconds
_END_OF_TIME = 10_413_792_000_000_000


@kernel
def parse_instant(data: Window, at: int, n: int) -> int:
    """Microseconds UTC of the RFC 3339 time in the `n` bytes from `at`; −1 when it is none of 1970 – 2299.

    More than six digits of a second are cut off. Days to years by H. Hinnant's days_from_civil.
    """
    if n < 20 or n > 64:
        return -1
    year = _two(data, at) * 100 + _two(data, at + 2)
    month = _two(data, at + 5)
    day = _two(data, at + 8)
    hour = _two(data, at + 11)
    minute = _two(data, at + 14)
    second = _two(data, at + 17)
    if load8(data, at + 4) != 45 or load8(data, at + 7) != 45:
        return -1
    if load8(data, at + 10) != 84 and load8(data, at + 10) != 116:
        return -1
    if load8(data, at + 13) != 58 or load8(data, at + 16) != 58:
        return -1
    if year < 1 or month < 1 or month > 12 or day < 1 or day > _month_days(year, month):
        return -1
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -1
    p = at + 19
    end = at + n
    micros = 0
    if load8(data, p) == 46:
        start = p + 1
        p = _digits(data, start, end)
        if p in (start, end):
            return -1
        for i in range(start, start + 6):
            micros = micros * 10 + (np.int64(load8(data, i)) - 48 if i < p else 0)
    offset = 0
    c = load8(data, p)
    if c == 43 or c == 45:
        if end - p != 6 or load8(data, p + 3) != 58:
            return -1
        hours = _two(data, p + 1)
        minutes = _two(data, p + 4)
        if hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
            return -1
        offset = hours * 60 + minutes
        if c == 45:
            offset = -offset
    elif (c != 90 and c != 122) or p + 1 != end:
        return -1
    y = year - 1 if month <= 2 else year
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
    instant = ((days * 24 + hour) * 60 + minute - offset) * 60_000_000 + second * 1_000_000 + micros
    return instant if 0 <= instant < _END_OF_TIME else -1
