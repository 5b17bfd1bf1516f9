"""Figures of the report as inline SVG. Every series has its own marker or line style, so none needs its colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.report.drawing import (
    BAD,
    CHOSEN,
    INK,
    LINE,
    MARK,
    MARKERS,
    MUTED,
    POINT,
    RULE,
    new_figure,
    put_legend,
    put_title,
    svg,
)

__all__ = [
    "Curve",
    "Dot",
    "Interval",
    "Reliability",
    "differences",
    "history",
    "latency_against_auc",
    "reliability",
    "roc",
]

Floats = NDArray[np.float64]
Panel = tuple[str, Sequence[tuple[str, Sequence[float]]]]  # title, and (label, one value per epoch)


@dataclass(frozen=True)
class Curve:
    """An ROC curve: fpr and tpr [K]. `point`: (fpr, tpr) at the operating threshold. role: float, chosen or other."""

    label: str
    fpr: Floats
    tpr: Floats
    role: str
    point: tuple[float, float] | None = None


@dataclass(frozen=True)
class Interval:
    """A difference engine minus float with its bounds; None where a bound is not given."""

    label: str
    value: float
    lower: float | None
    upper: float | None
    chosen: bool


@dataclass(frozen=True)
class Dot:
    """A candidate in the plane of latency and AUC; lower is the bound of its AUC."""

    number: int
    label: str
    backend: str
    p50_ms: float
    auc: float
    lower: float
    kept: bool
    pareto: bool
    chosen: bool


@dataclass(frozen=True)
class Reliability:
    """Mean probability, share that was positive and images, per equal-mass bin [B]."""

    label: str
    believed: Floats
    happened: Floats
    count: Floats
    role: str


def roc(curves: Sequence[Curve]) -> str:
    """Two panels: the whole square, and the corner in which good models differ."""
    figure, (whole, corner) = new_figure(7.4, 3.5, columns=2)
    reach = _corner_reach(curves)
    for axes in (whole, corner):
        for curve in sorted(curves, key=lambda c: ("other", "float", "chosen").index(c.role)):
            axes.plot(curve.fpr, curve.tpr, label=curve.label, drawstyle="default", **LINE[curve.role])
            if curve.point is not None:
                axes.plot(*curve.point, linestyle="none", clip_on=False, zorder=5, **POINT[curve.role])
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")
    whole.plot([0, 1], [0, 1], color=RULE, linewidth=0.8, zorder=0)
    whole.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    corner.set(xlim=(0, reach), ylim=(1 - reach, 1), aspect="equal")
    put_title(whole, "all of it")
    put_title(corner, "the corner, enlarged")
    corner.locator_params(nbins=5)
    put_legend(whole, loc="lower right")
    return svg(figure, "ROC curves of the float model and the engines")


def differences(intervals: Sequence[Interval], *, margin: float, quantity: str) -> str:
    """One row an engine: the difference to the float model, its bounds, and the margin it must not cross."""
    figure, axes = new_figure(7.4, 0.9 + 0.3 * len(intervals))
    for row, item in enumerate(reversed(intervals)):
        colour = CHOSEN if item.chosen else INK
        low = item.value if item.lower is None else item.lower
        high = item.value if item.upper is None else item.upper
        axes.plot([low, high], [row, row], color=colour, linewidth=2.4 if item.chosen else 1.4, solid_capstyle="butt")
        axes.plot([low, low], [row - 0.16, row + 0.16], color=colour, linewidth=1.4)
        axes.plot(item.value, row, marker="D" if item.chosen else "o", color=colour, markersize=6 if item.chosen else 5)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.axvline(margin, color=BAD, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.text(
        margin,
        len(intervals) - 0.42,
        f" margin {margin:g}".replace("-", "\N{MINUS SIGN}"),
        color=BAD,
        fontsize=8.5,
        va="bottom",
    )
    axes.set_yticks(range(len(intervals)), [item.label for item in reversed(intervals)])
    axes.set_ylim(-0.6, len(intervals) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{quantity}, engine minus float")
    return svg(figure, f"Difference in {quantity} of every engine to the float model")


def latency_against_auc(dots: Sequence[Dot], *, limit_ms: float | None) -> str:
    """Candidates by median latency and AUC on validation, numbered as in the table; the stepped line is the front of
    this plane, a ring marks those on the front that counts size too."""
    figure, axes = new_figure(7.4, 3.7)
    markers = {backend: MARKERS[k % len(MARKERS)] for k, backend in enumerate(sorted({d.backend for d in dots}))}
    widest = max([d.p50_ms for d in dots] + [limit_ms or 0]) * 1.1
    kept = sorted((d for d in dots if d.kept), key=lambda d: (d.p50_ms, -d.auc))
    if kept:
        best = np.maximum.accumulate([d.auc for d in kept])
        steps = [*(d.p50_ms for d in kept), widest]
        axes.step(steps, [*best, best[-1]], where="post", color=MUTED, linestyle=(0, (3, 2)), linewidth=1, zorder=1)
    for dot in dots:
        colour = CHOSEN if dot.chosen else INK if dot.kept else MUTED
        axes.plot([dot.p50_ms] * 2, [dot.lower, dot.auc], color=colour, linewidth=0.9, alpha=0.7, zorder=2)
        axes.plot(
            dot.p50_ms, dot.auc, marker=markers[dot.backend], linestyle="none", markersize=9 if dot.chosen else 7,
            markerfacecolor=colour if dot.kept else "white", markeredgecolor=colour, zorder=3,
        )  # fmt: skip
        if dot.pareto:
            ring = {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 1}
            axes.plot(dot.p50_ms, dot.auc, marker="o", markersize=15, linestyle="none", zorder=2, clip_on=False, **ring)
    _place_labels(axes, dots)
    for dot in (d for d in dots if d.chosen):
        named = {"marker": markers[dot.backend], "linestyle": "none", "color": CHOSEN, "markersize": 8}
        axes.plot([], [], label=f"{dot.number} {dot.label}, chosen", **named)
    for backend, marker in markers.items():
        axes.plot([], [], marker=marker, linestyle="none", color=INK, label=backend)
    if any(not d.kept for d in dots):
        axes.plot([], [], marker="o", linestyle="none", markerfacecolor="white", markeredgecolor=MUTED, label="dropped")
    if limit_ms is not None:
        axes.axvline(limit_ms, color=BAD, linestyle=(0, (4, 2)), linewidth=1.2, label=f"p90 limit {limit_ms:g} ms")
    low, high = min(d.lower for d in dots), max(d.auc for d in dots)
    axes.set_xlim(0, widest)
    axes.set_ylim(low - 0.08 * (high - low), high + 0.16 * (high - low))
    axes.set_xlabel("median latency of one image, ms")
    axes.set_ylabel("AUC on validation, and its lower bound")
    figure.legend(loc="outside upper left", ncols=4, fontsize=8.5, frameon=False, labelcolor=INK, columnspacing=1.6)
    return svg(figure, "Latency against AUC of every candidate, with the Pareto front")


def reliability(series: Sequence[Reliability]) -> str:
    """Share that was positive against what was believed, by bins of equal size; the diagonal is honest."""
    figure, axes = new_figure(3.9, 3.7)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1, zorder=0)
    for one in series:
        axes.plot(one.believed, one.happened, label=one.label, clip_on=False, **(LINE[one.role] | MARK[one.role]))
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_xlabel("probability given")
    axes.set_ylabel("share that was positive")
    put_legend(axes, loc="lower right")
    return svg(figure, "Reliability of the probabilities")


def history(panels: Sequence[Panel], *, phases: Sequence[str], best: int | None) -> str:
    """A panel each for (title, series); phases: the phase of each epoch; best: the place of the epoch that was kept."""
    epochs = np.arange(1, len(phases) + 1)
    begins = [k for k, phase in enumerate(phases) if k == 0 or phase != phases[k - 1]]
    figure, axes = new_figure(7.4, 2.6, columns=len(panels))
    for panel, (title, series) in zip(np.atleast_1d(axes), panels, strict=True):
        for k, (label, values) in enumerate(series):
            look = {"color": (INK, CHOSEN)[k % 2], "linestyle": "-" if k == 0 else (0, (4, 2)), "marker": MARKERS[k]}
            panel.plot(epochs, values, label=label, markersize=3.5, linewidth=1.3, **look)
        for begin in begins[1:]:
            panel.axvline(begin + 0.5, color=MUTED, linewidth=0.8, linestyle=":")
        if best is not None:
            panel.axvline(best + 1, color=CHOSEN, linewidth=4, alpha=0.15, zorder=0)
        put_title(panel, title)
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if len(series) > 1:
            put_legend(panel, loc="best")
    return svg(figure, "Training history")


def _corner_reach(curves: Sequence[Curve]) -> float:
    """The side of the corner that holds the bend of every curve and its operating point, in tenths."""
    needed = [0.1]
    for curve in curves:
        if curve.role != "other":
            needed.append(float(np.min(np.maximum(curve.fpr, 1 - curve.tpr))) * 2.5)
            needed += [] if curve.point is None else [max(curve.point[0], 1 - curve.point[1]) * 1.3]
    return min(1.0, float(np.ceil(max(needed) * 10) / 10))


def _place_labels(axes: Any, dots: Sequence[Dot]) -> None:
    """Numbers above their dots, moved aside where two would touch."""
    widest, placed = max(d.p50_ms for d in dots), list[tuple[float, float]]()
    spread = max(d.auc for d in dots) - min(d.lower for d in dots) or 0.01
    for dot in sorted(dots, key=lambda d: (d.p50_ms, d.auc)):
        near = sum(abs(dot.p50_ms - x) < 0.03 * widest and abs(dot.auc - y) < 0.08 * spread for x, y in placed)
        placed.append((dot.p50_ms, dot.auc))
        axes.annotate(
            str(dot.number), (dot.p50_ms, dot.auc), xytext=(11 * near, 10), textcoords="offset points", ha="center",
            fontsize=9, fontweight="bold" if dot.chosen else "normal",
            color=CHOSEN if dot.chosen else INK if dot.kept else MUTED,
        )  # fmt: skip
