"""ClickHouse on this machine without Docker: the process of `clickhouse_server.py`, started and ended."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from assetstream.streams.processes import Server


class EmbeddedClickHouse(Server):
    """The server, with its data in `DATA_DIR/clickhouse`. user and password: what its clients will have to say."""

    name, title, option = "clickhouse", "ClickHouse", "--clickhouse-port"

    def __init__(self, data_dir: Path, user: str = "default", password: str = "") -> None:
        super().__init__(data_dir)
        self._user, self._password = user, password

    def command(self, port: int) -> list[str]:
        """Python's command line."""
        return [sys.executable, "-m", "assetstream.sinks.clickhouse_server", str(self.folder), "--port", str(port)]

    def environment(self) -> dict[str, str]:
        """The login, where `ps` doesn't show it."""
        return {
            **os.environ,
            "ASSETSTREAM_CLICKHOUSE_USER": self._user,
            "ASSETSTREAM_CLICKHOUSE_PASSWORD": self._password,
        }

    def answers(self, port: int) -> bool:
        """Whether it answers a ping."""
        return answers(f"http://127.0.0.1:{port}")


def answers(url: str) -> bool:
    """Whether a ClickHouse server answers a ping within two seconds."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/ping", timeout=2) as response:
            return response.read().strip() == b"Ok."
    except (OSError, ValueError):
        return False
