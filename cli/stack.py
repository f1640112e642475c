"""`assetstream up`, `down` and `status`: the embedded stack, Apache Kafka and ClickHouse on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import typer

from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
from assetstream.streams.embedded_kafka import EmbeddedKafka, Progress, silent
from assetstream.streams.processes import Server, locked
from assetstream.streams.settings import PREFIX, Settings, load

LOOPBACK = ("127.0.0.1", "localhost", "::1", "")

Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Default: the one that the settings name.")]


class EmbeddedStack:
    """Kafka and ClickHouse for one process and its children: they end when it ends, however it ends (Linux).

    data_dir: everything of theirs is in it. A port of 0 is a free one. `with EmbeddedStack(folder) as stack:` starts
    and stops it. attached=False: they live on, until `assetstream down` with this data_dir.
    """

    def __init__(
        self,
        data_dir: Path,
        kafka_port: int = 0,
        clickhouse_port: int = 0,
        user: str = "default",
        password: str = "",
        attached: bool = True,
        progress: Progress = silent,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._attached = attached
        self._user, self._password = user, password
        self._kafka = EmbeddedKafka(self.data_dir, progress)
        self._clickhouse = EmbeddedClickHouse(self.data_dir, user, password)
        self._ports: dict[Server, int] = {self._kafka: kafka_port, self._clickhouse: clickhouse_port}

    @property
    def kafka(self) -> str:
        """`host:port` of the broker."""
        return f"127.0.0.1:{self._port(self._kafka)}"

    @property
    def clickhouse(self) -> str:
        """URL of ClickHouse."""
        return f"http://127.0.0.1:{self._port(self._clickhouse)}"

    def settings(self, **more: Any) -> Settings:
        """The settings of this process's environment, pointed at this stack."""
        here = {
            "kafka_bootstrap_servers": self.kafka,
            "kafka_security_protocol": "PLAINTEXT",
            "clickhouse_url": self.clickhouse,
            "clickhouse_user": self._user,
            "clickhouse_password": self._password,
            "data_dir": self.data_dir,
        }
        return load(**{**here, **more})

    def start(self) -> Self:
        """Start what isn't running; return when both answer. Raises ServerError, and then leaves as it was."""
        with locked(self.data_dir / "run" / "lock"), ThreadPoolExecutor(2) as pool:
            for server, port in self._ports.items():
                server.check(port)
            starts = [pool.submit(server.start, port, self._attached) for server, port in self._ports.items()]
            failures = [failure for start in starts if (failure := start.exception()) is not None]
            if failures:
                self._end(started_only=True)
                raise failures[0]
        return self

    def stop(self) -> list[str]:
        """End what `start` started, and forget it; the titles of what was ended. The data stays."""
        with locked(self.data_dir / "run" / "lock"):
            return self._end(started_only=True)

    def end(self) -> list[str]:
        """End whatever of this folder runs, whoever started it; the titles of what was ended. The data stays."""
        with locked(self.data_dir / "run" / "lock"):
            return self._end(started_only=False)

    def status(self) -> dict[str, Any]:
        """What is true now: `running` only when both processes live and both answer; a pid is null without one."""
        servers = {server.name: (server, server.process) for server in self._ports}
        with ThreadPoolExecutor(2) as pool:
            running = pool.map(lambda each: each[1] is not None and each[0].answers(each[1].port), servers.values())
        return {
            "running": all(list(running)),
            "kafka": self.kafka,
            "clickhouse": self.clickhouse,
            "data_dir": str(self.data_dir),
            "pids": {name: process and process.pid for name, (_, process) in servers.items()},
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _port(self, server: Server) -> int:
        process = server.process
        return process.port if process is not None else self._ports[server]

    def _end(self, started_only: bool) -> list[str]:
        servers = [server for server in self._ports if server.started or not started_only]
        with ThreadPoolExecutor(2) as pool:
            ended = list(pool.map(Server.stop, servers))
        return [server.title for server, was in zip(servers, ended, strict=True) if was]


def up(kafka_port: Port = None, clickhouse_port: Port = None) -> None:
    """Start Apache Kafka and ClickHouse in the background, unless they run; return when both answer.

    The first start fetches Kafka's jars into the user's cache. Data is kept under ASSETSTREAM_DATA_DIR.
    """
    settings = load()
    with progress_display() as progress:
        stack = _stack(settings, kafka_port, clickhouse_port, progress).start()
    _say(stack.status())
    here = {"kafka_bootstrap_servers": stack.kafka, "clickhouse_url": stack.clickhouse}
    other = {name: value for name, value in here.items() if _port_of(getattr(settings, name)) != _port_of(value)}
    if other:
        typer.echo("The other commands need to be told:")
        for name, value in other.items():
            typer.echo(f"  export {PREFIX}{name.upper()}={value}")


def down() -> None:
    """Stop what `up` started; the data stays."""
    stopped = _stack(load()).end()
    typer.echo(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running")


def status(as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Say whether Kafka and ClickHouse run and answer, where, and where their data is."""
    state = _stack(load()).status()
    if as_json:
        typer.echo(json.dumps(state))
    else:
        _say(state)


def _stack(
    settings: Settings,
    kafka_port: int | None = None,
    clickhouse_port: int | None = None,
    progress: Progress = silent,
) -> EmbeddedStack:
    running = [server(settings.data_dir).process for server in (EmbeddedKafka, EmbeddedClickHouse)]
    kafka, clickhouse = (process.port if process else 0 for process in running)
    return EmbeddedStack(
        settings.data_dir,
        kafka_port or kafka or _port_of(settings.kafka_bootstrap_servers, 9092),
        clickhouse_port or clickhouse or _port_of(settings.clickhouse_url, 8123),
        settings.clickhouse_user,
        settings.clickhouse_password.get_secret_value(),
        attached=False,
        progress=progress,
    )


def _port_of(address: str, default: int = 0) -> int:
    """The port of `host:port` or a URL when it is one of this machine, else the default."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    return parts.port or default if parts.hostname in LOOPBACK and "," not in address else default


def _say(state: dict[str, Any]) -> None:
    for name, title in (("kafka", "Kafka"), ("clickhouse", "ClickHouse")):
        pid = state["pids"][name]
        typer.echo(f"{title:<11}{state[name]:<26}{f'process {pid}' if pid else 'not running'}")
    typer.echo(f"{'Data':<11}{state['data_dir']}")
    if all(state["pids"].values()) and not state["running"]:
        typer.echo("Not every one of them answers; see the logs there.")


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Shows what the first start fetches: a bar on a terminal, else a line now and then."""
    if not sys.stdout.isatty():

        def line(what: str, done: int, total: int) -> None:
            if done % 10 == 0 or done == total:
                typer.echo(f"{what} {done}/{total}" if total else f"{what} …")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, transient=True) as bar:
        task = bar.add_task("starting Kafka and ClickHouse", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
