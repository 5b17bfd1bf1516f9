"""Rollback: which layers of a quantised model cost the decisions, found on validation images and put back in float.

The model is quantised once. A trial switches the quantisers of some layers off and measures how far the logits still
are from the float model's (mean Kullback-Leibler divergence): no trial quantises again. Parts of the network are tried
one at a time, then the part with the largest gain is split, down to single layers. Layers are put back one by one, the
largest gain first, until the gate would pass on all validation images, or the budget is spent, or none helps.

Every trial is a line of `trials.jsonl`, so a search that was interrupted measures none twice.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medge import console, quantised
from medge.quantised import Layer, Served
from medge.records import sha256_of_json, write_text
from medge.sections import Rollback

if TYPE_CHECKING:
    from torch import nn

    from medge.data.dataset import DataSet

__all__ = ["Asked", "Found", "is_reached", "search"]

Figures = dict[str, Any]  # medge.trial.summary


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
class Found:
    """layers: to be put back, the costliest first; empty where none helps. quantisers: that are of no use then.
    reached: whether the gate would pass. stopped: why the search ended. log: one sentence per layer, and a last one.
    """

    layers: tuple[str, ...]
    quantisers: tuple[str, ...]
    reached: bool
    stopped: str
    trials: int
    seconds: float
    log: tuple[str, ...]


def is_reached(figures: Figures, section: Rollback, best_verdict: str) -> bool:
    """Whether nothing has to be mended: the best verdict that these images allow, and no more flips than wanted."""
    wanted = section.flips if section.flips is not None else figures["flips"]["limit"]
    return _is_best(figures, best_verdict) and bool(figures["flips"]["rate"] <= wanted)


def _is_enough(figures: Figures, section: Rollback, best_verdict: str) -> bool:
    """Whether a search may end: as `is_reached`, with half the flips of the gate's limit where none are named. An
    engine flips others than the model it was compiled from: what just passes here fails there every other time."""
    wanted = section.flips if section.flips is not None else figures["flips"]["limit"] / 2
    return _is_best(figures, best_verdict) and bool(figures["flips"]["rate"] <= wanted)


def _is_best(figures: Figures, best_verdict: str) -> bool:
    order = ("fail", "inconclusive", "pass")
    return order.index(figures["verdict"]) >= order.index(best_verdict)


def search(asked: Asked, section: Rollback, folder: Path) -> Found:
    """The layers to put back in float. Continues with the trials in `folder`; the model is left as it was."""
    import torch

    example = torch.from_numpy(asked.data.read(asked.rows[:1]))
    layers, served = quantised.layers(asked.model, example)
    bench = _Bench(asked, section, served, folder / "trials.jsonl")
    return _Search(asked, section, bench, served).run(layers)


@dataclass(frozen=True)
class _Trial:
    """off: quantisers that were switched off. figures: the gate's, where all validation images were run."""

    key: str
    off: list[str]
    images: int
    loss: float
    seconds: float
    figures: Figures | None = None


@dataclass
class _Bench:
    """Runs trials within the budget, or takes them from the file."""

    asked: Asked
    section: Rollback
    served: Sequence[Served]
    path: Path
    known: dict[tuple[tuple[str, ...], int], _Trial] = field(default_factory=dict)
    used: dict[tuple[tuple[str, ...], int], _Trial] = field(default_factory=dict)  # what was asked for

    def __post_init__(self) -> None:
        if not self.path.is_file():
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a killed run may have left half a line
        if whole != text:
            write_text(self.path, whole)
        for line in whole.splitlines():
            trial = _Trial(**json.loads(line))
            if trial.key == self.key:
                self.known[tuple(trial.off), trial.images] = trial

    @property
    def key(self) -> str:
        return sha256_of_json({"asked": self.asked.key, "images": self.section.images})

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

    def loss_without(self, layers: Collection[Layer]) -> _Trial | None:
        """With these layers in float, on the subset; None where the budget is spent."""
        return self.run(quantised.serving(self.served, layers), self.subset)

    def gate_without(self, layers: Collection[Layer]) -> _Trial | None:
        """The same on all validation images, with the gate's figures."""
        return self.run(quantised.serving(self.served, layers), np.arange(len(self.asked.rows)))

    def run(self, off: tuple[str, ...], at: NDArray[np.int64]) -> _Trial | None:
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

    def _measured(self, off: tuple[str, ...], at: NDArray[np.int64]) -> _Trial:
        from medge.model import predict

        begun = time.monotonic()
        with quantised.switched_off(self.asked.model, off):
            rows = self.asked.rows[at]
            told = f"rollback trial {len(self.used) + 1} of {self.section.trials}"
            logits = predict(self.asked.model, self.asked.data, rows, description=told).astype(np.float64)
        loss = divergence(logits, self.asked.float_logits[at])
        figures = _brief(self.asked.gate(logits)) if len(at) == len(self.asked.rows) else None
        return _Trial(self.key, list(off), len(at), loss, round(time.monotonic() - begun, 3), figures)


def _brief(figures: Figures) -> Figures:
    """What a search reads of the gate's figures."""
    flips = {name: float(figures["flips"][name]) for name in ("rate", "limit")}
    found: Figures = {"verdict": str(figures["verdict"]), "flips": flips}
    if "auc" in figures:
        found["auc"] = {name: float(figures["auc"][name]) for name in ("engine", "difference")}
    return found


def divergence(logits: NDArray[np.float64], aim: NDArray[np.float64]) -> float:
    """Mean Kullback-Leibler divergence, in nats, of the probabilities of `logits` from those of `aim`, both [n, C]."""
    from scipy.special import log_softmax

    got, wanted = log_softmax(logits, axis=1), log_softmax(aim, axis=1)
    return float((np.exp(wanted) * (wanted - got)).sum(axis=1).mean())


@dataclass(frozen=True)
class _State:
    """How far the search has come: what all validation images gave with the layers chosen so far in float."""

    loss: float
    figures: Figures


class _Search:
    """Best first: a heap of parts of the network by the divergence that is left without their quantisers."""

    def __init__(self, asked: Asked, section: Rollback, bench: _Bench, served: Sequence[Served]) -> None:
        self.asked, self.section, self.bench, self.served = asked, section, bench, served
        self.heap: list[tuple[float, int, list[Layer]]] = []
        self.pushed = 0
        at = bench.subset
        self.base = divergence(asked.logits[at], asked.float_logits[at])
        self.chosen: list[Layer] = []
        self.log: list[str] = []
        self.states = [_State(divergence(asked.logits, asked.float_logits), asked.figures)]

    def run(self, layers: Sequence[Layer]) -> Found:
        stopped = self._push(split(layers))
        while not stopped:
            now = self.states[-1]
            if _is_enough(now.figures, self.section, self.asked.best_verdict):
                stopped = "the gate would pass"
            elif not self.heap:
                stopped = "no other layer helps"
            else:
                part = heapq.heappop(self.heap)[2]
                stopped = self._push(split(part)) if len(part) > 1 else self._try(part[0], now)
        return self._found(len(layers), stopped)

    def _try(self, layer: Layer, now: _State) -> str:
        """Puts a layer back beside those that are, and keeps it there if that helps; why it stopped, as _push."""
        trial = self.bench.gate_without([*self.chosen, layer])
        if trial is None:
            return self.bench.spent()
        if trial.loss < now.loss:
            self.chosen.append(layer)
            self.states.append(_State(trial.loss, trial.figures or {}))
            self.log.append(self._sentence(layer, now, self.states[-1]))
            console.say(self.log[-1])
        return ""

    def _is_reached(self, state: _State) -> bool:
        return is_reached(state.figures, self.section, self.asked.best_verdict)

    def _push(self, parts: Sequence[list[Layer]]) -> str:
        """Tries each part by itself; returns why it stopped, if the budget is spent."""
        for part in parts:
            trial = self.bench.loss_without(part)
            if trial is None:
                return self.bench.spent()
            if trial.loss < self.base:
                self.pushed += 1
                heapq.heappush(self.heap, (trial.loss, self.pushed, part))
        return ""

    def _sentence(self, layer: Layer, before: _State, after: _State) -> str:
        words = [f"flips {before.figures['flips']['rate']:.2%} -> {after.figures['flips']['rate']:.2%}"]
        if "auc" in after.figures:
            words.append(f"AUC {after.figures['auc']['engine'] - before.figures['auc']['engine']:+.4f}")
        words.append(f"divergence {before.loss:.3g} -> {after.loss:.3g}")
        why = [text for text in (self._share_of_weights(layer), self._cause(layer)) if text]
        return f"{layer.name} in float: {', '.join(words)}" + "".join(f"; {text}" for text in why) + "."

    def _share_of_weights(self, layer: Layer) -> str:
        """How much of the gain the weights' quantiser alone accounts for: one more trial."""
        own = quantised.serving(self.served, [layer])
        weights = tuple(name for name in own if quantised.is_of_weights(name))
        whole = self.bench.loss_without([layer])
        if not weights or weights == own or whole is None or whole.loss >= self.base:
            return ""
        trial = self.bench.run(weights, self.bench.subset)
        if trial is None:
            return ""
        share = min(max((self.base - trial.loss) / (self.base - whole.loss), 0.0), 1.0)
        return f"{share:.0%} of that is its weights'"

    def _cause(self, layer: Layer) -> str:
        import torch

        images = torch.from_numpy(self.asked.data.read(self.asked.rows[:16]))
        return quantised.cause(self.asked.model, layer, self.served, images)

    def _found(self, layers: int, stopped: str) -> Found:
        """With the layers up to the best state; those after it did not help the gate."""
        kept = min(range(len(self.states)), key=lambda k: rank(self.states[k].figures, self.asked.best_verdict))
        chosen = self.chosen[:kept]
        images = f"{len(self.bench.subset)} of {len(self.asked.rows)} validation images"
        last = (
            f"rollback: {len(self.bench.used)} trials in {self.bench.seconds:.0f} s, each part by itself on {images}; "
            f"{stopped}; {len(chosen)} of {layers} layers in float."
        )
        return Found(
            tuple(layer.name for layer in chosen), quantised.serving(self.served, chosen),
            self._is_reached(self.states[kept]), stopped, len(self.bench.used), round(self.bench.seconds, 1),
            (*self.log[:kept], last),
        )  # fmt: skip


def rank(figures: Figures, best_verdict: str) -> tuple[bool, float, float]:
    """Small is good: the verdict first, then flips, then the error of the AUC."""
    lost = -figures["auc"]["difference"] if "auc" in figures else 0.0
    return (figures["verdict"] != best_verdict, figures["flips"]["rate"], lost)


def split(layers: Sequence[Layer]) -> list[list[Layer]]:
    """Parts of a part: by the module below the one that they share; halves where those were more than a dozen."""
    paths = [layer.name.replace(":", ".").split(".") for layer in layers]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and any(len(path) > depth + 1 for path in paths):
        depth += 1
    found: dict[tuple[str, ...], list[Layer]] = {}
    for path, layer in zip(paths, layers, strict=True):
        found.setdefault(tuple(path[: depth + 1]), []).append(layer)
    parts = list(found.values())
    if len(parts) > 12:
        middle = len(layers) // 2
        return [list(layers[:middle]), list(layers[middle:])]
    return parts
