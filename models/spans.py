"""Memory for kernels that read bytes: windows, bare loads and stores, and the decorators they are compiled with.

A window is an address and a size: passing it on costs nothing, and eight bytes can be loaded from anywhere in it.
Kernels make windows of their array arguments, which their callers keep alive; who loads or stores keeps within bounds.

numba's cache knows only the file a function is in: after a change of this file, or of siphash, decimals or jsonscan,
what was compiled into `decode` is stale until its cache (`__pycache__/*.nb*`) is removed.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

#: decorator of functions that make no arrays: numba's reference counting stays off
kernel = njit(cache=True, nogil=True, _nrt=False)
#: the same for small steps, which LLVM inlines into their callers
inline = njit(cache=True, nogil=True, _nrt=False, forceinline=True)

#: (address, size in bytes)
Window = tuple[int, int]


@inline
def window(array: np.ndarray) -> Window:
    """The window of all of a contiguous array. It doesn't keep the array alive."""
    return array.ctypes.data, array.size * array.itemsize


def _pointer(context, builder, window, at, bits):  # type: ignore[no-untyped-def]
    address = builder.add(builder.extract_value(window, 0), at)
    return builder.inttoptr(address, ir.IntType(bits).as_pointer())


def _load(bits: int, result: types.Integer):  # type: ignore[no-untyped-def]
    @intrinsic
    def load(typingctx, data, at):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            return builder.load(_pointer(context, builder, *args, bits), align=1)

        return result(data, types.int64), codegen

    return load


#: load8(window, at): the byte at `at`
load8 = _load(8, types.uint8)
#: load64(window, at): the eight bytes from `at` as a uint64, little-endian; needs at + 8 <= size
load64 = _load(64, types.uint64)


@intrinsic
def store64(typingctx, window, at, value):  # type: ignore[no-untyped-def]
    """store64(window, at, value): the int64 into the eight bytes from `at`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        data, at, value = args
        builder.store(value, _pointer(context, builder, data, at, 64), align=1)

    return types.void(window, types.int64, types.int64), codegen


@intrinsic
def copy(typingctx, out, pos, data, at, size):  # type: ignore[no-untyped-def]
    """copy(out, pos, data, at, size): data[at : at + size] to out[pos:], arrays of bytes; no bounds are checked.

    A loop over the bytes takes four times as long, even vectorized.
    """

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        arrays = [context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2)]
        target, source = (builder.gep(a.data, [args[i]]) for a, i in zip(arrays, (1, 3), strict=True))
        cgutils.raw_memcpy(builder, target, source, args[4], 1)
        return context.get_dummy_value()

    return types.void(out, types.intp, data, types.intp, types.intp), codegen


@kernel
def load_up_to_8(data: Window, at: int, n: int) -> int:
    """The `n` (0 … 8) bytes from `at` as a uint64, little-endian, zeros above; never reads beyond the window."""
    if n <= 0:
        return np.uint64(0)
    if at + 8 <= data[1]:
        return load64(data, at) & (np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * n))
    word = np.uint64(0)
    for i in range(n):
        word |= np.uint64(load8(data, at + i)) << np.uint64(8 * i)
    return word
