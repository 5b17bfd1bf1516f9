"""A chain of compressors followed and judged: what the compress stage does with each, and a rollback does again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge import calibration, flips, plugins, predictions, trial
from medge.compressors import Context
from medge.pairing import Paired, pair
from medge.predictions import Predictions
from medge.sections import Step, ValidateSection
from medge.statistics.scores import positive_score

if TYPE_CHECKING:
    from torch import nn

    from medge.data.dataset import DataSet
    from medge.model import Classifier

__all__ = ["Bench", "Made", "apply", "figures", "judged", "names", "sentence"]


@dataclass(frozen=True)
class Bench:
    """What every variant is made from and judged with."""

    data: DataSet
    teacher: Classifier
    listed: calibration.CalibrationList
    gate: ValidateSection
    seed: int
    work: Path

    @cached_property
    def reference(self) -> Predictions:
        """The float model's outputs on validation images."""
        return predictions.read(self.work / "float" / "validation.csv")


@dataclass(frozen=True)
class Made:
    """What a chain led to, and the gate's figures on validation images."""

    model: nn.Module
    table: Predictions
    figures: dict[str, Any]
    steps: list[dict[str, Any]]
    in_float: tuple[str, ...] = ()


def apply(bench: Bench, chain: Sequence[Step], works: Sequence[Path], log: list[str]) -> nn.Module:
    """The model after every step of a chain; each step has a folder for its checkpoints."""
    import torch

    current: nn.Module = bench.teacher
    for step, work in zip(chain, works, strict=True):
        compressor = plugins.load("compressors", step.compressor)
        work.mkdir(parents=True, exist_ok=True)
        context = Context(bench.data, bench.listed.indices, bench.teacher, bench.seed, work, log)
        torch.manual_seed(bench.seed)
        current = compressor.apply(current, compressor.Options(**step.options), context)
    return current


def judged(bench: Bench, name: str, chain: Sequence[Step], model: nn.Module) -> Made:
    table = _outputs(bench, model, name)
    return Made(model, table, figures(bench, table), [step.model_dump(mode="json") for step in chain])


def figures(bench: Bench, table: Predictions) -> dict[str, Any]:
    """The gate's figures of a table of validation images, and of two classes the share that is expected to flip."""
    reference = bench.reference
    judged = trial.judge(reference, table, reference, table, section=bench.gate, seed=bench.seed)
    found = trial.summary(judged)
    found["flips"]["expected"] = _expected_flips(pair(reference, table, name="validation"), judged.cuts)
    return found


def _expected_flips(both: Paired, cuts: dict[str, float | None]) -> float | None:
    if cuts["float"] is None or cuts["used"] is None:
        return None
    before, after = positive_score(both.float_logits), positive_score(both.engine_logits)
    return flips.expected_rate(before - cuts["float"], after - cuts["used"])


def _outputs(bench: Bench, model: nn.Module, name: str) -> Predictions:
    from medge.model import predict

    rows = bench.data.indices("validation")
    return bench.data.predictions(rows, predict(model, bench.data, rows, description=f"{name} validation"))


def names(chain: Sequence[Step]) -> str:
    return ", ".join(step.compressor for step in chain)


def sentence(figures: dict[str, Any]) -> str:
    """The gate's verdict in words, with the figures that decide most often."""
    flipped, auc = figures["flips"], figures.get("auc")
    expected = "" if flipped.get("expected") is None else f", {flipped['expected']:.2%} expected"
    parts = [f"{flipped['count']} decisions flipped ({flipped['rate']:.2%}{expected})"]
    if auc is not None:
        parts.append(f"AUC {auc['difference']:+.4f}")
    others = [
        key for key, item in figures.items() if isinstance(item, dict) and item.get("verdict") not in ("pass", None)
    ]
    held = f"; not met: {', '.join(others)}" if others else ""
    return f"on validation images: {figures['verdict']}; {', '.join(parts)}{held}."
