"""The verdict tables that a person sees, readable without colour."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from medge import console
from medge.gate import Check
from medge.metrics import Metric
from medge.trial import Trial

__all__ = ["checks_table", "reasons", "verdict_table"]

_SHORT = {"auc": "AUC", "sensitivity": "sens.", "specificity": "spec.", "f1": "F1"}
_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}


def verdict_table(trials: Mapping[str, Trial], *, title: str) -> Table:
    """Verdict, AUC, sensitivity, specificity (or accuracy), F1 and flips of each engine; 80 columns carry it."""
    binary = all(len(trial.images) == 2 for trial in trials.values())
    shown = ["auc", "sensitivity", "specificity", "f1"] if binary else ["auc", "accuracy", "f1"]
    columns = ["engine", "verdict", *(_SHORT.get(name, name) for name in shown), "flips"]
    table = console.table(columns, left=("engine", "verdict"), whole=columns, title=f"{title} images")
    for name, trial in trials.items():
        values = [f"{metric.value:.4f}" if metric.value is not None else "-" for metric in _metrics(trial, shown)]
        verdict = f"[{_STYLES[trial.verdict]}]{trial.verdict}[/]"
        table.add_row(name, verdict, *values, f"{100 * trial.flips['rate']:.2f}%")
    return table


def checks_table(trial: Trial) -> Table:
    """Every check of the gate: engine minus float, the bounds that decide, the margin and the verdict."""
    columns = ("engine minus float", "difference", "bounds", "margin", "verdict")
    table = console.table(columns, left=("engine minus float", "verdict"), whole=columns)
    for check in trial.checks:
        limited = check.quantity in ("flips", "ece")
        lower, upper = _decided(check)
        bounds = "-" if lower is None else f"[{lower:+.4f}, {upper:+.4f}]"
        margin = f"{'<=' if limited else '>'} {check.margin:g}"
        verdict = f"[{_STYLES[check.verdict]}]{check.verdict}[/]"
        table.add_row(check.quantity.replace("_", " "), f"{check.difference:+.4f}", escape(bounds), margin, verdict)
    return table


def reasons(trial: Trial, *, most: int = 3) -> str:
    """What did not pass, failures first, at most `most` of them and how many more, then the notes; empty where all
    is well."""
    order = ("fail", "inconclusive")
    wanting = sorted((c for c in trial.checks if c.verdict != "pass"), key=lambda check: order.index(check.verdict))
    said = [_reason(check) for check in wanting[:most]]
    if len(wanting) > most:
        said.append(f"and {len(wanting) - most} more")
    return "; ".join([*said, *(note.removesuffix(".") for note in trial.notes)])


def _reason(check: Check) -> str:
    name = check.quantity.replace("_", " ")
    if check.quantity in ("flips", "ece"):
        return f"{name} {check.difference:.4f} is over {check.margin:g}"
    lower, upper = _decided(check)
    bounds = "" if lower is None else f" [{lower:+.4f}, {upper:+.4f}]"
    text = f"{name} {check.difference:+.4f}{bounds} against {check.margin:g}"
    if check.verdict == "fail":
        return text
    if check.needed is None:
        return f"{text}: undecided, the difference sits on the margin"
    images = ", ".join(f"{count} of {who.replace('_', ' ')}" for who, count in check.needed.items())
    return f"{text}: undecided, needs about {images} images"


def _decided(check: Check) -> tuple[float | None, float | None]:
    """The bounds that the verdict is by: those of `decided_by` where there are such."""
    return (check.lower, check.upper) if check.decided_lower is None else (check.decided_lower, check.decided_upper)


def _metrics(trial: Trial, names: list[str]) -> list[Metric]:
    return [trial.metrics["engine"][name] for name in names]
