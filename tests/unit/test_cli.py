"""The command line's root: help, errors and exit codes. What each command does is tested with the real servers."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from assetstream.cli import main
from assetstream.cli.errors import told
from assetstream.models.messages import SCHEMAS
from assetstream.streams.processes import free_port

run = CliRunner().invoke


def test_help_lists_every_command_of_the_contract() -> None:
    result = run(main.app, ["--help"])
    assert result.exit_code == 0
    contract = ["demo", "up", "down", "status", "init", "worker", "simulate", "alerts", "sql", "lag", "schemas"]
    assert [name for name in main.COMMANDS if name in contract] == contract
    assert list(main.COMMANDS)[-1] == "bench"
    for name, (_, text) in main.COMMANDS.items():
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(f"  {name} ")]
        assert text[:30] in line


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_has_help(name: str) -> None:
    result = run(main.app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Usage: root {name} ")
    function = getattr(importlib.import_module(f"assetstream.cli.{main.COMMANDS[name][0]}"), name.replace("-", "_"))
    about = function.info.help if isinstance(function, typer.Typer) else function.__doc__
    assert " ".join(about.split())[:40] in " ".join(result.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from assetstream.cli.main import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([m for m in ('numba', 'numpy', 'faust', 'pyarrow', 'confluent_kafka', 'chdb') if m in sys.modules])"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert time.monotonic() - start < 10  # half a second, on a machine that is doing nothing else


def test_version() -> None:
    assert run(main.app, ["--version"]).stdout == f"assetstream {version('assetstream')}\n"


@pytest.mark.parametrize("args", [[], ["nope"], ["--nope"], ["lag", "--nope"], ["alerts", "--max", "0"], ["sql"]])
def test_wrong_use_exits_with_2(args: list[str]) -> None:
    assert run(main.app, args).exit_code == 2


@pytest.mark.parametrize("command", ["init", "lag", "alerts", "worker"])
def test_an_unknown_setting_is_one_line_and_exit_1(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSETSTREAM_PARTITION", "8")
    result = run(main.app, [command])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "unknown setting ASSETSTREAM_PARTITION, did you mean ASSETSTREAM_PARTITIONS?\n"


@pytest.mark.parametrize("command", ["lag", "alerts", "worker"])
def test_no_broker_is_one_line_and_exit_1(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assetstream.streams.admin.TIMEOUT_S", 0.5)
    monkeypatch.setenv("ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")
    result = run(main.app, [command])
    assert result.exit_code == 1
    assert result.stderr.startswith("no Kafka answers at 127.0.0.1:")
    assert result.stderr.count("\n") == 1


def test_no_clickhouse_is_one_line_and_exit_1() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-m", "assetstream.cli.main", "init"],
        env={"ASSETSTREAM_CLICKHOUSE_URL": url},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"ClickHouse at {url} does not answer")
    assert done.stderr.count("\n") == 1


def test_a_bug_is_no_plain_line() -> None:
    assert told(KeyError("x")) is None
    assert told(AssertionError("x")) is None


def test_schemas_of_all_topics_and_of_one() -> None:
    everything = json.loads(run(main.app, ["schemas"]).stdout)
    assert set(everything) == set(SCHEMAS)
    trade = json.loads(run(main.app, ["schemas", "trades"]).stdout)
    assert trade == everything["trades"]
    assert {"trade_id", "user_id", "quantity", "executed_at"} <= set(trade["required"])
    assert "fee" not in trade["required"]
    assert run(main.app, ["schemas", "nothing"]).exit_code == 2
