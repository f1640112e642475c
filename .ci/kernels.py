"""Let the checkout use the kernels that the wheel's demo compiled: over a minute less for the same machine code.

Numba keeps kernels by the folder of their source, and uses them only for the very text they were compiled from.

    python .ci/kernels.py CHECKOUT    with the Python that the wheel is installed for
"""

import os
import shutil
import sys
from pathlib import Path

from numba.core.caching import _CacheLocator

import assetstream.models  # points numba to where it keeps them


def kept(room: Path) -> Path:
    """Where numba keeps the kernels of a folder's files."""
    return Path(os.environ["NUMBA_CACHE_DIR"], _CacheLocator.get_suitable_cache_subpath(str(room / "any.py")))


installed, checkout = Path(assetstream.models.__file__).parents[1], Path(sys.argv[1]).resolve()
for room in sorted(installed.iterdir()):
    if "NUMBA_CACHE_DIR" in os.environ and kept(room).exists():
        shutil.copytree(kept(room), kept(checkout / room.name), dirs_exist_ok=True)
