"""128-bit arithmetic against Python's own integers, at the edges and on ties."""

from __future__ import annotations

import random

import numpy as np
import pytest

from assetstream.models.int128 import LIMIT, ONE, add, at, divide, high, kernel, low, multiply

EDGES = [0, 1, 2, 5, ONE // 2, ONE - 1, ONE, ONE + 1, 2**63, 2**64 - 1, 2**64, 2**64 + 1, 2**126, LIMIT - 1]


def limbs(values: list[int]) -> np.ndarray:
    return np.array([[v & (2**64 - 1), (v >> 64) & (2**64 - 1)] for v in values], np.uint64)


def integers(column: np.ndarray) -> list[int]:
    return [(hi << 64) | lo for lo, hi in zip(column[:, 0].tolist(), column[:, 1].view(np.int64).tolist(), strict=True)]


def half_even(numerator: int, denominator: int) -> int:
    quotient, rest = divmod(abs(numerator), denominator)
    quotient += 2 * rest > denominator or (2 * rest == denominator and quotient % 2)
    return -quotient if numerator < 0 else quotient


@kernel
def _multiply(x, y, out, good):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        product, good[i] = multiply(at(x, i), at(y, i))
        out[i, 0], out[i, 1] = low(product), high(product)


@kernel
def _divide(x, y, d, out, good):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        quotient, good[i] = divide(at(x, i), at(y, i), at(d, i))
        out[i, 0], out[i, 1] = low(quotient), high(quotient)


@kernel
def _add(x, y, out, good):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        total, good[i] = add(at(x, i), at(y, i))
        out[i, 0], out[i, 1] = low(total), high(total)


def run(operation, *columns: list[int]) -> list[int | None]:  # type: ignore[no-untyped-def]
    """The results, None where the operation says they are out of range."""
    out, good = np.zeros((len(columns[0]), 2), np.uint64), np.zeros(len(columns[0]), np.uint8)
    operation(*map(limbs, columns), out, good)
    return [value if fits else None for value, fits in zip(integers(out), good, strict=True)]


def expected(values: list[int]) -> list[int | None]:
    return [value if abs(value) < LIMIT else None for value in values]


def some(seed: int, n: int) -> list[int]:
    """Numbers of every size below the limit, many of them near powers of two and of ten."""
    source = random.Random(seed)
    near = [source.choice([2, 10]) ** source.randrange(38) + source.randrange(-1, 2) for _ in range(n // 2)]
    return [min(abs(x), LIMIT - 1) for x in near] + [source.randrange(10 ** source.randrange(1, 39)) for _ in near]


PAIRS = [(x, y) for x in EDGES for y in EDGES] + list(zip(some(1, 4000), reversed(some(2, 4000)), strict=True))
SIGNS = [(1, 1), (1, -1), (-1, 1), (-1, -1)]


@pytest.mark.parametrize(("a", "b"), SIGNS)
def test_products_are_rounded_once_half_to_even(a: int, b: int) -> None:
    x, y = [a * x for x, _ in PAIRS], [b * y for _, y in PAIRS]
    assert run(_multiply, x, y) == expected([half_even(p * q, ONE) for p, q in zip(x, y, strict=True)])


def test_a_product_halfway_goes_to_the_even_neighbour() -> None:
    odd_units = [1, 3, 5, 7, -1, -3]
    assert run(_multiply, odd_units, [ONE // 2] * 6) == [0, 2, 2, 4, 0, -2]


@pytest.mark.parametrize(("a", "b"), SIGNS)
def test_sums_say_when_they_reach_the_limit(a: int, b: int) -> None:
    x, y = [a * x for x, _ in PAIRS], [b * y for _, y in PAIRS]
    assert run(_add, x, y) == expected([p + q for p, q in zip(x, y, strict=True)])


@pytest.mark.parametrize("d", [1, 2, 3, 4, 7, ONE, 2**63, 2**64 - 1, 2**64, 2**64 + 1, 3 * 2**64, 2**126, LIMIT - 1])
def test_quotients_are_rounded_once_half_to_even(d: int) -> None:
    x, y = [x for x, _ in PAIRS], [y for _, y in PAIRS]
    assert run(_divide, x, y, [d] * len(x)) == expected([half_even(p * q, d) for p, q in PAIRS])


def test_quotients_of_any_divisor() -> None:
    x, y = [x for x, _ in PAIRS], [y for _, y in PAIRS]
    d = [max(v, 1) for v in random.Random(3).sample(some(4, len(x) + 2), len(x))]
    wanted = expected([half_even(p * q, r) for p, q, r in zip(x, y, d, strict=True)])
    assert run(_divide, x, y, d) == wanted
    # divisors that make ties
    even = [2 * max(v, 1) if 2 * v < LIMIT else 2 for v in y]
    assert run(_divide, x, y, even) == expected([half_even(p * q, r) for p, q, r in zip(x, y, even, strict=True)])
