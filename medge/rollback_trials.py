"""The trials of a rollback: a quantised model with some layers in float, and how far it is from the float model.

Every trial is a line of `trials.jsonl`, so a search that was interrupted measures none twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medge import quantised
from medge.quantised import Layer, Served
from medge.records import sha256_of_json, write_text
from medge.sections import Rollback

if TYPE_CHECKING:
    from torch import nn

    from medge.data.dataset import DataSet

__all__ = ["Asked", "Figures", "Trials", "divergence"]

Figures = dict[str, Any]  # medge.chain_trial.figures

_FIGURES = ("rate", "expected", "limit")  # of the flips, in a trial's line


@dataclass(frozen=True)
class Asked:
    """What is searched, and how a candidate is judged.

    model: quantised, in eval mode. float_logits: the float model's, [n, C], of `rows`, the validation images.
    logits: those of `model`, and figures the gate's of them. gate: logits of all rows -> the gate's figures. key: names
    all that decides what a trial measures. best_verdict: the best that the gate can give with these images.
    """

    model: nn.Module
    data: DataSet
    rows: NDArray[np.int64]
    float_logits: NDArray[np.float64]
    gate: Callable[[NDArray[np.float64]], Figures]
    logits: NDArray[np.float64]
    figures: Figures
    best_verdict: str
    seed: int
    key: str


@dataclass(frozen=True)
class Tried:
    """off: quantisers that were switched off. figures: the gate's, where all validation images were run."""

    key: str
    off: list[str]
    images: int
    loss: float
    seconds: float
    figures: Figures | None = None


@dataclass
class Trials:
    """Runs trials within the budget, or takes them from the file."""

    asked: Asked
    section: Rollback
    served: Sequence[Served]
    path: Path
    known: dict[tuple[tuple[str, ...], int], Tried] = field(default_factory=dict)
    used: dict[tuple[tuple[str, ...], int], Tried] = field(default_factory=dict)  # what was asked for

    def __post_init__(self) -> None:
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a killed run may have left half a line
        if whole != text:
            write_text(self.path, whole)
        for line in whole.splitlines():
            trial = Tried(**json.loads(line))
            if trial.key == self.key:
                self.known[tuple(trial.off), trial.images] = trial

    @property
    def key(self) -> str:
        return sha256_of_json({"asked": self.asked.key, "images": self.section.images, "figures": _FIGURES})

    @property
    def subset(self) -> NDArray[np.int64]:
        """Positions in `rows` of the images of a sensitivity trial."""
        count, wanted = len(self.asked.rows), self.section.images
        drawn: NDArray[np.int64] = np.random.default_rng(self.asked.seed).permutation(count)[:wanted]
        return np.sort(drawn)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.used.values())

    def spent(self) -> str:
        """Which budget is used up, in words; empty while there is some left."""
        if len(self.used) >= self.section.trials:
            return f"the budget of {self.section.trials} trials is spent"
        if self.seconds >= 60 * self.section.minutes:
            return f"the budget of {self.section.minutes:g} minutes is spent"
        return ""

    def loss_without(self, layers: Collection[Layer]) -> Tried | None:
        """With these layers in float, on the subset; None where the budget is spent."""
        return self.run(quantised.serving(self.served, layers), self.subset)

    def gate_without(self, layers: Collection[Layer]) -> Tried | None:
        """The same on all validation images, with the gate's figures."""
        return self.run(quantised.serving(self.served, layers), np.arange(len(self.asked.rows)))

    def run(self, off: tuple[str, ...], at: NDArray[np.int64]) -> Tried | None:
        name = (off, len(at))
        if name in self.used:
            return self.used[name]
        if self.spent():
            return None
        trial = self.known.get(name)
        if trial is None:
            trial = self._measured(off, at)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(trial)) + "\n")
        self.used[name] = trial
        return trial

    def _measured(self, off: tuple[str, ...], at: NDArray[np.int64]) -> Tried:
        from medge.model import predict

        begun = time.monotonic()
        with quantised.switched_off(self.asked.model, off):
            rows = self.asked.rows[at]
            told = f"rollback trial {len(self.used) + 1} of {self.section.trials}"
            logits = predict(self.asked.model, self.asked.data, rows, description=told).astype(np.float64)
        loss = divergence(logits, self.asked.float_logits[at])
        figures = _brief(self.asked.gate(logits)) if len(at) == len(self.asked.rows) else None
        return Tried(self.key, list(off), len(at), loss, round(time.monotonic() - begun, 3), figures)


def _brief(figures: Figures) -> Figures:
    """What a search reads of the gate's figures."""
    flips = {name: figures["flips"].get(name) for name in _FIGURES}
    found: Figures = {"verdict": str(figures["verdict"]), "flips": flips}
    if "auc" in figures:
        found["auc"] = {name: float(figures["auc"][name]) for name in ("engine", "difference")}
    return found


def divergence(logits: NDArray[np.float64], aim: NDArray[np.float64]) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the probabilities of `logits` from those of `aim`, both [n, C]."""
    from scipy.special import log_softmax

    got, wanted = log_softmax(logits, axis=1), log_softmax(aim, axis=1)
    return float((np.exp(wanted) * (wanted - got)).sum(axis=1).mean())
