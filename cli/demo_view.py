"""What `assetstream demo` shows: portfolios with P&L ticking, alerts as they come, and how the worker is doing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from assetstream.cli.alerts import line as alert_line

PORTFOLIOS_SHOWN, ALERTS_SHOWN = 12, 8


@dataclass
class Vitals:
    """How the worker is doing. Rates per second, latencies in milliseconds (None: nothing to measure yet)."""

    seconds: float = 0.0
    messages: int = 0
    rate: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    lag: int = 0
    rejected: int = 0
    rows: int = 0


@dataclass
class View:
    """The latest of everything, fed by the topics and the worker's metrics."""

    vitals: Vitals = field(default_factory=Vitals)
    portfolios: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    before: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    alerts: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=ALERTS_SHOWN))
    alert_count: int = 0

    def update(self, message: dict[str, Any]) -> None:
        """Take one of `portfolio_updates`."""
        key = message["user_id"], message["portfolio_id"]
        if key in self.portfolios:
            self.before[key] = Decimal(self.portfolios[key]["total_pnl"])
        self.portfolios[key] = message

    def alert(self, message: dict[str, Any]) -> None:
        """Take one of `risk_alerts`."""
        self.alerts.append(message)
        self.alert_count += 1

    def plain(self) -> str:
        """One line for where no terminal is."""
        v = self.vitals
        return (
            f"{v.seconds:5.0f} s  {v.messages:>9,} messages  {v.rate:>7,.0f}/s  p50 {_ms(v.p50_ms)}"
            f"  p99 {_ms(v.p99_ms)}  lag {v.lag:,}  portfolios {len(self.portfolios):,}  alerts {self.alert_count:,}"
            f"  dead letters {v.rejected:,}  ClickHouse rows {v.rows:,}"
        )

    def render(self) -> RenderableType:
        """The live screen."""
        return Group(self._vitals(), self._portfolios(), self._alerts())

    def _vitals(self) -> RenderableType:
        v = self.vitals
        return Text.assemble(
            (f" {v.rate:,.0f} messages/s ", "bold white on blue"),
            f"  latency p50 {_ms(v.p50_ms)}, p99 {_ms(v.p99_ms)}   lag {v.lag:,}   "
            f"taken {v.messages:,}   dead letters {v.rejected:,}   ClickHouse rows {v.rows:,}   {v.seconds:.0f} s",
        )

    def _portfolios(self) -> RenderableType:
        table = Table(expand=True, box=None, header_style="dim")
        table.add_column("portfolio")
        for name in ("market value", "exposure", "realized", "unrealized", "fees", "total P&L", "today"):
            table.add_column(name, justify="right")
        biggest = sorted(self.portfolios, key=lambda k: -abs(Decimal(self.portfolios[k]["gross_exposure"])))
        for key in biggest[:PORTFOLIOS_SHOWN]:
            table.add_row(*self._row(key))
        return Panel(table, title=f"portfolios, in {self._base()}", title_align="left", border_style="blue")

    def _row(self, key: tuple[str, str]) -> list[RenderableType]:
        m = self.portfolios[key]
        total = Decimal(m["total_pnl"])
        arrow = {1: "▲", 0: " ", -1: "▼"}[(total > self.before.get(key, total)) - (total < self.before.get(key, total))]
        shown = ("market_value", "gross_exposure", "realized_pnl", "unrealized_pnl", "fees")
        money = [_money(m[name]) for name in shown]
        name = f"{key[0]}/{key[1]}" + ("" if m["complete"] else f"  unpriced: {', '.join(m['unpriced'])}")
        return [name, *money, _signed(total, arrow), _signed(Decimal(m["daily_pnl"]))]

    def _base(self) -> str:
        return next((m["base_currency"] for m in tuple(self.portfolios.values())), "USD")

    def _alerts(self) -> RenderableType:
        lines = [alert_line(alert) for alert in tuple(self.alerts)] or [Text("none yet", "dim")]
        return Panel(Group(*lines), title=f"alerts ({self.alert_count:,})", title_align="left", border_style="red")


def _money(text: str) -> str:
    return f"{Decimal(text):,.2f}"


def _signed(value: Decimal, arrow: str = "") -> Text:
    return Text(f"{arrow} {value:+,.2f}".strip(), "green" if value >= 0 else "red")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"
