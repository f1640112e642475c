"""The short form of `make soak`: one round of random faults."""

from collections import Counter
from pathlib import Path

from tests.faults.campaign import one_round
from tests.faults.load import SEED, own_servers
from tests.integration.pipeline import logs_on_failure  # noqa: F401

HARM_S = 45.0


def test_a_short_campaign(tmp_path: Path) -> None:
    print(f"SEED={SEED}")
    counts: Counter[str] = Counter()
    with own_servers(tmp_path) as servers:
        messages, healed_s = one_round(servers, tmp_path, "campaign", SEED, HARM_S, print, counts)
    print(f"{dict(counts)}; {messages:,} messages; healed after {healed_s:.1f} s")
    assert counts.total() >= 3
