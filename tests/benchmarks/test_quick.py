"""The small version of every benchmark that needs nothing else on the machine: it works, whatever the speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from assetstream.cli.bench import PARTS


@pytest.mark.timeout(900)
def test_every_part_gives_figures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- bench:{part} -->\n<!-- end:{part} -->\n" for part in PARTS))
    done = subprocess.run(
        [sys.executable, "-m", "assetstream.cli.main", "bench", "--quick", "--json", "--write", str(page)],
        env={**os.environ, "ASSETSTREAM_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"cores", "cpu", "memory", "python", "kafka"} <= found["machine"].keys()
    shown = {table["part"]: table for table in found["tables"]}
    assert set(shown) == set(PARTS) - {"peers"}
    for table in found["tables"]:
        assert table["rows"]
        assert all(value >= 0 for row in table["rows"] for value in row.values() if isinstance(value, int | float))
    latencies = next(t for t in found["tables"] if t["part"] == "latency")["rows"]
    assert latencies[0]["measured"] == 5_000
    assert latencies[0]["missing"] == 0
    assert "**What can be read at all**" in page.read_text()
    assert not (tmp_path / "data" / "bench" / "stack").exists()
    assert str(tmp_path) not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
