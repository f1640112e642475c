"""Memory: what a position and a remembered id cost, by the arrays' sizes and by the process's resident set."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from assetstream.cli.benchmarks import core, load
from assetstream.cli.benchmarks.report import Table, Value
from assetstream.models.decode import decode_trades
from assetstream.models.fills import apply_trades
from assetstream.models.rows import Table as StateTable
from assetstream.models.state import AccountState, new_account_state
from assetstream.streams.embedded_kafka import Progress

SYMBOLS = 100
#: arrays that grow with positions, and with remembered ids
POSITION_ARRAYS = ("positions", "base", "links", "position_index")
ID_ARRAYS = ("trade_ids", "trade_index")


def run(rows: int, progress: Progress) -> list[Table]:
    """Fill `rows` positions, and a memory of `rows` ids, each in a process of its own; bytes a row."""
    table: list[tuple[Value, ...]] = []
    for what, measure, wanted in (("position", _positions, 400), ("remembered id", _ids, 40)):
        progress(f"filling {rows:,} rows: {what}", 0, 0)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            arrays, resident = pool.submit(measure, rows).result()
        table.append((what, rows, arrays / rows, resident / rows, wanted))
    note = (
        "Arrays: allocated bytes of the rows, their spare capacity (tables double) and indexes. Resident: how much the "
        "process grew, portfolios and whatever else came with them included. One partition."
    )
    columns = ("of a", "rows", "bytes, arrays", "bytes, resident", "wanted, at most")
    return [Table("memory", "Memory", columns, table, note)]


def _positions(rows: int) -> tuple[int, int]:
    """Positions by first trades that nobody remembers the ids of."""
    return _measured(lambda n: core.filled(n, SYMBOLS, id_memory=1), POSITION_ARRAYS, rows)


def _ids(rows: int) -> tuple[int, int]:
    """Trades of one position, whose ids are all remembered."""

    def fill(n: int) -> AccountState:
        state = new_account_state(b"USD", max(n, 1))
        trades = (load.trade(i, 0, 0, 10 if i % 2 else -10, 9_500) for i in range(n))
        for records in core.chunks(trades, core.CHUNK):
            batch = decode_trades(records, core.SKEW_US)
            state = apply_trades(state, batch, core.DATES.times(batch)).state
        return state

    return _measured(fill, ID_ARRAYS, rows)


def _measured(fill: Callable[[int], AccountState], arrays: tuple[str, ...], rows: int) -> tuple[int, int]:
    fill(20_000)  # compiled, and buffers that stay are made
    before = _resident()
    state = fill(rows)
    return sum(_nbytes(getattr(state, name)) for name in arrays), _resident() - before


def _nbytes(value: Any) -> int:
    if isinstance(value, StateTable):
        return sum(column.nbytes for column in value)
    assert isinstance(value, np.ndarray)
    return value.nbytes


def _resident() -> int:
    """Resident bytes of this process, freed memory given back; 0 where the system has no /proc."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what is freed
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    import resource

    return pages * resource.getpagesize()
