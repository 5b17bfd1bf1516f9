"""Outcomes of a search, made up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medge.search_trials import Outcome
from medge.statistics.latency import Ratio

__all__ = ["outcome"]


def outcome(name: str, verdict: str, auc: float, ratio: float, **more: Any) -> Outcome:
    found = Outcome(name, name, [{"compressor": "ptq", "options": {}}], "int8", verdict, flips=0.01)
    return replace(found, auc_lower=auc, latency=Ratio(ratio, ratio * 0.98, ratio * 1.02), **more)
