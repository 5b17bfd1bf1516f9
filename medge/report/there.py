"""What the engines did on another machine beside being measured, from its receipts: selftest, and answers to a set."""

from __future__ import annotations

from typing import Any

from medge.receipts import FOLDER, file_name
from medge.records import read_json
from medge.report.gather import Found, checked
from medge.report.words import DASH, share

__all__ = ["rows"]


def rows(found: Found) -> list[dict[str, str]]:
    """One row an engine (column -> text), the fastest first; none where this host measured. The columns of a labelled
    set are there where one was scored."""
    if "name" not in found.latency.get("device", {}):
        return []
    made = []
    for name in sorted(found.latency["engines"], key=lambda name: found.latency["engines"][name]["p50_ms"]):
        path = f"{FOLDER}/{file_name(name)}"
        if (found.folders["profile"] / path).is_file():
            made.append(read_json(checked(found.folders["profile"], path, found.records["profile"])))
    scored = any(receipt["metrics"] for receipt in made)
    return [{"engine": one["engine"], "selftest": _selftest(one), **(_score(one) if scored else {})} for one in made]


def _selftest(receipt: dict[str, Any]) -> str:
    test = receipt["selftest"]
    more = test.get("reason") or (f"{test['vectors']} images" if "vectors" in test else "")
    return f"{test['verdict']}: {more}" if more else str(test["verdict"])


def _score(receipt: dict[str, Any]) -> dict[str, str]:
    metrics = receipt["metrics"] or {}
    images = f"{metrics['images']:,} {metrics['set']}" if metrics else DASH
    accuracy, auc = share(metrics.get("accuracy")), share(metrics.get("auc"), 4)
    return {"images": images, "accuracy, most probable class": accuracy, "AUC": auc}
