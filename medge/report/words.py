"""Numbers and verdicts as a reader wants them: sensible digits, a real minus sign, a word beside every symbol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["VERDICTS", "count", "interval", "milliseconds", "percent", "ratio", "share", "signed", "verdict_words"]

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"

# verdict: (symbol, word, class of the style sheet). The symbols differ without colour.
VERDICTS = {
    "pass": ("✓", "pass", "pass"),
    "accepted": ("✓", "accepted, although inconclusive", "unsure"),
    "inconclusive": ("?", "inconclusive", "unsure"),
    "fail": ("✕", "fail", "fail"),
}


def verdict_words(verdict: str) -> dict[str, str]:
    """{verdict, symbol, word, style} of a verdict; an unknown one is shown as it is."""
    symbol, word, style = VERDICTS.get(verdict, ("·", verdict, "none"))
    return {"verdict": verdict, "symbol": symbol, "word": word, "style": style}


def share(value: float | None, digits: int = 3) -> str:
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """With its sign; what rounds to zero has none."""
    if value is None:
        return DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    return DASH if value is None else f"{100 * value:.{digits}f} %".replace("-", MINUS)


def interval(metric: Mapping[str, Any] | None, digits: int = 3) -> str:
    """`[0.981, 0.995]`, empty where there is none."""
    if metric is None or metric.get("lower") is None or metric.get("upper") is None:
        return ""
    return f"[{share(metric['lower'], digits)}, {share(metric['upper'], digits)}]"


def milliseconds(value: float | None) -> str:
    """Three significant digits: 0.912, 9.12, 91.2, 912."""
    if value is None:
        return DASH
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def ratio(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    """`0.46 [0.45, 0.47]`; a ratio to itself is 1."""
    if value is None:
        return DASH
    if value["lower"] == value["upper"] == 1:
        return "1"
    return f"{value['ratio']:.{digits}f} [{value['lower']:.{digits}f}, {value['upper']:.{digits}f}]"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `1,387 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
