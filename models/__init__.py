"""The pure core: messages, exact decimals, kernels, rules. No I/O, no clock, no Kafka.

Compiled kernels are kept per version of *all* these files: numba looks only at the file a kernel is defined in, and
would go on using one that has an older `int128` inlined. A wrong number that survives an upgrade is the worst we could
do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

#: versions whose kernels are kept on disk
KEPT = 4


def _keep_kernels_by_version() -> None:
    """Point numba's cache to a folder named after the contents of this package; leave it alone where it is set."""
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        if not source.name.startswith("reference"):  # has no kernels, and none has anything of it
            digest.update(source.name.encode() + source.read_bytes())
    try:
        kernels = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "assetstream" / "kernels"
        folder = kernels / digest.hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        for old in sorted(kernels.iterdir(), key=lambda each: -each.stat().st_mtime)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except OSError:
        return  # no home to write to: numba finds a place of its own, or compiles anew each time
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(folder)


_keep_kernels_by_version()
