"""For tests without servers."""

from collections.abc import Iterator

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client


@pytest.fixture(scope="module")
def engine() -> Iterator[Client]:
    """ClickHouse's own engine, in this process (chDB)."""
    client = clickhouse_connect.get_client(interface="chdb")
    yield client
    client.close()
