"""The fenced blocks of README.md and docs/, for the tests that run them and hold their tables against the code.

A block's language says who runs it, the words behind it how:

    bash             by the shell, in order, in one folder; must exit with 0
    bash background  a worker: started, awaited until it is ready, ended with SIGTERM before the blocks marked `last`
    bash last        after all other blocks of all documents
    bash make        `make` targets, run by .ci/run; must be in the Makefile
    python, sql      as a program; by `assetstream sql`, must give a row
    text output      what the block before it prints, exactly
    json topic=T     a message of topic T, held against its model
    dotenv           settings, held against streams/settings.py
    console, text    not run: what can't run here (Docker, clusters) and says so, pictures, listings
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: docs/benchmarks.md is written by `assetstream bench`, whose own tests run it
DOCUMENTS = (ROOT / "README.md", *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.name != "benchmarks.md"))
RUN = ("bash", "python", "sql")
LANGUAGES = (*RUN, "text", "json", "dotenv", "console")

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One fenced block. `where` is `file:line` of its fence, `words` what follows the language."""

    document: str
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def where(self) -> str:
        """As pytest shows it."""
        return f"{self.document}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    text = path.read_text()
    found = []
    for match in _FENCE.finditer(text):
        language, *words = match[1].split() or [""]
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(str(path.relative_to(ROOT)), line, language, tuple(words), match[2]))
    return found


def all_blocks() -> list[Block]:
    """Those of all documents, the README's first."""
    return [block for path in DOCUMENTS for block in blocks(path)]


def table(path: Path, heading: str) -> list[list[str]]:
    """The first table below a heading: its rows without the header, each cell's text without backticks."""
    text = path.read_text()
    section = re.split(r"^#+ ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines[2:]]
