"""Exact decimals: text, integers at scale 18 ("units"), and int128 in two uint64 limbs (low, high), and back.

One unit is 10^-18. In columns a decimal is a row of `uint64[n, 2]`, low limb first, two's complement.
The grammar is the interface's: `[+-]?(\\d+(\\.\\d*)?|\\.\\d+)([eE][+-]?\\d{1,4})?`, at most 64 characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Context, Decimal, Inexact

import numpy as np

from assetstream.models.spans import Window, kernel, load8

SCALE = 18
ONE = 10**SCALE
#: magnitudes are below this, in units
LIMIT = 10 ** (20 + SCALE)

# what parse_decimal says of a text
OK, INVALID, OUT_OF_RANGE = 0, 1, 2

_U0 = np.uint64(0)
_U1 = np.uint64(1)
_U10 = np.uint64(10)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_E9 = np.uint64(10**9)
_E18 = np.uint64(10**18)
_POWERS = np.array([10**i for i in range(20)], np.uint64)
_SIGN = np.uint64(1 << 63)


class DecimalError(ValueError):
    """A text or number that is no decimal of ours; `out_of_range` when only its size or precision is at fault."""

    def __init__(self, message: str, out_of_range: bool) -> None:
        self.out_of_range = out_of_range
        super().__init__(message)


# ---------------------------------------------------------------------------------------- numba: text → limbs


@kernel
def multiply(x: int, y: int) -> tuple[int, int]:
    """x·y of two uint64 as 128 bits (lo, hi)."""
    xl, xh, yl, yh = x & _LOW, x >> _32, y & _LOW, y >> _32
    ll, lh, hl, hh = xl * yl, xl * yh, xh * yl, xh * yh
    middle = (ll >> _32) + (lh & _LOW) + (hl & _LOW)
    return (middle << _32) | (ll & _LOW), hh + (lh >> _32) + (hl >> _32) + (middle >> _32)


@kernel
def negate(lo: int, hi: int) -> tuple[int, int]:
    """−x of an int128 in two uint64 limbs."""
    lo = ~lo + _U1
    return lo, ~hi + (_U1 if lo == _U0 else _U0)


@kernel
def _parse_any(data, at, n):  # type: ignore[no-untyped-def]
    """parse_decimal for every text of the grammar, digit by digit."""
    end = at + n
    p = at
    if n < 1 or n > 64:
        return _U0, _U0, INVALID
    negative = load8(data, p) == 45
    if negative or load8(data, p) == 43:
        p += 1
    digits = 0  # seen at all
    exponent = 0  # of the last significant digit
    zeros = 0  # seen since the last non-zero digit
    significant = 0
    lo, hi = _U0, _U0
    point = False
    while p < end:
        c = load8(data, p)
        if c == 46 and not point:
            point = True
        elif 48 <= c <= 57:
            digits += 1
            if point:
                exponent -= 1
            if c == 48:
                zeros += 1
            else:
                # 38 digits are the most that can be in range, and the most that surely fit; more only count.
                if significant == 0:
                    zeros = 0
                significant += zeros + 1
                if significant <= 38:
                    for _ in range(zeros + 1):
                        lo, carry = multiply(lo, _U10)
                        hi = hi * _U10 + carry
                    lo += np.uint64(c - 48)
                    if lo < np.uint64(c - 48):
                        hi += _U1
                zeros = 0
        else:
            break
        p += 1
    if digits == 0:
        return _U0, _U0, INVALID
    exponent += zeros
    if p < end and (load8(data, p) == 101 or load8(data, p) == 69):
        p += 1
        minus = p < end and load8(data, p) == 45
        if minus or (p < end and load8(data, p) == 43):
            p += 1
        if not 1 <= end - p <= 4:
            return _U0, _U0, INVALID
        power = 0
        while p < end and 48 <= load8(data, p) <= 57:
            power = power * 10 + load8(data, p) - 48
            p += 1
        exponent += -power if minus else power
    if p != end:
        return _U0, _U0, INVALID
    if significant == 0:
        return _U0, _U0, OK
    if exponent < -18 or significant + exponent > 20:
        return _U0, _U0, OUT_OF_RANGE
    for _ in range(exponent + 18):
        lo, carry = multiply(lo, _U10)
        hi = hi * _U10 + carry
    if negative:
        lo, hi = negate(lo, hi)
    return lo, hi, OK


@kernel
def parse_decimal(data: Window, at: int, n: int) -> tuple[int, int, int]:
    """The decimal written in the `n` bytes from `at` of `data`, as limbs (lo, hi) and OK, INVALID or OUT_OF_RANGE.

    OUT_OF_RANGE: more than 18 decimals after trimming zeros, or a magnitude of 10^20 and more. Limbs are 0 unless OK.
    """
    end = at + n
    p = at
    negative = n > 0 and load8(data, p) == 45
    if negative:
        p += 1
    if end - p < 1 or end - p > 19:
        return _parse_any(data, at, n)
    # The usual: at most 18 digits and a point, so that all of them fit 64 bits and no check of range is needed.
    mantissa = _U0
    point = end
    for q in range(p, end):
        c = np.uint64(load8(data, q)) - np.uint64(48)
        if c <= np.uint64(9):
            mantissa = mantissa * _U10 + c
        elif c == np.uint64(0xFFFFFFFFFFFFFFFE) and point == end and end - p > 1:
            point = q
        else:
            return _parse_any(data, at, n)
    decimals = end - point - 1 if point < end else 0
    lo, hi = multiply(mantissa, _POWERS[18 - decimals])
    if negative:
        lo, hi = negate(lo, hi)
    return lo, hi, OK


# ---------------------------------------------------------------------------------------- numba: limbs → text


@kernel
def _divide_e9(lo, hi):  # type: ignore[no-untyped-def]
    """(lo, hi) of x // 10^9, and x % 10^9: long division in base 2^32."""
    q3 = (hi >> _32) // _E9
    r = (hi >> _32) - q3 * _E9
    x = (r << _32) | (hi & _LOW)
    q2 = x // _E9
    x = ((x - q2 * _E9) << _32) | (lo >> _32)
    q1 = x // _E9
    x = ((x - q1 * _E9) << _32) | (lo & _LOW)
    q0 = x // _E9
    return (q1 << _32) | q0, (q3 << _32) | q2, x - q0 * _E9


@kernel
def _write_digits(buf, pos, x, n):  # type: ignore[no-untyped-def]
    """The last `n` digits of x."""
    for i in range(pos + n - 1, pos - 1, -1):
        q = x // _U10
        buf[i] = np.uint8(x - q * _U10 + np.uint64(48))
        x = q
    return pos + n


@kernel
def _count_digits(x):  # type: ignore[no-untyped-def]
    n = 1
    while n < 20 and x >= _POWERS[n]:
        n += 1
    return n


@kernel
def write_decimal(buf: np.ndarray, pos: int, lo: int, hi: int) -> int:
    """Write the decimal of limbs (lo, hi), uint64, at `pos` of the uint8 `buf` as ASCII; gives the position after it.

    Plain form, trailing zeros trimmed, "0" and never "-0". At most 41 bytes for magnitudes below 10^20.
    """
    if hi & _SIGN:
        buf[pos] = 45
        pos += 1
        lo, hi = negate(lo, hi)
    lo, hi, low = _divide_e9(lo, hi)
    lo, hi, high = _divide_e9(lo, hi)
    if hi == _U0:
        pos = _write_digits(buf, pos, lo, _count_digits(lo))
    else:  # 2^64 units and more, up to 1.7·10^20
        lo, hi, middle = _divide_e9(lo, hi)
        pos = _write_digits(buf, pos, lo, _count_digits(lo))
        pos = _write_digits(buf, pos, middle, 9)
    fraction = high * _E9 + low
    if fraction != _U0:
        buf[pos] = 46
        pos = _write_digits(buf, pos + 1, fraction, 18)
        while buf[pos - 1] == 48:
            pos -= 1
    return pos


@kernel
def is_zero(lo: int, hi: int) -> bool:
    """Whether the limbs are 0."""
    return (lo | hi) == _U0


@kernel
def is_positive(lo: int, hi: int) -> bool:
    """Whether the limbs are above 0."""
    return (lo | hi) != _U0 and (hi & _SIGN) == _U0


# ----------------------------------------------------------------------------------------------------- Python

_GRAMMAR = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_EXACT = Context(prec=200, traps=[Inexact])


def is_decimal(text: str) -> bool:
    """Whether the text is of the grammar, in range or not."""
    return len(text) <= 64 and _GRAMMAR.fullmatch(text) is not None


def to_units(value: Decimal | str | int) -> int:
    """The value in units (10^-18), exactly. A str must be of the grammar; floats are refused.

    Raises DecimalError: no decimal, more than 18 decimals, or a magnitude of 10^20 and more.
    """
    if (isinstance(value, str) and is_decimal(value)) or (isinstance(value, int) and not isinstance(value, bool)):
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite():
        raise DecimalError("not an exact decimal", out_of_range=False)
    # judged by its size first: no power of ten is taken of what an exponent may promise
    if value and value.adjusted() >= 20:
        raise DecimalError("is 10^20 or more", out_of_range=True)
    try:
        scaled = value.scaleb(SCALE, _EXACT)
    except Inexact:
        scaled = Decimal("NaN")
    if scaled != scaled.to_integral_value():
        raise DecimalError("has more than 18 decimals", out_of_range=True)
    return int(scaled)


def from_units(units: int) -> str:
    """Units as text: plain form, trailing zeros trimmed, "0" and never "-0"."""
    whole, fraction = divmod(abs(units), ONE)
    text = f"{whole}.{fraction:018d}".rstrip("0").rstrip(".")
    return f"-{text}" if units < 0 else text


def to_decimal(units: int) -> Decimal:
    """Units as a Decimal, exactly, whatever the context's precision."""
    return Decimal(from_units(units))


def limbs(units: int) -> tuple[int, int]:
    """Units as two uint64 limbs (lo, hi), two's complement. Raises OverflowError beyond int128."""
    if not -(1 << 127) <= units < 1 << 127:
        raise OverflowError("beyond int128")
    return units & 0xFFFFFFFFFFFFFFFF, (units >> 64) & 0xFFFFFFFFFFFFFFFF


def units(lo: int, hi: int) -> int:
    """The units of two uint64 limbs."""
    value = (int(hi) << 64) | int(lo)
    return value - (1 << 128) if value >> 127 else value


def limbs_of(values: Iterable[int]) -> np.ndarray:
    """Many units as limbs, uint64[n, 2]."""
    return np.array([limbs(value) for value in values], np.uint64).reshape(-1, 2)


def units_of(column: np.ndarray) -> list[int]:
    """The units of each row of a uint64[n, 2]."""
    return [units(lo, hi) for lo, hi in column.tolist()]


def texts_of(column: np.ndarray) -> list[str]:
    """Each row of a uint64[n, 2] as text."""
    return [from_units(value) for value in units_of(column)]
