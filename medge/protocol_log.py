"""Which protocols have seen a run's test images: `runs/<name>/protocols.json`, only ever added to.

A margin that is loosened after the test images were judged is not forbidden, but it can be seen: in the report, in the
bundle's manifest and when it happens. The file finds a change of mind, not a deceiver, who would delete it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from medge.records import read_json, write_json

__all__ = ["FILE", "add", "caution", "seen"]

FILE = "protocols.json"


def add(run: Path, protocol: Mapping[str, Any], sha256: str, *, data_sha256: str) -> list[dict[str, Any]]:
    """Notes that test images of this data were judged under this protocol; the same pair is noted once. Returns what
    `seen` returns."""
    entries = _read(run)
    if not any((e["protocol_sha256"], e["data_sha256"]) == (sha256, data_sha256) for e in entries):
        entry = {
            "protocol_sha256": sha256,
            "data_sha256": data_sha256,
            "date": datetime.now(timezone.utc).date().isoformat(),
            "protocol": dict(protocol),
        }
        write_json(run / FILE, [*entries, entry])
    return seen(run, data_sha256)


def seen(run: Path, data_sha256: str) -> list[dict[str, Any]]:
    """The protocols under which this data's test images were judged, oldest first: protocol_sha256, data_sha256, date,
    protocol."""
    return [entry for entry in _read(run) if entry["data_sha256"] == data_sha256]


def caution(entries: list[dict[str, Any]]) -> str | None:
    """What a reader must know where there was more than one protocol: which keys changed, from first to last."""
    if len(entries) < 2:
        return None
    first, last = _flat(entries[0]["protocol"]), _flat(entries[-1]["protocol"])
    keys = [key for key in sorted({*first, *last}) if first.get(key) != last.get(key)]
    changed = [f"{key} {first.get(key)} -> {last.get(key)}" for key in keys]
    words = f", from first to last: {', '.join(changed)}" if changed else ", the last being the first again"
    return (
        f"These test images were judged under {len(entries)} protocols{words}. A verdict under a protocol that was "
        "changed after the test images were seen is not independent of them."
    )


def _read(run: Path) -> list[dict[str, Any]]:
    path = run / FILE
    found: list[dict[str, Any]] = read_json(path) if path.is_file() else []
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return found
