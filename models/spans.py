"""Loads from byte buffers for numba, without the wrap-around check of indexing: the caller keeps within bounds."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


def _load(bits: int, result: types.Integer) -> object:
    @intrinsic
    def load(typingctx, data, at):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            array = context.make_array(signature.args[0])(context, builder, args[0])
            at = builder.gep(array.data, [args[1]])
            return builder.load(builder.bitcast(at, ir.IntType(bits).as_pointer()), align=1)

        return result(data, types.int64), codegen

    return load


#: load8(data, at): the byte at `at` of a uint8 array
load8 = _load(8, types.uint8)
#: load64(data, at): the eight bytes from `at` as a uint64, little-endian; needs at + 8 <= len(data)
load64 = _load(64, types.uint64)


@njit(cache=True, nogil=True)
def load_up_to_8(data: np.ndarray, at: int, n: int) -> int:
    """The `n` (0 … 8) bytes from `at` as a uint64, little-endian, zeros above; never reads beyond the buffer."""
    if n <= 0:
        return np.uint64(0)
    if at + 8 <= len(data):
        return load64(data, at) & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * n))
    word = np.uint64(0)
    for i in range(n):
        word |= np.uint64(load8(data, at + i)) << np.uint64(8 * i)
    return word
