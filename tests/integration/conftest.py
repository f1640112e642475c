"""The real Kafka and the real ClickHouse engine, started once for all integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from assetstream.cli.stack import EmbeddedStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Kafka and ClickHouse on free ports, in a folder of their own; ended with the tests.

    `stack.kafka` is host:port, `stack.clickhouse` a URL, `stack.settings(topic_prefix=…)` Settings that point there.
    Tests share it: take topic prefixes and databases of your own.
    """
    with EmbeddedStack(tmp_path_factory.mktemp("stack")) as running:
        yield running
