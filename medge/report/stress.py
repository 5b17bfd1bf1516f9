"""What the stress stage found: corrupted images, images that are not of the kind, and where the models look."""

from __future__ import annotations

import base64
from typing import Any

from medge.report.gather import Found
from medge.report.words import count, percent, share, signed

__all__ = ["corruptions", "left_out", "not_run", "ood", "saliency", "worst_corruption"]

SHOWN = 16  # pairs of saliency pictures in the page; all are in the stage's folder
_DEEPEST = 0.25  # a difference in AUC to clean images from which a cell is as dark as it gets


def not_run(found: Found) -> str | None:
    """What the stage was asked for and did not do, and why; None where it did all of it."""
    left = left_out(found)
    return None if left is None else f"Not tried: {'; '.join(left['what'])}. {left['why']}."


def left_out(found: Found) -> dict[str, Any] | None:
    """{"what": [words], "why": words} of what the stage was asked for and did not do; None where it did all of it."""
    left = found.stress.get("not_run")
    if isinstance(left, str):  # as an earlier medge wrote it
        left = {"what": ["what the recipe asks of stress"], "why": left.rstrip(".")}
    return left if left and left["what"] else None


def corruptions(found: Found) -> dict[str, Any] | None:
    """A row per kind, a cell per severity: AUC of the engine, of the float model, and the difference; None if absent.

    `shade` in 0..1 is how far the engine's AUC lies under its best cell: the numbers say the same without it.
    """
    document = found.stress.get("corruptions")
    if not document or not document["rows"]:
        return None
    rows = document["rows"]
    severities = sorted({row["severity"] for row in rows})
    at = {(row["kind"], row["severity"]): row for row in rows}
    best = max((row["auc_engine"] for row in rows if row["auc_engine"] is not None), default=1.0)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    return {
        "engine": found.stress["engine"],
        "reference": found.stress["reference"],
        "images": f"{document['images']:,}",
        "severities": severities,
        "rows": [
            {"kind": kind.replace("_", " "), "cells": [_cell(at.get((kind, s)), best) for s in severities]}
            for kind in kinds
        ],
    }


def _cell(row: dict[str, Any] | None, best: float) -> dict[str, Any] | None:
    if row is None:
        return None
    return {
        "engine": share(row["auc_engine"]),
        "float": share(row["auc_float"]),
        "difference": signed(row["difference"]),
        "flips": percent(row["flips"]) if isinstance(row["flips"], float) else f"{row['flips']:,}",
        "refused": None if row.get("refused_engine") is None else percent(row["refused_engine"]),
        "shade": f"{_depth(row['auc_engine'], best):.2f}",
        "worse": row["auc_engine"] is not None and row["auc_engine"] < 0.5,
    }


def _depth(auc: float | None, best: float) -> float:
    """0 for the best cell, 1 from _DEEPEST under it on; an AUC that does not exist is not drawn as a good one."""
    return 1.0 if auc is None else min(1.0, max(0.0, (best - auc) / _DEEPEST))


def worst_corruption(found: Found) -> dict[str, Any] | None:
    """The recorded row on which the engine has the lowest AUC; None where none was tried."""
    rows = [row for row in (found.stress.get("corruptions") or {}).get("rows") or [] if row["auc_engine"] is not None]
    return min(rows, key=lambda row: (row["auc_engine"], row["kind"], row["severity"])) if rows else None


def ood(found: Found) -> dict[str, Any] | None:
    """Per engine and set of images: how many are refused as not of the kind, with intervals; None if absent."""
    document = found.stress.get("ood")
    if not document:
        return None
    rows = []
    for engine, of in document["engines"].items():
        own = [("test images (should be accepted)", of["test"], False)]
        others = [(name.replace("_", " "), one, True) for name, one in of["sets"].items()]
        for name, one, foreign in (*own, *others):
            rows.append(
                {
                    "engine": engine,
                    "set": name,
                    "foreign": foreign,
                    "images": f"{one['images']:,}",
                    "refused": f"{one['refused']:,}",
                    "rate": percent(one["rate"]),
                    "interval": f"[{percent(one['lower'])}, {percent(one['upper'])}]",
                }
            )
    return {"method": document["method"], "asked": percent(document["false_refusal_rate"]), "rows": rows}


def saliency(found: Found) -> list[dict[str, Any]]:
    """Per changed decision where the float model looks and where the engine differs, as data URIs; [] if absent.

    A picture that is named and not there is left out, with its name said.
    """
    folder = found.folders.get("stress")
    if folder is None:
        return []
    rows = []
    for item in (found.stress.get("saliency") or [])[:SHOWN]:
        pictures, missing = {}, []
        for key in ("grad_cam", "difference"):
            path = folder / str(item[key])
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                pictures[key] = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            else:
                missing.append(str(item[key]))
        note = f"{count(len(missing), 'picture')} missing: {', '.join(missing)}" if missing else ""
        rows.append({"sha256": item["sha256"], "kind": item["kind"], **pictures, "note": note})
    return rows
