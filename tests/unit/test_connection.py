"""What goes to a broker together."""

from __future__ import annotations

from assetstream.streams.batch_writer import Batch
from assetstream.streams.connection import REQUEST_BYTES, _requests


def test_requests_are_of_a_size_and_in_order() -> None:
    sizes = [REQUEST_BYTES // 2, REQUEST_BYTES // 2, 1, 3 * REQUEST_BYTES, 5, 6]
    batches = [Batch("t", k, memoryview(bytes(size)), 1) for k, size in enumerate(sizes)]
    assert [[batch.partition for batch in part] for part in _requests(batches)] == [[0, 1], [2], [3], [4, 5]]
    assert list(_requests([])) == []
