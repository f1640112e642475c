"""Results as tables: for a terminal, as JSON, and in the page `docs/benchmarks.md` between its markers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from rich.console import Console

Value = str | int | float | bool | None


class BenchError(RuntimeError):
    """A benchmark could not be taken, or what it measured did not do its work; the text says which and why."""


@dataclass(frozen=True)
class Table:
    """One table of results. `part` names the benchmark, and the place in the page where the table belongs."""

    part: str
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[Value, ...]]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As `--json` prints it: rows by column."""
        rows = [dict(zip(self.columns, row, strict=True)) for row in self.rows]
        return {"part": self.part, "title": self.title, "rows": rows, "note": self.note}

    def show(self, console: Console) -> None:
        """Print it."""
        shown = rich.table.Table(title=self.title, caption=self.note or None, title_justify="left")
        shown.caption_justify = "left"
        for k, column in enumerate(self.columns):
            shown.add_column(column, justify="right" if self._is_number(k) else "left")
        for row in self.rows:
            shown.add_row(*map(text, row))
        console.print(shown)

    def markdown(self) -> str:
        """As a table of the page, its title before it and its note behind."""
        rule = ["---:" if self._is_number(k) else "---" for k in range(len(self.columns))]
        lines = [self.columns, rule, *([text(value) for value in row] for row in self.rows)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"**{self.title}**\n\n{table}\n" + (f"\n{self.note}\n" if self.note else "")

    def _is_number(self, k: int) -> bool:
        return any(isinstance(row[k], int | float) and not isinstance(row[k], bool) for row in self.rows)


def text(value: Value) -> str:
    """A value as people read it: three figures of a fraction, thousands apart."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def write(page: Path, tables: Sequence[Table], machine: str) -> None:
    """Put the tables into the page, each part's between `<!-- bench:PART -->` and `<!-- end:PART -->`.

    What the page has of other parts stays, with the machine and date it was taken on. Raises BenchError when the page
    lacks a part's markers, and changes nothing then.
    """
    if not page.is_file():
        raise BenchError(f"{page} is not there: `--write` renews the tables of a page that exists")
    content = page.read_text(encoding="utf-8")
    for part in dict.fromkeys(table.part for table in tables):
        shown = "\n".join(table.markdown() for table in tables if table.part == part)
        block = f"<!-- bench:{part} -->\n{shown}\n{machine}\n<!-- end:{part} -->"
        place = re.search(rf"<!-- bench:{part} -->.*?<!-- end:{part} -->", content, re.DOTALL)
        if place is None:
            raise BenchError(f"{page} has no <!-- bench:{part} --> … <!-- end:{part} -->: where should its tables go?")
        content = content[: place.start()] + block + content[place.end() :]
    page.write_text(content, encoding="utf-8")
