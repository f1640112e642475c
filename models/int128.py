"""128-bit integers as numba scalars: exact money arithmetic for kernels.

Amounts are integers at scale 18 ("units") of magnitude below 10^38, `LIMIT`, i.e. 10^20 whole units. Inside kernels
they are values of the numba type `int128`, with `+ - == != < <= > >=` and unary minus, all wrapping like the machine's
own integers; `int192` is for sums of many amounts. Products and quotients are `multiply` and `divide`, which round half
to even, once, and say whether the result stays below the limit.

Division is by 64-bit limbs (LLVM's own 128-bit division calls a function that a JIT has not got), with the reciprocal
method of Möller and Granlund, "Improved division by invariant integers", IEEE Transactions on Computers 60 (2011).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

#: decorators of all kernels: no array is made in them, so numba's reference counting stays off
kernel = njit(cache=True, nogil=True, _nrt=False)
#: for small steps: inlined into their callers by LLVM
inline = njit(cache=True, nogil=True, _nrt=False, forceinline=True)


class FixedInt(types.Type):
    """A two's complement integer of `bits` bits."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(name=f"fixed_int{bits}")


@register_model(FixedInt)
class _FixedIntModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: FixedInt) -> None:
        super().__init__(dmm, fe_type, ir.IntType(fe_type.bits))


int128 = FixedInt(128)
int192 = FixedInt(192)


def _define(op: Callable[..., Any], emit: Callable[..., Any], result: types.Type | None = None, arity: int = 2) -> None:
    """Teach numba `op` on our integers; `emit(builder, *values)` writes the LLVM instruction."""
    signatures = [signature(result or t, *[t] * arity) for t in (int128, int192)]
    infer_global(op)(type(f"_{op.__name__}", (ConcreteTemplate,), {"cases": signatures}))
    for s in signatures:
        lower_builtin(op, *s.args)(lambda context, builder, sig, args: emit(builder, *args))


_define(operator.add, lambda b, x, y: b.add(x, y))
_define(operator.sub, lambda b, x, y: b.sub(x, y))
_define(operator.neg, lambda b, x: b.neg(x), arity=1)
for _op, _sign in (("eq", "=="), ("ne", "!="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">=")):
    _define(
        getattr(operator, _op),
        lambda b, x, y, _sign=_sign: b.icmp_signed(_sign, x, y),
        types.boolean,
    )


# ------------------------------------------------------------------------------------------- making and taking apart


@intrinsic
def wide(typingctx, x):  # type: ignore[no-untyped-def]
    """An int64 or uint64 as int128."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        extend = builder.sext if sig.args[0].signed else builder.zext
        return extend(args[0], ir.IntType(128))

    return int128(x), codegen


@intrinsic
def join(typingctx, lo, hi):  # type: ignore[no-untyped-def]
    """The int128 of two uint64 limbs."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        lo, hi = (builder.zext(x, ir.IntType(128)) for x in args)
        return builder.or_(lo, builder.shl(hi, ir.Constant(ir.IntType(128), 64)))

    return int128(types.uint64, types.uint64), codegen


def _limb(number: int) -> Any:
    @intrinsic
    def limb(typingctx, x):  # type: ignore[no-untyped-def]
        def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
            shifted = builder.lshr(args[0], ir.Constant(args[0].type, 64 * number))
            return builder.trunc(shifted, ir.IntType(64))

        return types.uint64(x), codegen

    return limb


#: limb 0 and limb 1 of an int128, as uint64
low, high = _limb(0), _limb(1)


@intrinsic
def extend(typingctx, x):  # type: ignore[no-untyped-def]
    """An int128 as int192."""
    return int192(int128), lambda context, builder, sig, args: builder.sext(args[0], ir.IntType(192))


@intrinsic
def narrow(typingctx, x):  # type: ignore[no-untyped-def]
    """The lower 128 bits of an int192."""
    return int128(int192), lambda context, builder, sig, args: builder.trunc(args[0], ir.IntType(128))


@intrinsic
def unsigned_less(typingctx, x, y):  # type: ignore[no-untyped-def]
    """x < y of two int128 taken as unsigned."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.icmp_unsigned("<", *args)

    return types.boolean(int128, int128), codegen


@intrinsic
def product64(typingctx, x, y):  # type: ignore[no-untyped-def]
    """x·y of two uint64, all 128 bits."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.mul(*(builder.zext(x, ir.IntType(128)) for x in args))

    return int128(types.uint64, types.uint64), codegen


@intrinsic
def leading_zeros(typingctx, x):  # type: ignore[no-untyped-def]
    """How many of a uint64's upper bits are zero; 64 for zero."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), codegen


@intrinsic
def load_word(typingctx, data, at):  # type: ignore[no-untyped-def]
    """The eight bytes from `at` of a uint8 array as a uint64, little-endian. Unchecked: at + 8 <= len(data)."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(64).as_pointer())
        return builder.load(pointer, align=1)

    return types.uint64(data, types.int64), codegen


@intrinsic
def prefetch(typingctx, array, i):  # type: ignore[no-untyped-def]
    """Ask the memory for element i of an array, counted from its start, that is needed soon. i is not checked."""

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        start = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        size = context.get_abi_sizeof(context.get_data_type(sig.args[0].dtype))
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [start.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        for line in range(0, size, 64):
            at = builder.gep(start, [ir.Constant(ir.IntType(64), line)])
            builder.call(function, [at, i32(0), i32(3), i32(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


# ------------------------------------------------------------------------------------------------ fields and columns


def _field(record: types.Record, name: str) -> tuple[int, FixedInt]:
    """Offset and type of the number `name`: fields name_lo and name_hi, or one of three uint64."""
    if f"{name}_lo" in record.fields:
        return record.offset(f"{name}_lo"), int128
    return record.offset(name), int192


def _pointer(builder, record, offset, bits):  # type: ignore[no-untyped-def]
    at = builder.gep(builder.bitcast(record, ir.IntType(8).as_pointer()), [ir.Constant(ir.IntType(64), offset)])
    return builder.bitcast(at, ir.IntType(bits).as_pointer())


@intrinsic(prefer_literal=True)
def get(typingctx, record, name):  # type: ignore[no-untyped-def]
    """The number `name` of a row: int128 of fields name_lo and name_hi, int192 of a field of three uint64."""
    offset, kind = _field(record, name.literal_value)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        return builder.load(_pointer(builder, args[0], offset, kind.bits), align=8)

    return kind(record, name), codegen


@intrinsic(prefer_literal=True)
def put(typingctx, record, name, value):  # type: ignore[no-untyped-def]
    """Write the number `name` of a row, as `get` reads it."""
    offset, kind = _field(record, name.literal_value)

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        builder.store(args[2], _pointer(builder, args[0], offset, kind.bits), align=8)
        return context.get_dummy_value()

    return types.void(record, name, kind), codegen


@inline
def at(column, i):  # type: ignore[no-untyped-def]
    """Row i of a decimal column, uint64[n, 2], as int128."""
    return join(column[i, 0], column[i, 1])


# ------------------------------------------------------------------------------------------------------- arithmetic

ONE = 10**18
LIMIT = 10**38

_MASK = (1 << 64) - 1
_0, _1, _4, _60, _64 = (np.uint64(x) for x in (0, 1, 4, 60, 64))
_32, _LOW32 = np.uint64(32), np.uint64(0xFFFFFFFF)
_MAX = np.uint64(_MASK)
_BASE32 = np.uint64(1 << 32)
_ONE = np.uint64(ONE)
_LIMIT_LO, _LIMIT_HI = np.uint64(LIMIT & _MASK), np.uint64(LIMIT >> 64)
# 10^18, shifted so that its top bit is set, and its reciprocal
_SCALE = np.uint64(ONE << 4)
_SCALE_INVERSE = np.uint64(((1 << 128) - 1) // (ONE << 4) - (1 << 64))


@inline
def zero():  # type: ignore[no-untyped-def]
    """0"""
    return wide(np.int64(0))


@inline
def limit():  # type: ignore[no-untyped-def]
    """10^38 units: what every amount stays below."""
    return join(_LIMIT_LO, _LIMIT_HI)


@inline
def is_negative(x):  # type: ignore[no-untyped-def]
    """x < 0"""
    return x < zero()


@inline
def magnitude(x):  # type: ignore[no-untyped-def]
    """|x|"""
    return -x if x < zero() else x


@inline
def in_range(x):  # type: ignore[no-untyped-def]
    """Whether |x| < 10^38, of an int128."""
    return x < limit() and x > -limit()


@inline
def sum_in_range(x):  # type: ignore[no-untyped-def]
    """Whether |x| < 10^38, of an int192."""
    return x < extend(limit()) and x > -extend(limit())


@inline
def add(x, y):  # type: ignore[no-untyped-def]
    """(x + y, whether it is in range), of two amounts in range."""
    total = extend(x) + extend(y)
    return narrow(total), sum_in_range(total)


@inline
def _step(u1, u0, d, inverse):  # type: ignore[no-untyped-def]
    """(q, r) of (u1·2^64 + u0) / d, with the top bit of d set and u1 < d (Möller and Granlund, algorithm 4)."""
    estimate = product64(inverse, u1) + join(u0, u1)
    q = high(estimate) + _1
    r = u0 - q * d
    if r > low(estimate):
        q -= _1
        r += d
    if r >= d:
        q += _1
        r -= d
    return q, r


@inline
def _digit(u1, u0, d1, d0):  # type: ignore[no-untyped-def]
    """One base 2^32 digit of Knuth's algorithm D: (digit, remainder) of (u1·2^32 + u0) / (d1·2^32 + d0)."""
    q = u1 // d1
    r = u1 - q * d1
    while q >= _BASE32 or q * d0 > ((r << _32) | u0):
        q -= _1
        r += d1
        if r >= _BASE32:
            break
    return q, ((u1 << _32) | u0) - q * ((d1 << _32) | d0)


@inline
def _inverse(d):  # type: ignore[no-untyped-def]
    """⌊(2^128 − 1) / d⌋ − 2^64, with the top bit of d set."""
    d1, d0 = d >> _32, d & _LOW32
    q1, r = _digit(~d, _LOW32, d1, d0)
    q0, r = _digit(r, _LOW32, d1, d0)
    return (q1 << _32) | q0


@inline
def _inverse2(d1, d0):  # type: ignore[no-untyped-def]
    """The reciprocal of a two-limb divisor with its top bit set (algorithm 6)."""
    v = _inverse(d1)
    p = d1 * v + d0
    if p < d0:
        v -= _1
        if p >= d1:
            v -= _1
            p -= d1
        p -= d1
    t = product64(v, d0)
    p += high(t)
    if p < high(t):
        v -= _1
        if not unsigned_less(join(low(t), p), join(d0, d1)):
            v -= _1
    return v


@inline
def _step2(u, u0, d, inverse):  # type: ignore[no-untyped-def]
    """(q, r) of (u·2^64 + u0) / d, of two limbs u < d with the top bit of d set (algorithm 5)."""
    estimate = product64(inverse, high(u)) + u
    q, q0 = high(estimate), low(estimate)
    r1 = low(u) - q * high(d)
    r = join(u0, r1) - product64(low(d), q) - d
    q += _1
    if high(r) >= q0:
        q -= _1
        r = r + d
    if not unsigned_less(r, d):
        q += _1
        r = r - d
    return q, r


@inline
def _product(x, y):  # type: ignore[no-untyped-def]
    """x·y of two int128 ≥ 0 as (upper, lower) 128 bits."""
    ll, lh = product64(low(x), low(y)), product64(low(x), high(y))
    hl, hh = product64(high(x), low(y)), product64(high(x), high(y))
    middle = lh + wide(high(ll))
    middle = middle + wide(low(hl))  # cannot wrap: high limbs are below 2^63
    return hh + wide(high(middle)) + wide(high(hl)), join(low(ll), low(middle))


@inline
def multiply(x, y):  # type: ignore[no-untyped-def]
    """(round(x·y / 10^18), whether it is in range): the product of two amounts, half to even."""
    upper, lower = _product(magnitude(x), magnitude(y))
    if high(upper) != _0 or (low(upper) >> _60) != _0:
        return zero(), False
    u2 = (low(upper) << _4) | (high(lower) >> _60)
    u1 = (high(lower) << _4) | (low(lower) >> _60)
    if u2 >= _SCALE:
        return zero(), False
    q1, r = _step(u2, u1, _SCALE, _SCALE_INVERSE)
    q0, r = _step(r, low(lower) << _4, _SCALE, _SCALE_INVERSE)
    q = join(q0, q1)
    rest = _SCALE - r
    if r > rest or (r == rest and (q0 & _1) == _1):
        q = q + wide(_1)
    good = not (is_negative(q) or q >= limit())
    return (-q if is_negative(x) != is_negative(y) else q), good


@kernel
def divide(x, y, d):  # type: ignore[no-untyped-def]
    """(round(x·y / d), whether it is in range), half to even, of amounts x, y ≥ 0 and d > 0."""
    upper, lower = _product(x, y)
    if not unsigned_less(upper, d):
        return zero(), False
    if high(d) == _0:
        shift = leading_zeros(low(d))
        divisor = low(d) << shift
        inverse = _inverse(divisor)
        # a shift by 64 is undefined: two halves
        u2 = (low(upper) << shift) | ((high(lower) >> _1) >> (_64 - _1 - shift))
        u1 = (high(lower) << shift) | ((low(lower) >> _1) >> (_64 - _1 - shift))
        q1, r = _step(u2, u1, divisor, inverse)
        q0, r = _step(r, low(lower) << shift, divisor, inverse)
        rest = divisor - r
        up = r > rest or (r == rest and (q0 & _1) == _1)
    else:
        shift = leading_zeros(high(d))
        back = _64 - _1 - shift
        whole = join(low(d) << shift, (high(d) << shift) | ((low(d) >> _1) >> back))
        inverse = _inverse2(high(whole), low(whole))
        u = join(
            (low(upper) << shift) | ((high(lower) >> _1) >> back),
            (high(upper) << shift) | ((low(upper) >> _1) >> back),
        )
        q1, u = _step2(u, (high(lower) << shift) | ((low(lower) >> _1) >> back), whole, inverse)
        q0, u = _step2(u, low(lower) << shift, whole, inverse)
        other = whole - u
        up = unsigned_less(other, u) or (u == other and (q0 & _1) == _1)
    q = join(q0, q1)
    if up:
        q = q + wide(_1)
    return q, not (is_negative(q) or q >= limit())


@inline
def one():  # type: ignore[no-untyped-def]
    """1, in units."""
    return wide(_ONE)
