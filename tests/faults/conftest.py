"""One Kafka and one ClickHouse for the fault tests that harm workers only; who harms servers has some of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from assetstream.cli.stack import EmbeddedStack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """Shared: take topic prefixes and databases of your own."""
    with EmbeddedStack(tmp_path_factory.mktemp("faults")) as running:
        yield running
