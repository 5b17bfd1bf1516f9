"""How many questions were asked of the test images, and the verdicts that still hold if several answers are read."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from medge.report.gather import Found
from medge.report.words import count
from medge.sections import ValidateSection
from medge.trial import judge

__all__ = ["corrected", "spent"]


def spent(found: Found) -> str:
    """One sentence: how many engines were compared, on which images, and at what alpha one of them was confirmed."""
    engines, alpha = len(found.judged), found.trials["protocol"]["alpha"]
    compared = f"{count(engines, 'engine was', 'engines were')} compared on validation images"
    if not found.choice.get("chosen"):
        return f"{compared}; none is chosen, so that no test verdict counts yet."
    if found.choice.get("by_hand"):
        return (
            f"{compared}; the choice was made by hand: alpha {alpha:g} holds only if nobody had seen the test images "
            "before choosing, else read the corrected verdicts."
        )
    return f"{compared}; one was confirmed once in this run on test images, at alpha {alpha:g} (one-sided)."


@lru_cache(maxsize=1)  # the page, the numbers and the plan ask the same
def corrected(found: Found) -> dict[str, Any]:
    """Every engine's test verdict if all of them are read: alone, after Bonferroni and after Holm.

    The same trial at alpha / m, of m engines (Bonferroni), and Holm's step-down (Scandinavian J. Statistics 6 (1979)
    65-70): of the m - k that have not passed yet, those that pass at alpha / (m - k), until none is added. An engine
    passes where all of its checks do, so the checks of one engine need no correction among themselves (Berger,
    Technometrics 24 (1982) 295-300). Flips and ECE are limits on what was seen and do not depend on alpha.
    """
    alone = {name: of["test"]["verdict"] for name, of in found.judged.items()}
    alpha, tests = float(found.trials["protocol"]["alpha"]), len(alone)
    able = [name for name, verdict in alone.items() if verdict == "pass"]  # a smaller alpha only widens intervals
    made: dict[tuple[str, int], str] = {}

    def verdict_at(name: str, parts: int) -> str:
        if (name, parts) not in made:
            made[name, parts] = alone[name] if parts == 1 else _verdict(found, name, alpha / parts)
        return made[name, parts]

    holm: dict[str, float] = {}
    while True:
        parts = tests - len(holm)
        added = [name for name in able if name not in holm and verdict_at(name, parts) == "pass"]
        if not added:
            break
        holm.update(dict.fromkeys(added, alpha / parts))
    weaker = {name: "inconclusive" if verdict == "pass" else verdict for name, verdict in alone.items()}
    return {
        "tests": tests,
        "alpha": alpha,
        "bonferroni_alpha": alpha / tests,
        "engines": {
            name: {
                "alone": alone[name],
                "bonferroni": verdict_at(name, tests) if name in able else weaker[name],
                "holm": "pass" if name in holm else weaker[name],
                "holm_alpha": holm.get(name),
            }
            for name in alone
        },
    }


def _verdict(found: Found, name: str, alpha: float) -> str:
    section = ValidateSection.model_validate({**found.trials["protocol"], "alpha": alpha})
    trial = judge(
        found.table("float", "validation"),
        found.table(name, "validation"),
        found.table("float", "test"),
        found.table(name, "test"),
        section=section,
        seed=int(found.recipe.get("seed", 0)),
    )
    return trial.verdict
