"""Decision curves: what acting on the float model or the engine is worth, beside treating everyone and no one."""

from __future__ import annotations

from typing import Any

import numpy as np

from medge.report.drawing import INK, LINE, MUTED, new_figure, put_legend, svg
from medge.report.gather import Found
from medge.statistics.decision_curve import net_benefit, treat_all
from medge.statistics.scores import softmax

__all__ = ["THRESHOLDS", "benefit", "drawn"]

THRESHOLDS = np.round(np.arange(0.01, 1.0, 0.01), 2)  # the risk from which one would act


def benefit(found: Found, name: str) -> dict[str, Any] | None:
    """Net benefit on test at THRESHOLDS, of calibrated probabilities: lists of the same length; None for more than two
    classes. The prevalence is that of the test images, which need not be that of the clinic."""
    if len(found.labels) != 2:
        return None
    trial = found.judged[name]["test"]
    curves = {}
    for key, table, temperature in (
        ("float", found.images("float", "test"), trial["temperature_float"]),
        ("engine", found.images(name, "test"), trial["temperature"]),
    ):
        probabilities = softmax(table.logits / temperature)[:, 1]
        curves[key] = net_benefit(probabilities, table.labels == 1, THRESHOLDS).tolist()
    prevalence = float((found.images("float", "test").labels == 1).mean())
    everyone = treat_all(prevalence, THRESHOLDS).tolist()
    return {"engine_name": name, "prevalence": prevalence, "thresholds": THRESHOLDS.tolist(), **curves, "all": everyone}


def drawn(curves: dict[str, Any]) -> str:
    """The curves as one SVG element; below zero a curve is worse than doing nothing and is cut off."""
    figure, axes = new_figure(7.4, 2.9)
    x = curves["thresholds"]
    axes.plot(x, curves["all"], color=MUTED, linestyle=":", linewidth=1.3, label="treat everyone")
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.plot(x, curves["float"], label="float model", **LINE["float"])
    axes.plot(x, curves["engine"], label=curves["engine_name"], **LINE["chosen"])
    top = max(*curves["float"], *curves["engine"], curves["prevalence"])
    axes.set(xlim=(0, 1), ylim=(-0.08 * top, 1.08 * top))
    axes.set_xlabel("threshold probability: the risk from which one would act")
    axes.set_ylabel("net benefit")
    put_legend(axes, loc="lower left")
    return svg(figure, "Decision curves of the float model and the engine")
