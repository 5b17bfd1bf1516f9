"""Decisions: thresholds and temperatures fitted on validation, and what they make of any other image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.metrics import Model
from medge.pairing import Paired
from medge.statistics import thresholds
from medge.statistics.calibration import fit_temperature
from medge.statistics.scores import positive_score, probability_of_score

__all__ = ["Operating", "decide", "fit", "models"]


@dataclass(frozen=True)
class Operating:
    """Fitted on validation only. Cuts are scores (log odds before temperature), None for more than two classes.

    float_cut is also the engine's carried-over threshold; refitted_cut is the engine's own by the same rule. A
    temperature is monotone, so it changes probabilities and never a decision.
    """

    float_cut: float | None
    refitted_cut: float | None
    temperature_float: float
    temperature_engine: float

    def cuts(self, transfer: str) -> dict[str, float | None]:
        """The cuts as scores, `used` being the one of the recipe's `transfer`."""
        used = self.float_cut if transfer == "carried" else self.refitted_cut
        return {
            "float": self.float_cut,
            "engine_carried": self.float_cut,
            "engine_refitted": self.refitted_cut,
            "used": used,
        }

    def thresholds(self, transfer: str) -> dict[str, float | None]:
        """The same as plain probabilities, before temperature; those of scores beyond 36 round to 0 or 1."""
        return {name: None if cut is None else probability_of_score(cut) for name, cut in self.cuts(transfer).items()}


def fit(validation: Paired, rule: str) -> Operating:
    """Thresholds by the recipe's rule and temperatures of both models. Raises RecipeError for an unknown rule."""
    parsed = thresholds.parse(rule)
    float_cut = refitted_cut = None
    if validation.classes == 2:
        positive = validation.labels == 1
        float_cut = thresholds.fit(parsed, positive_score(validation.float_logits), positive)
        refitted_cut = thresholds.fit(parsed, positive_score(validation.engine_logits), positive)
    return Operating(
        float_cut,
        refitted_cut,
        fit_temperature(validation.float_logits, validation.labels),
        fit_temperature(validation.engine_logits, validation.labels),
    )


def decide(logits: NDArray[np.float64], cut: float | None) -> NDArray[np.int64]:
    """Class index [N]: the positive class where the score reaches the cut; without a cut the largest logit."""
    if cut is None:
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)
    return (positive_score(logits) >= cut).astype(np.int64)


def models(judged: Paired, at: Operating) -> dict[str, Model]:
    """`float`, and the engine at its `carried` and `refitted` threshold (the same where there is no threshold)."""

    def model(logits: NDArray[np.float64], cut: float | None, temperature: float) -> Model:
        return Model(judged.labels, logits, decide(logits, cut), temperature)

    return {
        "float": model(judged.float_logits, at.float_cut, at.temperature_float),
        "carried": model(judged.engine_logits, at.float_cut, at.temperature_engine),
        "refitted": model(judged.engine_logits, at.refitted_cut, at.temperature_engine),
    }
