"""Memory that a worker keeps."""

from __future__ import annotations

import subprocess
import sys

#: takes and gives back 64 MiB in pieces, again and again; prints the pages that had to be made anew meanwhile
WORK = """
import resource
import pyarrow as pa
from assetstream.streams import memory
{keep}
for turn in range(40):
    if turn == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [b"x" * (8 << 20) for _ in range(8)]
    buffers = [pa.allocate_buffer(8 << 20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, pa.default_memory_pool().backend_name)
"""


def pages(keep: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", WORK.format(keep=keep)], capture_output=True, text=True, check=True)
    count, pool = done.stdout.split()
    return int(count), pool


def test_what_was_given_back_is_taken_again() -> None:
    kept, pool = pages("memory.keep()")
    assert pool == "system"
    assert pages("")[0] > 5 * kept
