"""Peer: Quix Streams, exactly once, with its state store and changelog. Runs in an environment of its own.

The same work as `faust_peer.py`, by the same `fill_peer.py`.

    python quix_peer.py BROKER TRADES ALERTS GROUP FOLDER MESSAGES

prints `first TIME`, seconds since 1970, when it took the first trade; ends with a commit after MESSAGES.
"""

from __future__ import annotations

import sys

from fill_peer import LIMIT, alert, fill, say  # type: ignore[import-not-found]  # run as a script
from quixstreams import Application, State

#: a commit is Quix's checkpoint; more often costs it throughput, less often only delays readers
COMMIT_S = 1.0


def main(broker: str, trades: str, alerts: str, group: str, folder: str, messages: str) -> None:
    """Handle the messages, commit and end."""
    app = Application(
        broker_address=broker,
        consumer_group=group,
        auto_offset_reset="earliest",
        state_dir=folder,
        commit_interval=COMMIT_S,
        processing_guarantee="exactly-once",
        use_changelog_topics=True,
        loglevel="WARNING",
        # else librdkafka stalls for a second when its queue is full
        consumer_extra_config={"fetch.queue.backoff.ms": 10},
    )
    source = app.topic(trades, value_deserializer="json", key_deserializer="str")
    target = app.topic(alerts, value_serializer="json", key_serializer="str")
    handled, last = 0, int(messages)

    def book(trade: dict[str, str], state: State) -> list[dict[str, str]]:
        nonlocal handled
        if handled == 0:
            say("first")
        handled += 1
        key = f"{trade['portfolio_id']}|{trade['symbol']}"
        position, notional = fill(state.get(key), trade)
        state.set(key, position)
        if handled == last:
            app.stop()
        return [alert(trade, notional)] if notional > LIMIT else []

    app.dataframe(source).apply(book, stateful=True, expand=True).to_topic(target)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
