"""Memory that is used again.

A checkpoint under load takes tens of megabytes for some milliseconds. The C library would give them back to the system
after each, which then clears every page of the next one's: a third of a worker's time.
"""

from __future__ import annotations

import ctypes

import pyarrow as pa

#: of mallopt(3), glibc: what is free at the end of the heap and isn't given back, what is asked for beside what is
#: needed, and from which size on memory is mapped apart (the most that it allows; tables of the state are larger)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = {M_TRIM_THRESHOLD: 512 << 20, M_TOP_PAD: 16 << 20, M_MMAP_THRESHOLD: 32 << 20}


def keep() -> None:
    """Have this process keep the memory of its large, short-lived buffers, and Arrow use it too; on glibc only."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in KEPT.items():
        mallopt(parameter, value)
    pa.set_memory_pool(pa.system_memory_pool())
