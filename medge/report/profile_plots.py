"""Figures of profile.html: how latencies are spread, and how they and the machine went over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.report.drawing import BAD, INK, dress, new_figure, put_legend, svg

__all__ = ["Readings", "Timed", "distributions", "over_time"]

Floats = NDArray[np.float64]
# Of Okabe and Ito's palette for colour-blind readers; every line has a style of its own beside it.
_COLOURS = ("#0a5f8a", "#b35900", "#1c6b3c", "#7a3e8c", "#5c6975", "#a3341f", "#927100", "#1b2530")
_STYLES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))


@dataclass(frozen=True)
class Timed:
    """An engine's latencies in ms [N]; `at` [N]: seconds, or rounds."""

    label: str
    milliseconds: Floats
    at: Floats


@dataclass(frozen=True)
class Readings:
    """What the machine showed at `at` [K] seconds: each series [K], NaN where nothing; held_back: throttled then."""

    at: Floats
    temperature_c: Floats
    frequency_mhz: Floats
    power_w: Floats
    held_back: NDArray[np.bool_]


def distributions(engines: Sequence[Timed]) -> str:
    """Share of images answered within a time: one step curve an engine, on a logarithmic axis."""
    figure, axes = new_figure(7.4, 3.4)
    for number, one in enumerate(engines):
        values = np.sort(one.milliseconds)
        share = np.arange(1, values.size + 1) / values.size
        axes.step(values, share, where="post", label=one.label, **_look(number))
    axes.set_xscale("log")
    _plain_log(axes.xaxis, [one.milliseconds for one in engines])
    axes.set_ylim(0, 1.01)
    axes.set_xlim(0.92 * min(float(one.milliseconds.min()) for one in engines), _far(engines))
    axes.set_xlabel("latency of one image, ms (logarithmic; the slowest 0.2 % are outside)")
    axes.set_ylabel("share of images within it")
    put_legend(axes, loc="lower right")
    return svg(figure, "Distribution of latency of every engine")


def over_time(
    title: str, engines: Sequence[Timed], readings: Readings | None, *, unit: str = "s", tenths: bool = False
) -> str:
    """Latency over time, and beneath it what the machine showed, each quantity on a panel of its own; readings in
    which it was held back are shaded. tenths: the first and the last tenth, which are compared, are marked."""
    panels = [] if readings is None else _shown(readings)
    figure, all_axes = _stack(7.4, 2.6 + 1.15 * len(panels), rows=1 + len(panels))
    top = all_axes[0]
    for number, one in enumerate(engines):
        top.plot(one.at, one.milliseconds, label=one.label, **_look(number))
    top.set_ylabel("median of a block, ms")
    top.set_ylim(0, max(float(np.quantile(one.milliseconds, 0.995)) for one in engines) * 1.12)
    if tenths:
        _mark_tenths(top, engines[0])
    if len(engines) > 1:
        top.legend(
            loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2, fontsize=8, frameon=False, labelcolor=INK, borderpad=0
        )
    for axes, (name, values) in zip(all_axes[1:], panels, strict=True):
        if readings is not None:
            axes.plot(readings.at, values, color=INK, linewidth=1.2, marker="o", markersize=2.5)
        axes.set_ylabel(name)
        axes.margins(y=0.25)
    for axes in all_axes if readings is not None else []:
        _shade(axes, readings)
    all_axes[-1].set_xlabel("seconds" if unit == "s" else unit)
    return svg(figure, title)


def _mark_tenths(axes: Any, one: Timed) -> None:
    size = max(1, round(one.at.size * 0.1))
    for part in (slice(None, size), slice(-size, None)):
        at, level = one.at[part], float(np.median(one.milliseconds[part]))
        axes.plot([at[0], at[-1]], [level, level], color=BAD, linewidth=2.6, solid_capstyle="butt", zorder=5)


def _shade(axes: Any, readings: Any) -> None:
    """A band about every reading in which something held the machine back."""
    edges = np.concatenate([readings.at[:1], (readings.at[1:] + readings.at[:-1]) / 2, readings.at[-1:]])
    for k in np.flatnonzero(readings.held_back).tolist():
        axes.axvspan(edges[k], max(edges[k + 1], edges[k] + 0.2), color=BAD, alpha=0.14, linewidth=0)


def _shown(readings: Readings) -> list[tuple[str, Floats]]:
    found = [("°C", readings.temperature_c), ("MHz", readings.frequency_mhz), ("W", readings.power_w)]
    return [(name, values) for name, values in found if np.isfinite(values).sum() > 1]


def _stack(width: float, height: float, *, rows: int) -> tuple[Any, list[Any]]:
    """Panels under each other on one axis of time, the first one higher."""
    figure, axes = new_figure(width, height)
    if rows == 1:
        return figure, [axes]
    axes.remove()
    found = list(figure.subplots(rows, 1, sharex=True, height_ratios=[2.4, *[1.0] * (rows - 1)]))
    for one in found:
        dress(one)
    return figure, found


def _look(number: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _STYLES[number % len(_STYLES)],
        "linewidth": 1.4,
    }


def _far(engines: Sequence[Timed]) -> float:
    return max(float(np.quantile(one.milliseconds, 0.998)) for one in engines) * 1.08


def _plain_log(axis: Any, series: Sequence[Floats]) -> None:
    """1, 2, 3, 5, 10 ... instead of powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(float(s.min()) for s in series), max(float(s.max()) for s in series)
    steps = [m * 10.0**e for e in range(-3, 6) for m in (1, 1.5, 2, 3, 4, 5, 7)]
    axis.set_major_locator(FixedLocator([s for s in steps if 0.8 * low <= s <= 1.3 * high]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
