"""Kernels compiled from other sources are never used again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def cache_of(package: Path, home: Path, **extra: str) -> str:
    """Where numba caches with `package` as the models."""
    program = (
        f"import sys; sys.path.insert(0, {str(package.parent)!r}); import models, numba; print(numba.config.CACHE_DIR)"
    )
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"XDG_CACHE_HOME": str(home)} | extra
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env, check=True)
    return done.stdout.strip()


def test_any_changed_file_means_another_folder(tmp_path: Path) -> None:
    package = tmp_path / "code" / "models"
    shutil.copytree(Path(__file__).parents[2] / "models", package, ignore=shutil.ignore_patterns("__pycache__"))
    first = cache_of(package, tmp_path)
    assert first.startswith(str(tmp_path / "assetstream" / "kernels"))
    assert cache_of(package, tmp_path) == first
    with (package / "int128.py").open("a") as source:
        source.write("# changed\n")
    assert cache_of(package, tmp_path) != first
    assert cache_of(package, tmp_path, NUMBA_CACHE_DIR="/tmp/mine") == "/tmp/mine"


def test_old_versions_are_dropped(tmp_path: Path) -> None:
    package = tmp_path / "code" / "models"
    shutil.copytree(Path(__file__).parents[2] / "models", package, ignore=shutil.ignore_patterns("__pycache__"))
    kernels = tmp_path / "assetstream" / "kernels"
    for i in range(8):
        folder = kernels / f"old{i}"
        folder.mkdir(parents=True)
        os.utime(folder, (1_600_000_000 + i, 1_600_000_000 + i))
    now = cache_of(package, tmp_path)
    assert sorted(each.name for each in kernels.iterdir()) == sorted([Path(now).name, "old5", "old6", "old7"])
