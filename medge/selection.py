"""Which candidate ships, as a pure function of verdicts, limits and latencies. Nothing here reads a test image's result
before the choice is made: candidates are judged on validation, the chosen one is then confirmed on test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from medge import plugins
from medge.errors import RecipeError
from medge.statistics.latency import Ratio

__all__ = ["Candidate", "Choice", "Limits", "choose", "scaled_threshold"]

Preference = Literal["latency", "size", "auc"]
Ratios = Mapping[tuple[str, str], Ratio]  # (a, b) -> latency of a over latency of b


@dataclass(frozen=True)
class Limits:
    """The recipe's `select.limits`; None is no limit. size_mb and memory_mb in MB of 10^6 bytes."""

    p90_ms: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    sensitivity: float | None = None


@dataclass(frozen=True)
class Candidate:
    """An engine on a device. auc, auc_lower (one-sided or 95 %, as the trial gives it), sensitivity: on validation.

    compressed: not the float variant in float32. problems: why it is dropped, empty where it is kept.
    overshoot: how far it misses in all, as shares of the limits; infinite where its verdict is fail.
    """

    name: str
    verdict: str
    auc: float
    auc_lower: float
    sensitivity: float
    p50_ms: float
    p90_ms: float | None
    bytes: int
    memory_mb: float | None
    compressed: bool
    problems: tuple[str, ...] = ()
    overshoot: float = 0.0
    pareto: bool = False

    @property
    def kept(self) -> bool:
        return not self.problems

    @property
    def size_mb(self) -> float:
        return self.bytes / 1e6


@dataclass(frozen=True)
class Choice:
    """The chosen candidate (None where none is left), the next best, every candidate as judged, and the sentence."""

    chosen: Candidate | None
    next_best: Candidate | None
    candidates: tuple[Candidate, ...]
    sentence: str


def choose(
    candidates: Sequence[Candidate], ratios: Ratios, *, prefer: Preference, limits: Limits, engine: str | None = None
) -> Choice:
    """Drops what fails, marks the Pareto front over (AUC lower bound, latency, size) and picks by preference.

    `engine` names the choice by hand; a dropped one stays dropped in the record, and the sentence says so.
    Raises RecipeError where there is no such engine.
    """
    judged = _with_front([_judged(candidate, limits) for candidate in candidates])
    kept = [c for c in judged if c.kept]
    if engine is not None:
        chosen = _named(judged, engine)
        others = [c for c in kept if c.name != engine]
        best = _best(others, ratios, prefer=prefer)
        return Choice(chosen, best, tuple(judged), _sentence_by_hand(chosen, best, ratios))
    chosen_or_none = _best(kept, ratios, prefer=prefer)
    if chosen_or_none is None:
        return Choice(None, None, tuple(judged), _sentence_for_none(judged))
    next_best = _best([c for c in kept if c is not chosen_or_none], ratios, prefer=prefer)
    sentence = _sentence(chosen_or_none, next_best, kept, ratios, prefer=prefer)
    sentence += _faster_but_dropped(chosen_or_none, judged)
    return Choice(chosen_or_none, next_best, tuple(judged), sentence)


def scaled_threshold(threshold: float, temperature: float) -> float:
    """A threshold on the plain probability as one on the probability after temperature, so that no decision changes.

    With two classes p = sigmoid(d) and after temperature sigmoid(d / T): monotone, so logit(t) / T is the same cut.
    Thresholds at or beyond 0 and 1 (all, or nothing, is positive) stay as they are.
    """
    if temperature <= 0 or not math.isfinite(temperature):
        raise ValueError(f"a temperature is a positive number, found {temperature}")
    if threshold <= 0 or threshold >= 1 or temperature == 1:
        return threshold
    logit = (math.log(threshold) - math.log1p(-threshold)) / temperature
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _judged(candidate: Candidate, limits: Limits) -> Candidate:
    problems, overshoot = [], 0.0
    if candidate.verdict == "fail":
        problems.append("it fails the gate on validation")
        overshoot = math.inf
    for label, value, limit, unit in (
        ("p90", candidate.p90_ms, limits.p90_ms, "ms"),
        ("size", candidate.size_mb, limits.size_mb, "MB"),
        ("memory", candidate.memory_mb, limits.memory_mb, "MB"),
    ):
        if limit is not None and value is None:
            problems.append(f"its {label} was not measured, and its limit is {limit:g} {unit}")
            overshoot = math.inf
        elif limit is not None and value is not None and value > limit:
            problems.append(f"its {label} {value:.3g} {unit} is over the limit of {limit:g} {unit}")
            overshoot += value / limit - 1
    if limits.sensitivity is not None and not candidate.sensitivity >= limits.sensitivity:
        problems.append(f"its sensitivity {candidate.sensitivity:.3f} is under the limit of {limits.sensitivity:g}")
        overshoot += limits.sensitivity - candidate.sensitivity if math.isfinite(candidate.sensitivity) else math.inf
    return replace(candidate, problems=tuple(problems), overshoot=overshoot)


def _with_front(judged: list[Candidate]) -> list[Candidate]:
    """`pareto` set where no kept candidate is as good in AUC lower bound, p50 and bytes, and better in one."""
    kept = [c for c in judged if c.kept]
    return [replace(c, pareto=c.kept and not any(_dominates(other, c) for other in kept)) for c in judged]


def _dominates(a: Candidate, b: Candidate) -> bool:
    at_least = a.auc_lower >= b.auc_lower and a.p50_ms <= b.p50_ms and a.bytes <= b.bytes
    return at_least and (a.auc_lower, a.p50_ms, a.bytes) != (b.auc_lower, b.p50_ms, b.bytes)


def _best(kept: Sequence[Candidate], ratios: Ratios, *, prefer: Preference) -> Candidate | None:
    """By preference; what is within noise of the fastest counts as equally fast, then the AUC lower bound, then the
    less compressed, then the smaller, then the name decides."""
    if not kept:
        return None
    if prefer == "size":
        return min(kept, key=lambda c: (c.bytes, c.p50_ms, -c.auc_lower, c.name))
    if prefer == "auc":
        return min(kept, key=lambda c: (-c.auc_lower, c.p50_ms, c.bytes, c.name))
    fastest = min(kept, key=lambda c: (c.p50_ms, c.name))
    level = [c for c in kept if c is fastest or _within_noise(c, fastest, ratios)]
    return min(level, key=lambda c: (-c.auc_lower, c.compressed, c.bytes, c.name))


def _within_noise(a: Candidate, b: Candidate, ratios: Ratios) -> bool:
    ratio = ratios.get((a.name, b.name))
    return ratio is not None and ratio.includes(1.0)


def _named(judged: Sequence[Candidate], engine: str) -> Candidate:
    for candidate in judged:
        if candidate.name == engine:
            return candidate
    names = sorted(c.name for c in judged)
    raise RecipeError(f"select.engine: no engine '{engine}' in this run.", fix=plugins.nearest(engine, names))


def _sentence(
    chosen: Candidate, next_best: Candidate | None, kept: Sequence[Candidate], ratios: Ratios, *, prefer: Preference
) -> str:
    why = {
        "latency": "the fastest",
        "size": "the smallest",
        "auc": "the one with the highest lower bound of AUC",
    }[prefer]
    fastest = min(kept, key=lambda c: (c.p50_ms, c.name))
    if prefer == "latency" and chosen.p50_ms > fastest.p50_ms:  # `_best` says what decides between them
        why = f"as fast as {fastest.name}, the fastest, within noise, and the better one otherwise,"
    if len(kept) == 1:
        return f"{_described(chosen)} is the only candidate that fails neither the gate on validation nor a limit."
    among = f"of {len(kept)} candidates that fail neither the gate on validation nor a limit"
    return f"{_described(chosen)} is {why} {among}; {_cost(next_best, chosen, ratios)}."


def _faster_but_dropped(chosen: Candidate, judged: Sequence[Candidate]) -> str:
    """Names the fastest of the faster candidates that were dropped, with the reason; empty where there is none."""
    faster = [c for c in judged if not c.kept and c.p50_ms < chosen.p50_ms]
    if not faster:
        return ""
    best = min(faster, key=lambda c: (c.p50_ms, c.name))
    return f" {best.name} would be faster ({best.p50_ms:.3g} ms), but {' and '.join(best.problems)}."


def _sentence_by_hand(chosen: Candidate, best: Candidate | None, ratios: Ratios) -> str:
    faults = f", although {' and '.join(chosen.problems)}" if chosen.problems else ""
    return f"{_described(chosen)} was chosen by hand{faults}; {_cost(best, chosen, ratios)}."


def _sentence_for_none(judged: Sequence[Candidate]) -> str:
    nearest = min(judged, key=lambda c: (c.overshoot, len(c.problems), c.name))
    return f"No candidate is left; the nearest miss is {_described(nearest)}: {'; '.join(nearest.problems)}."


def _described(candidate: Candidate) -> str:
    numbers = (
        f"{candidate.p50_ms:.3g} ms, {candidate.size_mb:.3g} MB, AUC on validation at least {candidate.auc_lower:.3f}"
    )
    if candidate.verdict == "inconclusive":
        numbers += ", inconclusive on validation"
    return f"{candidate.name} ({numbers})"


def _cost(other: Candidate | None, chosen: Candidate, ratios: Ratios) -> str:
    """What taking `other` instead would change: latency with its interval, size, AUC lower bound."""
    if other is None:
        return "there is no other candidate"
    ratio = ratios.get((other.name, chosen.name))
    factor = other.p50_ms / chosen.p50_ms if ratio is None else ratio.ratio
    digits = 2 if factor < 10 else 1
    interval = "" if ratio is None else f" [{ratio.lower:.{digits}f}, {ratio.upper:.{digits}f}]"
    size = other.size_mb - chosen.size_mb
    auc = other.auc_lower - chosen.auc_lower
    change = f"{'raise' if auc >= 0 else 'lower'} the bound of AUC on validation by {abs(auc):.4f}"
    if abs(auc) < 0.00005:
        change = "leave the bound of AUC on validation as it is"
    return (
        f"the next best, {other.name}, would take {factor:.{digits}f}{interval} times as long, "
        f"{'add' if size >= 0 else 'save'} {abs(size):.2g} MB "
        f"and {change}"
    )
