"""Processes that outlive the command that started them, or die with it; and pid files that never name a stranger.

A pid alone is no identity: after a crash the number may belong to somebody else. A pid file therefore also holds
the moment the process started, and every question and every signal checks both.

Run as a script (by `start`) this file is the launcher: it writes the pid file, asks the kernel to be killed with its
parent if it should, and then becomes the program, under the same pid. So there is no moment at which a server runs
and no file says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1

#: PR_SET_PDEATHSIG fires when the *thread* that started the child ends; this one ends with the interpreter.
_starter = ThreadPoolExecutor(1, "starter")


@dataclass(frozen=True)
class Pid:
    """A process, named so that a reused pid is never taken for it; `port` is where it serves."""

    pid: int
    started: str
    port: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return started_at(self.pid) == self.started

    def signal(self, number: int) -> None:
        """Send a signal, if it is still the same process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def started_at(pid: int) -> str | None:
    """When a process started, as a token to compare, or None when there is no such process (or only its zombie).

    On Linux: the boot's id and the clock tick since then; elsewhere what `ps` says, to the second.
    """
    if not sys.platform.startswith("linux"):
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
        return shown.stdout.strip() or None
    try:
        # The second field is the command's name in parentheses, and may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[19]}"


def read(pid_file: Path) -> Pid | None:
    """The process that a pid file names, alive or not; None when there is no such file or it makes no sense."""
    try:
        return Pid(**json.loads(pid_file.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write(pid_file: Path, pid: Pid) -> None:
    """Write a pid file at once: a reader sees the old one or the whole new one."""
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    new = pid_file.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(vars(pid)))
    new.replace(pid_file)


class ServerError(RuntimeError):
    """A server could not be started; the message is one line and says what to do."""


class PortTaken(ServerError):
    """Somebody else listens on the port."""

    def __init__(self, port: int, title: str, option: str) -> None:
        self.port = port
        super().__init__(
            f"port {port}, wanted for {title}, is taken by another program: end that, or choose one with {option}"
        )


class RunsElsewhere(ServerError):
    """It runs already, on another port than the one asked for."""

    def __init__(self, title: str, port: int, wanted: int) -> None:
        super().__init__(f"{title} runs already, on port {port}, not {wanted}: run `assetstream down` first")


class Server:
    """A server process of ours on loopback: its files under `data_dir`, and the one way to start and end it.

    A subclass says what to run (`command`) and how to ask whether it is there (`answers`).
    """

    name: str  # of its folder, pid file and log
    title: str  # as people call it
    option: str  # of the command line, that chooses its port
    patience = 60.0  # seconds for it to answer

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir.absolute() / self.name
        self.pid_file = data_dir.absolute() / "run" / f"{self.name}.json"
        self.started = False  # by us, not found running
        self.log = data_dir.absolute() / "log" / f"{self.name}.log"

    def command(self, port: int) -> list[str]:
        """The program and its arguments; first whatever must be there before it runs."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Its environment: ours, unless it needs more."""
        return dict(os.environ)

    def answers(self, port: int) -> bool:
        """Whether it serves now; waits two seconds at most."""
        raise NotImplementedError

    @property
    def process(self) -> Pid | None:
        """The process, when it is alive."""
        pid = read(self.pid_file)
        return pid if pid is not None and pid.alive else None

    def start(self, port: int = 0, attached: bool = False) -> Pid:
        """Start it and wait until it answers; when it runs already, only wait.

        port: 0 takes a free one. attached: the kernel kills it when this process ends, however that ends (Linux);
        else it lives on. Raises ServerError: the port is taken, it ended, or it doesn't answer.
        """
        self.check(port)
        process = self.process
        if process is None or not self._answers_at_last(process):
            port = port or free_port()
            process = self._spawn(self.command(port), port, os.getpid() if attached else 0)
            self.started = True
            if process is None or not self._answers_at_last(process):
                raise ServerError(f"{self.title} ended while starting: {self._last_words()}")
        return process

    def _answers_at_last(self, process: Pid) -> bool:
        """Wait until it answers; False when it ends instead. Raises ServerError when it does neither."""
        if not wait(lambda: not process.alive or self.answers(process.port), self.patience):
            raise ServerError(f"{self.title} does not answer on port {process.port}, see {self.log}")
        return process.alive

    def check(self, port: int) -> None:
        """Raise PortTaken or RunsElsewhere when `start` could not make it serve there."""
        process = self.process
        if process is None and port and not is_free(port):
            raise PortTaken(port, self.title, self.option)
        if process is not None and port not in (0, process.port):
            raise RunsElsewhere(self.title, process.port, port)

    def stop(self, deadline: float = 20.0) -> bool:
        """End it, kindly and after `deadline` seconds by force; whether there was one to end.

        Never touches a process other than the one that the pid file was written by.
        """
        process = self.process
        if process is not None:
            process.signal(signal.SIGTERM)
            if not wait(lambda: not process.alive, deadline):
                process.signal(signal.SIGKILL)
                wait(lambda: not process.alive, 10)
        self.pid_file.unlink(missing_ok=True)
        return process is not None

    def _spawn(self, command: list[str], port: int, parent: int) -> Pid | None:
        """Run the launcher, and return when it has become the program (the pid file is there) or has failed."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.unlink(missing_ok=True)
        launch = [sys.executable, "-I", "-S", __file__, str(self.pid_file), str(port), str(parent), *command]

        def popen() -> subprocess.Popen[bytes]:
            with self.log.open("ab") as out:
                return subprocess.Popen(
                    launch,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=self.environment(),
                    start_new_session=True,
                )

        child = _starter.submit(popen).result()
        wait(lambda: self.pid_file.exists() or child.poll() is not None, 20)
        return read(self.pid_file)

    def _last_words(self) -> str:
        """The last line of the log that says something is wrong, or just the last."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()][-200:]
        bad = [line for line in lines if "ERROR" in line or "FATAL" in line or "Exception" in line]
        return f"{([*lines[-1:], *bad[-1:]] or ['it said nothing'])[-1].strip()} (all of it in {self.log})"


def free_port() -> int:
    """A loopback port that nobody listens on now, below those the kernel gives to outgoing connections."""
    return next(port for port in iter(lambda: random.randrange(20_000, 32_000), 0) if is_free(port))


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def wait(done: Callable[[], bool], seconds: float, pause: float = 0.03) -> bool:
    """Ask again and again until it is done or the time is over; whether it was done."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, waiting for whoever has it; the kernel lets go of it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (Linux; elsewhere nothing)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we asked
            sys.exit(1)


def _launch(pid_file: str, port: str, parent: str, *command: str) -> None:
    if int(parent):
        die_with(int(parent))
    write(Path(pid_file), Pid(os.getpid(), started_at(os.getpid()) or "", int(port)))
    os.execv(command[0], command)


if __name__ == "__main__":
    _launch(*sys.argv[1:])
