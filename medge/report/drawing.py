"""How the report's figures look: colours, markers and line styles, axes, and the figure as one inline SVG element."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np

__all__ = [
    "BAD",
    "CHOSEN",
    "FLOAT",
    "INK",
    "LINE",
    "MARK",
    "MARKERS",
    "MUTED",
    "POINT",
    "RULE",
    "dress",
    "new_figure",
    "put_legend",
    "put_title",
    "svg",
]

INK, MUTED, RULE = "#1b2530", "#5c6975", "#d5dbe1"
CHOSEN, FLOAT, BAD = "#0a5f8a", "#5c6975", "#a3341f"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

LINE: dict[str, dict[str, Any]] = {
    "float": {"color": FLOAT, "linestyle": (0, (5, 2)), "linewidth": 1.5},
    "chosen": {"color": CHOSEN, "linestyle": "-", "linewidth": 1.8},
    "other": {"color": "#b4bdc6", "linestyle": "-", "linewidth": 0.9},
}
POINT: dict[str, dict[str, Any]] = {
    "float": {"marker": "s", "markersize": 6.5, "markerfacecolor": "white", "markeredgecolor": FLOAT, "color": FLOAT},
    "chosen": {"marker": "o", "markersize": 7, "markerfacecolor": CHOSEN, "markeredgecolor": "white", "color": CHOSEN},
    "other": {"marker": ".", "markersize": 0, "color": "#b4bdc6"},
}
MARK: dict[str, dict[str, Any]] = {
    "float": {"marker": "s", "markersize": 4.5, "markerfacecolor": "white"},
    "chosen": {"marker": "o", "markersize": 4.5},
    "other": {},
}


def new_figure(width: float, height: float, *, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns)
    for one in np.atleast_1d(axes):
        dress(one)
    return figure, axes


def dress(one: Any) -> None:
    """Axes as every figure of a report has them."""
    for side in ("top", "right"):
        one.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        one.spines[side].set_color("#9aa5b0")
    one.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5)
    one.xaxis.label.set(color=MUTED, fontsize=9)
    one.yaxis.label.set(color=MUTED, fontsize=9)
    one.grid(color="#edf0f3", linewidth=0.7)
    one.set_axisbelow(True)


def put_title(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=9, color=MUTED, loc="left")


def put_legend(axes: Any, *, loc: str) -> None:
    axes.legend(loc=loc, fontsize=8.5, frameon=True, framealpha=0.9, edgecolor="none", labelcolor=INK, handlelength=2.4)


def svg(figure: Any, title: str) -> str:
    """The figure as an SVG element with text as text; the same figure gives the same bytes."""
    import matplotlib

    stream = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(
        r' id="(figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend|PathCollection|LineCollection)[^"]*"',
        "",
        text,
    )
    text = re.sub(
        r"font-family: [^;\"]*|(?<=font: )([\d.]+px) [^;\"]*", lambda m: f"{m[1]} inherit" if m[1] else "", text
    )
    return re.sub(
        r'<svg [^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{title}">', text, count=1
    )
