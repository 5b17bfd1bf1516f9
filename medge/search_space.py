"""What the search may try: a point of the space is a chain of compressors and a precision."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medge import plugins
from medge.backends import QUANTISED
from medge.compressors.shorten import removable
from medge.quantised import squeezes
from medge.records import sha256_of_json
from medge.sections import SearchSection, Step

if TYPE_CHECKING:
    from torch import nn

    from medge.model import Classifier

__all__ = ["FIRST", "Candidate", "candidate_of", "first_layers", "space", "untrained"]

Point = Mapping[str, Any]

# Where every search begins: the cheapest first, each of another kind.
FIRST: tuple[Point, ...] = (
    {"quantiser": "ptq"},
    {"quantiser": "none", "precision": "bfloat16"},
    {"quantiser": "ptq", "in_float": 1},
    {"quantiser": "ptq", "in_float": 2},
    {"quantiser": "ptq", "se_in_float": True},
    {"prune": 0.5, "quantiser": "ptq"},
    {"scale": 0.57, "quantiser": "ptq", "in_float": 2},
    {"scale": 0.57, "scale_epochs": 4, "shorten": 3, "shorten_epochs": 4, "quantiser": "ptq", "in_float": 2},
    {"quantiser": "qat", "in_float": 2, "mixup": 0.3},
    {"prune": 0.5, "quantiser": "qat", "in_float": 1},
)


@dataclass(frozen=True)
class Candidate:
    """A chain and the precision of its engine: int8 where the chain quantises."""

    chain: tuple[Step, ...]
    precision: str

    @property
    def key(self) -> str:
        """What tells it from others."""
        return str(sha256_of_json([[step.model_dump(mode="json") for step in self.chain], self.precision])[:12])

    @property
    def words(self) -> str:
        """In short, such as `prune 0.5, ptq (int8)`."""
        said = {"resolution": "scale", "shorten": "blocks", "prune": "ratio", "distill": "epochs", "qat": "epochs"}
        parts = [
            f"{s.compressor} {_value(s, said[s.compressor]) if s.compressor in said else ''}".strip()
            for s in self.chain
        ]
        floats = next((len(s.options["ignored"]) for s in self.chain if s.options.get("ignored")), 0)
        kept = f", first {floats} in float" if floats else ""
        kept += ", squeezes in float" if any(s.options.get("se_in_float") for s in self.chain) else ""
        return f"{', '.join(parts) or 'float'} ({self.precision}{kept})"


def space(section: SearchSection, precisions: Sequence[str], model: Classifier) -> dict[str, tuple[Any, ...]]:
    """The values of each coordinate, the plainest first, as far as they make a difference to this model. Those that
    another coordinate makes meaningless are ignored."""
    import torch

    image = torch.zeros(1, model.spec.size, model.spec.size, 3, dtype=torch.uint8)
    blocks = len(removable(copy.deepcopy(model).eval(), image))
    has_silu = any(isinstance(layer, torch.nn.SiLU) for layer in model.modules())
    return {
        "scale": (1.0, *section.scales),
        "scale_epochs": section.epochs,
        "shorten": (0, *(count for count in section.blocks if count <= blocks)),
        "shorten_epochs": section.epochs,
        "prune": (0.0, *section.ratios),
        "prune_epochs": section.epochs,
        "distill_epochs": (0, *section.epochs) if section.distill else (0,),
        "activation": ("as it is", "hardswish", "relu6") if has_silu else ("as it is",),
        "quantiser": ("none", "ptq", "qat"),
        "preset": ("performance", "mixed"),
        "range_estimator": ("default", "mean_quantile"),
        "in_float": (0, 1, 2),
        "se_in_float": (False, True) if squeezes(model) else (False,),
        "qat_epochs": section.epochs,
        "ranges": ("learned", "frozen"),
        "mixup": (0.0, 0.3),
        "precision": tuple(precisions),
    }


def candidate_of(point: Point, section: SearchSection, layers: Sequence[str]) -> Candidate:
    """The candidate at a point. Two points with the same candidate differ in what does not matter."""
    shared = {"images_per_epoch": section.images_per_epoch, "mixup": point["mixup"]}
    chain: list[Step] = []
    if point["scale"] < 1:
        chain.append(_step("resolution", {"scale": point["scale"], "epochs": point["scale_epochs"], **shared}))
    if point["shorten"] > 0:
        chain.append(_step("shorten", {"blocks": point["shorten"], "epochs": point["shorten_epochs"], **shared}))
    if point["prune"] > 0:
        chain.append(_step("prune", {"ratio": point["prune"], "epochs": point["prune_epochs"], **shared}))
    if point["distill_epochs"] > 0:
        chain.append(_step("distill", {"epochs": point["distill_epochs"], **shared}))
    if point["quantiser"] == "none":
        return Candidate(tuple(chain), point["precision"])
    if point["activation"] != "as it is":
        chain.append(_step("friendly", {"activation": point["activation"], "epochs": point["qat_epochs"], **shared}))
    kept = {"ignored": list(layers[: point["in_float"]]), "se_in_float": point["se_in_float"]}
    ranges = {"preset": point["preset"], "range_estimator": point["range_estimator"], **kept}
    chain.append(_step("ptq", ranges))  # qat begins with it: so its loss is known before anything is trained
    if point["quantiser"] == "qat":
        chain.append(_step("qat", {"epochs": point["qat_epochs"], "ranges": point["ranges"], **shared, **ranges}))
    return Candidate(tuple(chain), QUANTISED)


def untrained(candidate: Candidate) -> Candidate:
    """The same layers, widths and pixels without training: as fast, and made in a moment."""
    short: list[Step] = []
    for step in candidate.chain:
        names = _option_names(step.compressor)
        if step.compressor not in ("distill", "qat"):  # friendly keeps its other activations
            options = {**step.options, **({"epochs": 0} if "epochs" in names else {})}
            short.append(_step(step.compressor, options))
    return Candidate(tuple(short), candidate.precision)


def first_layers(model: nn.Module) -> list[str]:
    """The first convolution and the block of the second: what quantisation costs most, it costs there."""
    import torch

    names = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d)]
    if len(names) < 2:
        return names
    block = names[1].rpartition(".")[0]
    inside = sum(name.startswith(f"{block}.") for name in names)
    return [
        names[0],
        block if block and inside <= len(names) / 4 and not names[0].startswith(f"{block}.") else names[1],
    ]


def _step(compressor: str, options: Mapping[str, Any]) -> Step:
    """A step with the options that are not the compressor's defaults."""
    defaults = {
        field.name: field.default for field in dataclasses.fields(plugins.load("compressors", compressor).Options)
    }
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    return Step(compressor=compressor, options={k: v for k, v in options.items() if plain.get(k) != v})


def _value(step: Step, name: str) -> Any:
    """An option of a step, its default where the step does not give it."""
    return getattr(plugins.load("compressors", step.compressor).Options(**step.options), name)


def _option_names(compressor: str) -> set[str]:
    return {field.name for field in dataclasses.fields(plugins.load("compressors", compressor).Options)}
