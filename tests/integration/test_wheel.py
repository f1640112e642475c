"""The wheel holds every package: an editable install would hide one that pyproject.toml doesn't list."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).parents[2]
ROOMS = ("agents", "cli", "models", "sinks", "streams", "tables")


def test_the_wheel_holds_every_module(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("assetstream-*.whl")
    held = set(ZipFile(wheel).namelist())
    modules = {f"assetstream/{path.relative_to(source)}" for room in ROOMS for path in (source / room).rglob("*.py")}
    assert len(modules) > 50
    assert modules - held == set()
    assert "assetstream/__init__.py" not in held  # a namespace: an __init__ there would hide the editable rooms
    entry_points = next(name for name in held if name.endswith("entry_points.txt"))
    assert "assetstream = assetstream.cli.main:app" in ZipFile(wheel).read(entry_points).decode()
