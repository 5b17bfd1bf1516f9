"""The flip ledger with its pictures, small enough to travel inside the page."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from medge.report.gather import Found
from medge.report.words import share

__all__ = ["SHOWN", "flips"]

SHOWN = 48  # the rest is in trials.json, and the page says so
_SIDE = 112  # px; drawn at half of it on a fine screen


def flips(found: Found, name: str, split: str) -> list[dict[str, Any]]:
    """The first SHOWN rows of an engine's ledger (new misses first), each with its picture as a data URI."""
    rows = found.judged[name][split]["flips"]["rows"][:SHOWN]
    index = {} if found.data is None else {sha256: k for k, sha256 in enumerate(found.data.sha256s)}
    labels = found.labels
    return [
        {
            **row,
            "style": "new" if row["kind"].startswith("new") else "corrected",
            "truth": labels[row["label"]],
            "before": labels[row["decision_float"]],
            "after": labels[row["decision_engine"]],
            "p_before": share(row["probability_float"]),
            "p_after": share(row["probability_engine"]),
            "picture": _picture(found, index.get(row["sha256"])),
            "path": "" if found.data is None or row["sha256"] not in index else found.data.paths[index[row["sha256"]]],
        }
        for row in rows
    ]


def _picture(found: Found, row: int | None) -> str | None:
    """A JPEG of the image as the engine saw it, as a data URI; None where the data stage has no such image."""
    if row is None or found.data is None:
        return None
    image = Image.fromarray(np.ascontiguousarray(found.data.read([row])[0]))
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
