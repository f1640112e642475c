"""Peer: a plain Faust agent with a table in rocksdict, as Faust's own documentation has them.

Per trade: the position of (user, portfolio, symbol) by weighted-average cost in exact decimals, its changelog, and an
alert when the notional is over the limit. At least once. Imports nothing of ours: Faust must be as it comes.

    python faust_peer.py BROKER TRADES ALERTS GROUP FOLDER MESSAGES

prints `first TIME` and `last TIME`, seconds since 1970, when it took the first and handled the MESSAGES-th trade.
"""

from __future__ import annotations

import sys

import faust
from fill_peer import LIMIT, alert, fill, say  # type: ignore[import-not-found]  # run as a script

PARTITIONS = 8


def main(broker: str, trades: str, alerts: str, group: str, folder: str, messages: str) -> None:
    """Run until ended by a signal."""
    app = faust.App(
        group,
        broker=f"kafka://{broker}",
        store="rocksdb://?driver=rocksdict",
        datadir=folder,
        topic_partitions=PARTITIONS,
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
    )
    source = app.topic(trades, value_serializer="json", key_serializer="raw", partitions=PARTITIONS)
    target = app.topic(alerts, value_serializer="json", key_serializer="raw", partitions=PARTITIONS)
    positions = app.Table("positions", partitions=PARTITIONS)
    handled, last = 0, int(messages)

    @app.agent(source)
    async def book(stream: faust.StreamT) -> None:
        nonlocal handled
        async for trade in stream:
            if handled == 0:
                say("first")
            key = f"{trade['user_id']}|{trade['portfolio_id']}|{trade['symbol']}"
            position, notional = fill(positions.get(key), trade)
            positions[key] = position
            if notional > LIMIT:
                await target.send(key=trade["user_id"].encode(), value=alert(trade, notional))
            handled += 1
            if handled == last:
                say("last")

    faust.Worker(app, loglevel="WARN").execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
