"""Local snapshots: each must be a part of its changelog, byte for byte and without a hole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import TopicCollection
from rocksdict import AccessType, Options, Rdict

from assetstream.cli.audit.report import Report
from assetstream.cli.audit.states import Witness, digest
from assetstream.streams import topics
from assetstream.streams.admin import TIMEOUT_S, Admin
from assetstream.streams.settings import Settings

CHECK = "snapshots"
_META = b"meta"


@dataclass
class Kept:
    """A snapshot as it was read: digests by offset, and the next offset its owner would read."""

    topic: str
    partition: int
    digests: dict[int, bytes]
    position: int


def read_snapshots(settings: Settings, report: Report) -> list[Kept]:
    """What lies under DATA_DIR/state; a running worker's too, which goes on writing. What can't be read is reported."""
    found = []
    for name in (topics.ACCOUNT_CHANGELOG, topics.PRICE_CHANGELOG):
        topic = settings.topic(name)
        folders = sorted((settings.data_dir / "state" / topic).glob("[0-9]*"), key=lambda each: int(each.name))
        identity = _identity(settings, topic) if folders else ""
        for folder in folders:
            kept = _read(folder, name, f"{identity}/{folder.name}", report)
            if kept is not None:
                found.append(kept)
    return found


def _read(folder: Path, name: str, identity: str, report: Report) -> Kept | None:
    try:
        # Read-only takes no lock: the worker that has the folder open is not disturbed.
        db = Rdict(str(folder), Options(raw_mode=True), access_type=AccessType.read_only())
        try:
            meta = json.loads(db.get(_META) or b"{}")
            rows = {int.from_bytes(key[1:], "big"): digest(value) for key, value in db.items() if key != _META}
        finally:
            db.close()
    except Exception as error:
        report.checked[CHECK] += 1
        report.add(CHECK, str(folder), "a readable snapshot", " ".join(str(error).split()))
        return None
    if not meta:
        return None
    if meta.get("identity") != identity:
        report.notes.append(f"{folder} is the snapshot of another cluster or topic: a worker will make it anew")
        return None
    return Kept(name, int(folder.name), rows, int(meta["position"]))


def judge_snapshots(kept: list[Kept], witnesses: Mapping[str, Mapping[int, Witness]], report: Report) -> None:
    """Hold snapshots against the changelogs, read to a later end."""
    for snapshot in kept:
        log = witnesses[snapshot.topic][snapshot.partition].digests
        begin = min(log, default=0)
        ours = {offset: each for offset, each in snapshot.digests.items() if offset >= begin}
        first = min(ours, default=snapshot.position)
        theirs = {offset: each for offset, each in log.items() if first <= offset < snapshot.position}
        place = f"snapshot of {snapshot.topic}-{snapshot.partition}@"
        for offset in sorted(ours.keys() | theirs.keys()):
            report.checked[CHECK] += 1
            if offset not in ours:
                report.add(CHECK, f"{place}{offset}", "the record that the log has", "nothing")
            elif offset not in theirs:
                report.add(CHECK, f"{place}{offset}", "nothing, as in the log", "a record")
            elif ours[offset] != theirs[offset]:
                report.add(CHECK, f"{place}{offset}", "the bytes that the log has", "other bytes")


def _identity(settings: Settings, topic: str) -> str:
    admin = Admin(settings)
    cluster = admin.results({"cluster": admin.client.describe_cluster(request_timeout=TIMEOUT_S)})["cluster"]
    described = admin.results(admin.client.describe_topics(TopicCollection([topic]), request_timeout=TIMEOUT_S))
    return f"{cluster.cluster_id}/{topic}/{described[topic].topic_id}"
