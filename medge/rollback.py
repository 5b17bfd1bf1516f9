"""Rollback: which layers of a quantised model cost the decisions, found on validation images and put back in float.

The model is quantised once. A trial switches the quantisers of some layers off and measures how far the logits still
are from the float model's (mean Kullback-Leibler divergence): no trial quantises again. Parts of the network are tried
one at a time, then the part with the largest gain is split, down to single layers. Layers are put back one by one, the
largest gain first, until the gate's verdict on all validation images is the best that they allow, or the budget is
spent, or none helps. With few images the best may be inconclusive: it is what the float model itself would get. A layer
that was the cause of more than half hides the others' gains: with it in float they are measured anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medge import console, quantised
from medge.quantised import Layer, Served
from medge.rollback_trials import Asked, Figures, Trials, divergence
from medge.sections import Rollback

__all__ = ["Found", "flips_few", "is_reached", "rank", "search", "share_of_flips"]


@dataclass(frozen=True)
class Found:
    """layers: to be put back, the costliest first; empty where none helps. quantisers: that are of no use then.
    reached: as `is_reached`. stopped: why the search ended. log: one sentence per layer, and a last one.
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
    return _is_best(figures, best_verdict) and flips_few(figures, section, otherwise=figures["flips"]["limit"])


def flips_few(figures: Figures, section: Rollback, *, otherwise: float) -> bool:
    """Whether no larger share of decisions flips than the recipe names; where it names none, than `otherwise`."""
    wanted = section.flips if section.flips is not None else otherwise
    return share_of_flips(figures, section) <= wanted


def share_of_flips(figures: Figures, section: Rollback | None) -> float:
    """The share that is counted; where the recipe names a share to go on to, the expected one if that is larger
    (medge.flips): a few hundred images count 0 or 1 flips of an engine that changes one decision in two hundred.
    An expectation is never 0, so where none at all may flip only the count can say it."""
    counted = float(figures["flips"]["rate"])
    if section is None or not section.flips:
        return counted
    return max(counted, figures["flips"].get("expected") or 0.0)


def _is_enough(figures: Figures, section: Rollback, best_verdict: str) -> bool:
    """Whether a search may end: as `is_reached`, with half the flips of the gate's limit where none are named. An
    engine flips others than the model it was compiled from: what just passes here fails there every other time."""
    return _is_best(figures, best_verdict) and flips_few(figures, section, otherwise=figures["flips"]["limit"] / 2)


def _is_best(figures: Figures, best_verdict: str) -> bool:
    order = ("fail", "inconclusive", "pass")
    return order.index(figures["verdict"]) >= order.index(best_verdict)


def search(asked: Asked, section: Rollback, folder: Path) -> Found:
    """The layers to put back in float. Continues with the trials in `folder`; the model is left as it was."""
    import torch

    example = torch.from_numpy(asked.data.read(asked.rows[:1]))
    layers, served = quantised.layers(asked.model, example)
    trials = Trials(asked, section, served, folder / "trials.jsonl")
    return _Search(asked, section, trials, served).run(layers)


@dataclass(frozen=True)
class _State:
    """How far the search has come: what all validation images gave with the layers chosen so far in float."""

    loss: float
    figures: Figures


class _Search:
    """Best first: a heap of parts of the network by the divergence that is left without their quantisers."""

    def __init__(self, asked: Asked, section: Rollback, trials: Trials, served: Sequence[Served]) -> None:
        self.asked, self.section, self.trials, self.served = asked, section, trials, served
        self.heap: list[tuple[float, int, list[Layer]]] = []
        self.pushed = 0
        at = trials.subset
        self.base = divergence(asked.logits[at], asked.float_logits[at])
        self.chosen: list[Layer] = []
        self.under: list[Layer] = []  # in float while the parts were tried
        self.log: list[str] = []
        self.states = [_State(divergence(asked.logits, asked.float_logits), asked.figures)]
        self.layers: Sequence[Layer] = ()

    def run(self, layers: Sequence[Layer]) -> Found:
        self.layers = layers
        stopped = self._push(_split(layers))
        while not stopped:
            now = self.states[-1]
            if _is_enough(now.figures, self.section, self.asked.best_verdict):
                stopped = _verdict_in_words(now.figures["verdict"])
            elif not self.heap:
                stopped = "no other layer helps"
            else:
                part = heapq.heappop(self.heap)[2]
                stopped = self._push(_split(part)) if len(part) > 1 else self._try(part[0], now)
        return self._found(len(layers), stopped)

    def _try(self, layer: Layer, now: _State) -> str:
        """Puts a layer back beside those that are, and keeps it there if that helps; why it stopped, as _push."""
        trial = self.trials.gate_without([*self.chosen, layer])
        if trial is None:
            return self.trials.spent()
        if trial.loss < now.loss:
            self.chosen.append(layer)
            self.states.append(_State(trial.loss, trial.figures or {}))
            self.log.append(self._sentence(layer, now, self.states[-1]))
            console.say(self.log[-1])
            is_enough = _is_enough(self.states[-1].figures, self.section, self.asked.best_verdict)
            if trial.loss < now.loss / 2 and not is_enough:
                return self._rank_anew()
        return ""

    def _rank_anew(self) -> str:
        """Tries the parts of what is left again, with the chosen layers in float; why it stopped, as _push."""
        base = self.trials.loss_without(self.chosen)
        if base is None:
            return self.trials.spent()
        self.base, self.under, self.heap = base.loss, list(self.chosen), []
        return self._push(_split([layer for layer in self.layers if layer not in self.chosen]))

    def _is_reached(self, state: _State) -> bool:
        return is_reached(state.figures, self.section, self.asked.best_verdict)

    def _push(self, parts: Sequence[list[Layer]]) -> str:
        """Tries each part by itself; returns why it stopped, if the budget is spent."""
        for part in parts:
            trial = self.trials.loss_without([*self.under, *part])
            if trial is None:
                return self.trials.spent()
            if trial.loss < self.base:
                self.pushed += 1
                heapq.heappush(self.heap, (trial.loss, self.pushed, part))
        return ""

    def _sentence(self, layer: Layer, before: _State, after: _State) -> str:
        words = [f"flips {before.figures['flips']['rate']:.2%} -> {after.figures['flips']['rate']:.2%}"]
        expected = [state.figures["flips"].get("expected") for state in (before, after)]
        if None not in expected:
            words.append("expected {:.2%} -> {:.2%}".format(*expected))
        if "auc" in after.figures:
            words.append(f"AUC {after.figures['auc']['engine'] - before.figures['auc']['engine']:+.4f}")
        words.append(f"divergence {before.loss:.3g} -> {after.loss:.3g}")
        why = [text for text in (self._share_of_weights(layer), self._cause(layer)) if text]
        return f"{layer.name} in float: {', '.join(words)}" + "".join(f"; {text}" for text in why) + "."

    def _share_of_weights(self, layer: Layer) -> str:
        """How much of the gain the weights' quantiser alone accounts for: one more trial."""
        own = quantised.serving(self.served, [layer])
        weights = tuple(name for name in own if quantised.is_of_weights(name))
        whole = self.trials.loss_without([*self.under, layer])
        if not weights or weights == own or whole is None or whole.loss >= self.base:
            return ""
        trial = self.trials.run((*quantised.serving(self.served, self.under), *weights), self.trials.subset)
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
        kept = min(
            range(len(self.states)), key=lambda k: rank(self.states[k].figures, self.asked.best_verdict, self.section)
        )
        chosen = self.chosen[:kept]
        images = f"{len(self.trials.subset)} of {len(self.asked.rows)} validation images"
        last = (
            f"rollback: {len(self.trials.used)} trials in {self.trials.seconds:.0f} s, each part by itself on "
            f"{images}; {stopped}; {len(chosen)} of {layers} layers in float."
        )
        return Found(
            tuple(layer.name for layer in chosen), quantised.serving(self.served, chosen),
            self._is_reached(self.states[kept]), stopped, len(self.trials.used), round(self.trials.seconds, 1),
            (*self.log[:kept], last),
        )  # fmt: skip


def rank(figures: Figures, best_verdict: str, section: Rollback) -> tuple[bool, float, float]:
    """Small is good: whether the verdict is worse than the best first, then flips, then what the AUC lost."""
    lost = -figures["auc"]["difference"] if "auc" in figures else 0.0
    return (not _is_best(figures, best_verdict), share_of_flips(figures, section), lost)


def _verdict_in_words(verdict: str) -> str:
    """Of a verdict that is the best that the images allow."""
    return "the gate would pass" if verdict == "pass" else f"the gate would be {verdict}, as for the float model itself"


def _split(layers: Sequence[Layer]) -> list[list[Layer]]:
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
