"""Files that operators write: TOML, or JSON when their name ends so."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any


def read_document(
    text: str,
    name: str,
    broken: type[ValueError],
    parse_float: Callable[[str], Any] = float,
    parse_int: Callable[[str], Any] = int,
) -> Any:
    """What the text of file `name` says; `parse_int` is asked in JSON only.

    Raises `broken`, which says the file and the place in it.
    """
    try:
        if name.endswith(".json"):
            constant = None if parse_float is float else parse_float  # NaN and Infinity
            return json.loads(text, parse_float=parse_float, parse_int=parse_int, parse_constant=constant)
        return tomllib.loads(text, parse_float=parse_float)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise broken(f"{name}: {error}") from error
