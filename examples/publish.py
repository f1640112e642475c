"""Publish messages from standard input: one JSON object a line, to the topic named on the command line.

    echo '{"symbol": "AAPL", …}' | python examples/publish.py prices

All that a publisher has to mind is here: the key, the partitioner, and that a message counts once it is acknowledged.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from confluent_kafka import Producer

PREFIX = os.environ.get("ASSETSTREAM_TOPIC_PREFIX", "")


def main(topic: str) -> int:
    """Publish every line; 0 when all are acknowledged, else 1 and why on stderr."""
    producer = Producer(
        {
            "bootstrap.servers": os.environ.get("ASSETSTREAM_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
            "partitioner": "murmur2_random",  # the Java client's: a user's messages must meet in one partition
            "enable.idempotence": True,  # in order, none twice
        }
    )
    failures: list[str] = []

    def delivered(error: Any, _message: Any) -> None:
        if error is not None:
            failures.append(str(error))

    for line in filter(None, map(str.strip, sys.stdin)):
        message = json.loads(line, parse_float=str)  # decimals are exact: never through a float
        key = message["symbol"] if topic == "prices" else message["user_id"]
        producer.produce(PREFIX + topic, json.dumps(message), key, on_delivery=delivered)
        producer.poll(0)
    if producer.flush(30):
        failures.append("not everything was acknowledged within 30 s")
    for failure in dict.fromkeys(failures):
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("which topic? python examples/publish.py TOPIC < messages")
    sys.exit(main(sys.argv[1]))
