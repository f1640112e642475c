"""`up`, `down` and `status`: the real servers, started, crashed and ended as an operator would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from assetstream.streams import processes
from assetstream.streams.processes import Pid, free_port


class Cli:
    """The command, run as its own process in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "state"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ASSETSTREAM_")}
        return subprocess.Popen(
            [sys.executable, "-m", "assetstream.cli.main", *arguments],
            cwd=self.folder,
            env={**clean, "ASSETSTREAM_DATA_DIR": str(self.data_dir)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, out + err
        return out, err

    def status(self) -> dict[str, Any]:
        return json.loads(self("status", "--json")[0])


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path)
    yield cli
    cli("down")


def kill(pid: int) -> None:
    started = processes.started_at(pid)
    os.kill(pid, signal.SIGKILL)
    assert processes.wait(lambda: processes.started_at(pid) != started, 10)


def sql(url: str, text: str) -> str:
    with urllib.request.urlopen(url, data=text.encode(), timeout=30) as response:
        return response.read().decode().strip()


def write_a_record(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(30)
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "writer"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce("kept", b"a record")
    producer.commit_transaction(30)


def read_a_record(servers: str) -> bytes | None:
    config = {"bootstrap.servers": servers, "group.id": "reader", "auto.offset.reset": "earliest"}
    consumer = Consumer({**config, "isolation.level": "read_committed"})
    consumer.subscribe(["kept"])
    message = consumer.poll(30)
    consumer.close()
    return message.value() if message is not None else None


def test_a_life_of_the_stack(cli: Cli) -> None:
    kafka_port, clickhouse_port = free_port(), free_port()
    kafka, clickhouse = f"127.0.0.1:{kafka_port}", f"http://127.0.0.1:{clickhouse_port}"
    ports = ("--kafka-port", str(kafka_port), "--clickhouse-port", str(clickhouse_port))
    nothing = {"kafka": None, "clickhouse": None}

    assert cli.status() == {
        "running": False,
        "kafka": "127.0.0.1:9092",
        "clickhouse": "http://127.0.0.1:8123",
        "data_dir": str(cli.data_dir),
        "pids": nothing,
    }

    # two at once: one starts it, the other finds it running
    both = [cli.start("up", *ports) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0], [process.stderr.read() for process in both]  # type: ignore[union-attr]
    state = cli.status()
    pids = state["pids"]
    assert state == {
        "running": True,
        "kafka": kafka,
        "clickhouse": clickhouse,
        "data_dir": str(cli.data_dir),
        "pids": pids,
    }
    command_lines = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
    servers = [line for line in command_lines.splitlines() if str(cli.data_dir) in line]
    assert len(servers) == 2, servers

    write_a_record(kafka)
    sql(clickhouse, "CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
    sql(clickhouse, "INSERT INTO kept VALUES (7)")

    # up again: nothing changes, with and without ports; but it will not move to another port
    cli("up", *ports)
    out, _ = cli("up")
    assert f"export ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS={kafka}" in out
    assert cli.status()["pids"] == pids
    _, err = cli("up", "--kafka-port", str(free_port()), code=1)
    assert "assetstream down" in err

    # a crash is seen, and up starts only what is gone
    kill(pids["clickhouse"])
    state = cli.status()
    assert (state["running"], state["pids"]) == (False, {"kafka": pids["kafka"], "clickhouse": None})
    cli("up", *ports)
    again = cli.status()
    assert again["running"]
    assert again["pids"]["kafka"] == pids["kafka"]
    assert again["pids"]["clickhouse"] not in (None, pids["clickhouse"])

    assert cli("down")[0] == "stopped Kafka and ClickHouse\n"
    assert cli.status()["pids"] == nothing
    assert all(processes.started_at(pid) is None for pid in again["pids"].values())
    assert cli("down")[0] == "nothing was running\n"

    # the data is still there, on other ports too
    cli("up", "--kafka-port", str(free_port()), "--clickhouse-port", str(free_port()))
    state = cli.status()
    assert read_a_record(state["kafka"]) == b"a record"
    assert sql(state["clickhouse"], "SELECT a FROM kept") == "7"


def test_a_taken_port_is_one_clear_line(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        out, err = cli("up", "--kafka-port", str(free_port()), "--clickhouse-port", str(port), code=1)
    assert out == ""
    assert err == (
        f"port {port}, wanted for ClickHouse, is taken by another program: "
        "end that, or choose one with --clickhouse-port\n"
    )
    assert cli.status()["pids"] == {"kafka": None, "clickhouse": None}


def test_a_reused_pid_is_never_taken_for_ours(cli: Cli) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        started = processes.started_at(stranger.pid)
        assert started is not None
        boot, _, tick = started.partition("/")
        for earlier in (f"{boot}/{int(tick) - 1}", f"00000000-0000-0000-0000-000000000000/{tick}"):
            processes.write(cli.data_dir / "run" / "kafka.json", Pid(stranger.pid, earlier, 9092))
            assert cli.status()["pids"]["kafka"] is None
            assert cli("down")[0] == "nothing was running\n"
            assert stranger.poll() is None
        processes.write(cli.data_dir / "run" / "kafka.json", Pid(stranger.pid, started, 9092))
        assert cli("down")[0] == "stopped Kafka\n"  # so the check above could have failed
        assert stranger.wait(5) == -signal.SIGTERM
    finally:
        stranger.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's parent death signal")
def test_attached_servers_die_with_their_parent(tmp_path: Path) -> None:
    # from a thread that has ended since, which alone must not end the server
    code = """if True:
        import pathlib, sys, threading, time
        from assetstream.sinks.embedded_clickhouse import EmbeddedClickHouse
        server = EmbeddedClickHouse(pathlib.Path(sys.argv[1]))
        thread = threading.Thread(target=server.start, kwargs={"attached": True})
        thread.start(); thread.join(); time.sleep(0.5)
        print(server.process.pid, server.answers(server.process.port), flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid, answered = parent.stdout.readline().split()
    assert answered == "True"
    assert processes.started_at(int(pid)) is not None
    parent.kill()
    parent.wait()
    assert processes.wait(lambda: processes.started_at(int(pid)) is None, 10)
