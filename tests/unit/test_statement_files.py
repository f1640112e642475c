"""Statements from files: CSV says the same as JSON, and what is laid out wrongly is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from assetstream.cli.reconciliation.files import BadStatement, read

HEADER = (
    "kind,statement_id,broker,user_id,period_start,period_end,version,positions_complete,sections,"
    "trade_id,symbol,side,quantity,price,executed_at,fee,currency,wallet_id,asset,total"
)
STATEMENT = "statement,s-1,IBKR,alice,2026-03-02T00:00:00Z,2026-03-03T00:00:00Z,2,TRUE,balances,,,,,,,,,,,"
TRADE = "trade,,,,,,,,,t-1,SAP,BUY,12.5,241.30,2026-03-02T10:00:00+01:00,1.21,EUR,,,"
POSITION = "position,,,,,,,,,,SAP,,-12.5,,,,,,,"

JSON = """{"statement_id": "s-1", "broker": "IBKR", "user_id": "alice", "version": 2, "positions_complete": true,
 "period_start": "2026-03-02T00:00:00Z", "period_end": "2026-03-03T00:00:00Z",
 "trades": [{"trade_id": "t-1", "symbol": "SAP", "side": "BUY", "quantity": "12.5", "price": 241.3,
             "executed_at": "2026-03-02T09:00:00Z", "fee": "1.21", "currency": "EUR"}],
 "positions": [{"symbol": "SAP", "quantity": "-12.50"}], "balances": []}"""


def written(folder: Path, *lines: str, name: str = "s.csv", end: str = "\n") -> Path:
    path = folder / name
    path.write_text(end.join(lines) + end, newline="")
    return path


def test_csv_says_what_json_says(tmp_path: Path) -> None:
    of_json, value = read(written(tmp_path, JSON, name="s.json"), 0)
    assert value == (JSON + "\n").encode()
    for end in ("\n", "\r\n"):
        of_csv, _ = read(written(tmp_path, HEADER, STATEMENT, TRADE, POSITION, end=end), 0)
        assert of_csv == of_json
    assert of_json.balances == []


def test_order_spaces_quotes_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    usual, _ = read(written(tmp_path, HEADER, STATEMENT, TRADE, POSITION), 0)
    other = written(
        tmp_path, "\ufeff" + HEADER, POSITION, TRADE.replace("SAP", ' "SAP"').replace(' "SAP"', "SAP "), STATEMENT
    )
    assert read(other, 0)[0] == usual


def test_a_section_without_rows_is_there_only_if_it_is_named(tmp_path: Path) -> None:
    bare = STATEMENT.replace(",balances,", ",,").replace(",TRUE,", ",,").replace(",2,", ",,")
    found, _ = read(written(tmp_path, HEADER, bare), 0)
    assert (found.trades, found.positions, found.balances, found.version) == (None, None, None, 1)
    found, _ = read(written(tmp_path, HEADER, bare.replace("Z,,,,", "Z,,,trades positions,")), 0)
    assert (found.trades, found.positions, found.balances) == ([], [], None)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([HEADER], "no row of kind statement"),
        (["symbol,quantity", "SAP,1"], "line 1: no column kind"),
        ([HEADER + ",isin", STATEMENT + ","], "line 1: unknown column 'isin'"),
        ([HEADER + ",fee", STATEMENT + ","], "line 1: a column is there twice"),
        ([HEADER, STATEMENT, TRADE, STATEMENT], "line 4: a second row of kind statement"),
        ([HEADER, STATEMENT, "dividend" + "," * 19], "line 3: kind 'dividend' is none of statement, trade"),
        ([HEADER, STATEMENT, "trade,t-1"], "line 3: fewer cells"),
        ([HEADER, STATEMENT, TRADE + ",7"], "line 3: more cells"),
        ([HEADER, STATEMENT, POSITION.replace(",SAP", "t-1,SAP")], "line 3: a position has no trade_id"),
        ([HEADER, STATEMENT.replace(",2,", ",two,")], "line 2: version 'two' is no number"),
        ([HEADER, STATEMENT.replace("TRUE", "yes")], "line 2: positions_complete is true or false, not 'yes'"),
        ([HEADER, STATEMENT.replace(",balances,", ",cash,")], "line 2: section 'cash' is none of trades"),
        ([HEADER, STATEMENT, TRADE.replace("12.5", "12;5")], "invalid: trades.0.quantity: is no exact decimal"),
        ([HEADER, STATEMENT, TRADE, TRADE], "invalid: trades: t-1 is there twice"),
        ([HEADER, STATEMENT, TRADE.replace("03-02T10", "03-04T10")], "invalid: trades: t-1 is not of the period"),
        ([HEADER, STATEMENT.replace("03-03T", "03-01T")], "invalid: period_end: must be after period_start"),
        ([HEADER, STATEMENT.replace("2026-03-03T", "2296-03-03T")], "invalid: period_end: is too far after"),
        ([HEADER, STATEMENT, TRADE.replace("12.5", "1e20")], "out_of_range: trades.0.quantity: "),
    ],
)  # fmt: skip
def test_a_bad_file_is_told_where_and_why(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(BadStatement) as error:
        read(written(tmp_path, *lines), 0)
    assert str(error.value).startswith(str(tmp_path / "s.csv"))
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadStatement, match="No such file"):
        read(tmp_path / "none.csv", 0)
    with pytest.raises(BadStatement, match="malformed: not JSON"):
        read(written(tmp_path, "kind,symbol", name="s.json"), 0)
    (tmp_path / "s.csv").write_bytes(b"\xff")
    with pytest.raises(BadStatement, match="utf-8"):
        read(tmp_path / "s.csv", 0)
