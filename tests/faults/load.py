"""A load that goes on until the harm is done, and what the fault tests ask of servers and logs."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from assetstream.models.market import Message
from tests.integration.pipeline import Pipeline

#: every random choice follows from it; SEED=… replays a run
SEED = int(os.environ.get("SEED", "1"))


def paced(messages: Iterable[Message], rate: float, calm: threading.Event) -> Iterator[Message]:
    """The messages at `rate` a second until it is calm; the rest of them as fast as possible."""
    began = time.monotonic()
    for sent, message in enumerate(messages):
        ahead = sent / rate - (time.monotonic() - began)
        if ahead > 0:
            calm.wait(ahead)
        yield message


def while_publishing(running: Pipeline, messages: Iterable[Message], rate: float, harm: Callable[[], object]) -> None:
    """Publish at `rate` while harm is done, the rest at once; return when all of it is processed, and known."""
    print(f"SEED={SEED}")
    calm = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        publishing = pool.submit(running.publish, paced(messages, rate, calm))
        try:
            harm()
        finally:
            calm.set()
        publishing.result()
    running.settle()
    running.feed()


def said(running: Pipeline, pattern: str) -> list[str]:
    """The lines that match in the logs of all workers."""
    logs = (worker.log.read_text(errors="replace") for worker in running.workers)
    return [line for log in logs for line in log.splitlines() if re.search(pattern, line)]
