"""Settings of post-training quantisation, tried one after the other and chosen by what they do to validation images.

A setting's loss is the mean Kullback-Leibler divergence of its logits from the float model's. The list is fixed, so
that a search is repeatable: the setting that was asked for, then changes of one option each, on top of the best so far.
Not among them: accurate bias correction, which NNCF 3.4 refuses for a torch module, and SmoothQuant, which it runs only
for what it is told is a transformer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from medge.records import read_json, write_json
from medge.rollback_trials import divergence

if TYPE_CHECKING:
    from torch import nn

    from medge.compressors import Context

__all__ = ["CHANGES", "best_setting"]

# In the order of what they cost: the first six take as long as any quantisation, a histogram is slower to gather.
CHANGES: tuple[dict[str, Any], ...] = (
    {"range_estimator": "mean_minmax"},
    {"range_estimator": "minmax"},
    {"bias_correction": False},
    {"overflow_fix": "disable"},
    {"se_in_float": True},
    {"preset": "mixed"},
    {"range_estimator": "mean_quantile"},
    {"range_estimator": "histogram"},
)
IMAGES = 256  # validation images that a setting is judged on


def best_setting(
    options: Any, quantised: Callable[[Any], nn.Module], context: Context, *, settings: int
) -> tuple[Any, nn.Module]:
    """The best of at most `settings` settings, and its model; ties go to the earlier one.

    `quantised` makes a model from options. What was measured is kept in `context.work`/settings.json and counts, so
    that an interrupted search goes on and ends the same; a change that leaves a setting as it is, or makes one that was
    tried, does not count. Each setting is a sentence of the log.
    """
    path = context.work / "settings.json"
    losses: dict[str, float] = read_json(path) if path.is_file() else {}
    best, kept = options, None
    tried: set[str] = set()
    for change in ({}, *CHANGES, *_sizes(options.subset_size, len(context.calibration))):
        if len(tried) >= settings:
            break
        setting = _changed(best, change)
        name = repr(setting)
        if setting is None or name in tried:
            continue
        tried.add(name)
        model = None
        if name not in losses:
            model = quantised(setting)
            losses[name] = _loss(model, context)
            write_json(path, losses)
        better = not change or losses[name] < losses[repr(best)]
        words = ", ".join(f"{key} {value}" for key, value in change.items()) or "as asked for"
        context.log.append(
            f"ptq setting ({words}): divergence {losses[name]:.3g} on validation images{_verdict(change, better)}."
        )
        if better:
            best, kept = setting, model
    return best, kept if kept is not None else quantised(best)


def _sizes(asked: int, listed: int) -> list[dict[str, Any]]:
    """Other numbers of calibration images: a quarter of those used, and all that are listed where that is more."""
    used = min(asked, listed)
    return [{"subset_size": size} for size in (used // 4, listed) if size not in (0, used)]


def _verdict(change: dict[str, Any], better: bool) -> str:
    return "" if not change else "; kept" if better else "; not better"


def _changed(options: Any, change: dict[str, Any]) -> Any | None:
    """None where the change does not go with the other options."""
    try:
        return dataclasses.replace(options, **change)
    except ValueError:
        return None


def _loss(model: nn.Module, context: Context) -> float:
    from medge.model import predict

    rows = context.data.indices("validation")
    rows = np.sort(np.random.default_rng(context.seed).permutation(rows)[:IMAGES])
    logits, aim = (
        predict(m, context.data, rows, description="ptq setting").astype(np.float64) for m in (model, context.teacher)
    )
    return divergence(logits, aim)
