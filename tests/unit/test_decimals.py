"""Exact decimals: grammar, range, limbs and text, by hand and against Python's integers."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from assetstream.models.decimals import (
    INVALID,
    LIMIT,
    OK,
    OUT_OF_RANGE,
    DecimalError,
    from_units,
    is_positive,
    is_zero,
    limbs,
    limbs_of,
    multiply,
    negate,
    parse_decimal,
    texts_of,
    to_decimal,
    to_units,
    units,
    units_of,
    write_decimal,
)
from assetstream.models.spans import window

E18 = 10**18


@njit
def _parse(data, at, n):  # type: ignore[no-untyped-def]
    return parse_decimal(window(data), at, n)


def parse(text: str, around: bytes = b"") -> int | str:
    """The units numba reads in the text, or what is wrong with it; digits around it must not matter."""
    data = np.frombuffer(around + text.encode() + around, np.uint8)
    lo, hi, status = _parse(data, len(around), len(text.encode()))
    if status != OK:
        assert (lo, hi) == (0, 0)
        return {INVALID: "invalid", OUT_OF_RANGE: "out of range"}[status]
    return units(lo, hi)


def parse_in_python(text: str) -> int | str:
    try:
        return to_units(text)
    except DecimalError as error:
        return "out of range" if error.out_of_range else "invalid"


def write(value: int) -> str:
    buffer = np.full(64, ord("!"), np.uint8)
    end = write_decimal(buffer, 3, *map(np.uint64, limbs(value)))
    assert end - 3 <= 41
    assert (buffer[:3] == ord("!")).all()
    return buffer[3:end].tobytes().decode()


GOOD = {
    "0": 0,
    "-0": 0,
    "+0": 0,
    "00": 0,
    ".0": 0,
    "0.": 0,
    "0e9999": 0,
    "0.000000000000000000000000000": 0,
    "-0e-9999": 0,
    "1": E18,
    "+1": E18,
    "-1": -E18,
    "01": E18,
    "1.": E18,
    ".5": E18 // 2,
    "-.5": -E18 // 2,
    "1.5": 3 * E18 // 2,
    "0.000000000000000001": 1,
    "-0.000000000000000001": -1,
    "1.0000000000000000000000000000000": E18,
    "1e0": E18,
    "1e+2": 100 * E18,
    "1E-18": 1,
    "1e-0018": 1,
    "10e-19": 1,
    "0.1e19": 10**36,
    "100000000000000000000000e-20": 1000 * E18,
    "123456789.123456789": 123456789123456789 * 10**9,
    "18446744073.709551616": 2**64 * 10**9,
    "99999999999999999999": 99999999999999999999 * E18,
    "99999999999999999999.999999999999999999": LIMIT - 1,
    "-99999999999999999999.999999999999999999": 1 - LIMIT,
    "9999999999999999999": 9999999999999999999 * E18,
    "12345678901234567.8": 123456789012345678 * 10**17,
    ".123456789012345678": 123456789012345678,
    "0" * 64: 0,
    "0" * 63 + "7": 7 * E18,
}
BAD = [
    "", "+", "-", ".", "-.", "e5", ".e5", "1e", "1e+", "1e12345", "1e-00018", "1e1.5", "--1", "+-1", "1..2", "1.2.3",
    " 1", "1 ", "1_000", "1,5", "0x1", "NaN", "Infinity", "-inf", "1f", "1d", "١", "１", "1e٣", "½", "\x001", "1\n",
    "0" * 65, "1." + "0" * 63,
]  # fmt: skip
TOO_MUCH = [
    "100000000000000000000", "-100000000000000000000", "1e20", "1e9999", "-1E+9999",
    "99999999999999999999.9999999999999999999",
    "0.0000000000000000001", "1e-19", "1e-9999", "1.0000000000000000001", "0.1e-18", "123456789012345678901",
    "1" * 64, "10000000000000000000000000000000000000000", "1" + "0" * 39 + "." + "0" * 20 + "1",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
@pytest.mark.parametrize("around", [b"", b"123456789.e"])
def test_decimals_are_read_by_their_digits(text: str, around: bytes) -> None:
    assert parse(text, around) == GOOD[text]
    assert parse_in_python(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_not_of_the_grammar_is_invalid(text: str) -> None:
    assert parse(text) == "invalid"
    assert parse_in_python(text) == "invalid"


@pytest.mark.parametrize("text", TOO_MUCH)
def test_too_many_decimals_or_too_big_is_out_of_range(text: str) -> None:
    assert parse(text) == "out of range"
    assert parse_in_python(text) == "out of range"


TEXTS = {
    0: "0",
    1: "0.000000000000000001",
    -1: "-0.000000000000000001",
    E18: "1",
    -E18: "-1",
    10 * E18: "10",
    3 * E18 // 2: "1.5",
    -E18 // 4: "-0.25",
    E18 - 1: "0.999999999999999999",
    100 * E18 + E18 // 10: "100.1",
    2**64: "18.446744073709551616",
    2**64 * E18: "18446744073709551616",
    (2**64 - 1) * E18: "18446744073709551615",
    LIMIT - 1: "99999999999999999999.999999999999999999",
    1 - LIMIT: "-99999999999999999999.999999999999999999",
    10**19 * E18: "10000000000000000000",
    2 * 10**19 * E18 + 5: "20000000000000000000.000000000000000005",
}


@pytest.mark.parametrize("value", TEXTS)
def test_decimals_are_written_plain_and_trimmed(value: int) -> None:
    assert write(value) == TEXTS[value]
    assert from_units(value) == TEXTS[value]
    assert to_decimal(value) == Decimal(TEXTS[value])


amounts = st.integers(-LIMIT + 1, LIMIT - 1) | st.builds(
    lambda sign, digits, power: sign * (digits * 10**power % LIMIT),
    st.sampled_from([1, -1]),
    st.integers(0, 10**6),
    st.integers(0, 37),
)


@given(amounts)
def test_there_and_back(value: int) -> None:
    lo, hi = limbs(value)
    assert 0 <= lo < 1 << 64
    assert 0 <= hi < 1 << 64
    assert units(lo, hi) == value
    assert write(value) == from_units(value)
    assert parse(write(value)) == value
    assert to_units(from_units(value)) == value
    assert Fraction(from_units(value)) == Fraction(value, E18)
    with localcontext(prec=5):  # nobody's context may round money
        assert to_units(to_decimal(value)) == value
    assert is_zero(np.uint64(lo), np.uint64(hi)) == (value == 0)
    assert is_positive(np.uint64(lo), np.uint64(hi)) == (value > 0)
    assert units(*negate(np.uint64(lo), np.uint64(hi))) == -value


@given(
    st.from_regex(r"[+-]?([0-9]{1,30}(\.[0-9]{0,25})?|\.[0-9]{1,25})([eE][+-]?[0-9]{1,4})?", fullmatch=True)
    | st.from_regex(r"[+-]?[0-9]{0,21}\.?[0-9]{0,20}([eE][+-]?[0-9]{1,2})?", fullmatch=True)
    | st.text("0123456789+-.eE", max_size=66)
)
def test_numba_reads_what_python_reads(text: str) -> None:
    assert parse(text) == parse_in_python(text)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_products_of_limbs_are_exact(x: int, y: int) -> None:
    lo, hi = multiply(np.uint64(x), np.uint64(y))
    assert (int(hi) << 64) + int(lo) == x * y


def test_columns() -> None:
    values = [0, 1, -1, E18, LIMIT - 1, 1 - LIMIT]
    column = limbs_of(values)
    assert column.dtype == np.uint64
    assert column.tolist()[2] == [2**64 - 1, 2**64 - 1]
    assert units_of(column) == values
    assert texts_of(column) == [from_units(value) for value in values]
    assert limbs_of([]).shape == (0, 2)


def test_python_values() -> None:
    assert to_units(5) == 5 * E18
    assert to_units(-(10**20) + 1) == (1 - 10**20) * E18
    assert to_units(Decimal("1.50")) == 3 * E18 // 2
    assert to_units(Decimal("1E+3")) == 1000 * E18
    for beyond in (10**20, -(10**20), 10**5000, Decimal("1e20"), Decimal("1e-19")):
        with pytest.raises(DecimalError) as error:
            to_units(beyond)
        assert error.value.out_of_range
    for wrong in (1.5, True, None, Decimal("NaN"), Decimal("-Infinity"), b"1"):
        with pytest.raises(DecimalError) as error:
            to_units(wrong)  # type: ignore[arg-type]
        assert not error.value.out_of_range
    with pytest.raises(OverflowError):
        limbs(1 << 127)
    assert limbs(-(1 << 127)) == (0, 1 << 63)
