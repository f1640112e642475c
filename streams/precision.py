"""The precision of assets that the setting ASSET_PRECISION names."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from assetstream.models.precision import Precision, PrecisionError, iso4217, read_precision

OFF, ISO4217 = "off", "iso4217"


@lru_cache
def precision(setting: str) -> Precision | None:
    """What the setting says; None: it is off. A file is read once in a process. Raises PrecisionError."""
    if setting == OFF:
        return None
    if setting == ISO4217:
        return iso4217()
    try:
        return read_precision(Path(setting).read_text(encoding="utf-8"), setting)
    except (OSError, UnicodeDecodeError) as error:
        raise PrecisionError(
            f"{setting}: can't be read: {error}; ASSET_PRECISION is {OFF}, {ISO4217} or a file"
        ) from error
