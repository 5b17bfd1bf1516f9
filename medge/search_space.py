"""What the search may try: a point of the space is a chain of compressors and a precision."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medge import plugins
from medge.backends import QUANTISED, is_int8
from medge.compressors.shorten import removable
from medge.quantised import squeezes
from medge.records import sha256_of_json
from medge.sections import SearchSection, Step

if TYPE_CHECKING:
    from torch import nn

    from medge.model import Classifier

__all__ = ["Candidate", "candidate_of", "epochs", "first_layers", "first_points", "space", "untrained"]

Point = Mapping[str, Any]

_ALL = "all"  # of the blocks that can go
_LAST_EPOCHS = 4  # on the images as they are, where there are any (docs/decisions, 16)

_LONG: Point = {
    "scale": 0.714, "shorten": _ALL, "epochs": 16, "learning_rate": 1e-3, "mixup": 0.3, "last_epochs": _LAST_EPOCHS,
    "quantiser": "ptq", "in_float": 2,
}  # fmt: skip

# Where every search begins, each of another kind. Before the one that trains for long comes the same with the fewest
# epochs, which shows how long that would be.
_FIRST: tuple[Point, ...] = (
    {"quantiser": "ptq"},
    {"quantiser": "none", "precision": "bfloat16"},
    {"quantiser": "ptq", "in_float": 1},
    {"quantiser": "ptq", "in_float": 2},
    {"quantiser": "ptq", "se_in_float": True},
    {"scale": 0.714, "shorten": _ALL, "quantiser": "ptq", "in_float": 2},
    _LONG,
    {**_LONG, "quantised_precision": "int8_bfloat16"},
    {"prune": 0.5, "quantiser": "ptq"},
    {"scale": 0.57, "shorten": 3, "epochs": 4, "quantiser": "ptq", "in_float": 2},
    {"quantiser": "qat", "in_float": 2, "mixup": 0.3},
    {"prune": 0.5, "quantiser": "qat", "in_float": 1},
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A chain and the precision of its engine: int8 where the chain quantises, or one that begins so."""

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
    another coordinate makes meaningless are ignored. precisions: all that the backend can run here."""
    import torch

    image = torch.zeros(1, model.spec.size, model.spec.size, 3, dtype=torch.uint8)
    most = len(removable(copy.deepcopy(model).eval(), image))
    blocks = (*(count for count in section.blocks if count < most), most) if section.blocks else ()
    has_silu = any(isinstance(layer, torch.nn.SiLU) for layer in model.modules())
    return {
        "scale": (1.0, *section.scales),
        "shorten": tuple(dict.fromkeys((0, *blocks))),
        "prune": (0.0, *section.ratios),
        "epochs": tuple(sorted(section.epochs)),
        "learning_rate": (5e-4, 1e-3),
        "distill_epochs": (0, *section.epochs) if section.distill else (0,),
        "last_epochs": (0, _LAST_EPOCHS),
        "activation": ("as it is", "hardswish", "relu6") if has_silu else ("as it is",),
        "quantiser": ("none", "ptq", "qat"),
        "preset": ("performance", "mixed"),
        "range_estimator": ("default", "mean_quantile"),
        "in_float": (0, 1, 2),
        "se_in_float": (False, True) if squeezes(model) else (False,),
        "qat_epochs": section.epochs,
        "ranges": ("learned", "frozen"),
        "mixup": (0.0, 0.3),
        "precision": tuple(p for p in precisions if not is_int8(p)),
        "quantised_precision": (QUANTISED, *(p for p in precisions if is_int8(p) and p != QUANTISED)),
    }


def first_points(coordinates: Mapping[str, tuple[Any, ...]]) -> list[Point]:
    """The points to begin with, as far as they lie in a space."""
    plainest = {name: values[0] for name, values in coordinates.items()}
    most = {"shorten": max(coordinates["shorten"])}
    known = [{k: most[k] if v == _ALL else v for k, v in point.items()} for point in _FIRST]
    return [{**plainest, **point} for point in known if all(v in coordinates[k] for k, v in point.items())]


def candidate_of(point: Point, section: SearchSection, layers: Sequence[str]) -> Candidate:
    """The candidate at a point. Two points with the same candidate differ in what does not matter. Of pixels, blocks
    and channels that go, only the last to go is followed by a training: it mends all of them."""
    shared = {"images_per_epoch": section.images_per_epoch, "mixup": point["mixup"]}
    less = [("resolution", "scale", point["scale"] < 1), ("shorten", "blocks", point["shorten"] > 0)]
    less += [("prune", "ratio", point["prune"] > 0)]
    values = {"scale": point["scale"], "blocks": point["shorten"], "ratio": point["prune"]}
    changes = [(compressor, {option: values[option]}) for compressor, option, wanted in less if wanted]
    chain = [_step(compressor, {**how_much, "epochs": 0}) for compressor, how_much in changes[:-1]]
    for compressor, how_much in changes[-1:]:
        training = {"epochs": point["epochs"], "learning_rate": point["learning_rate"], **shared}
        chain.append(_step(compressor, {**how_much, **training}))
    if point["distill_epochs"] > 0:
        chain.append(_step("distill", {"epochs": point["distill_epochs"], **shared}))
    if chain and point["last_epochs"] > 0:
        as_they_are = {"augment": False, "images_per_epoch": section.images_per_epoch}
        chain.append(_step("distill", {"epochs": point["last_epochs"], **as_they_are}))
    if point["quantiser"] == "none":
        return Candidate(tuple(chain), point["precision"])
    if point["activation"] != "as it is":
        chain.append(_step("friendly", {"activation": point["activation"], "epochs": point["qat_epochs"], **shared}))
    kept = {"ignored": list(layers[: point["in_float"]]), "se_in_float": point["se_in_float"]}
    ranges = {"preset": point["preset"], "range_estimator": point["range_estimator"], **kept}
    chain.append(_step("ptq", ranges))  # qat begins with it: so its loss is known before anything is trained
    if point["quantiser"] == "qat":
        chain.append(_step("qat", {"epochs": point["qat_epochs"], "ranges": point["ranges"], **shared, **ranges}))
    return Candidate(tuple(chain), point["quantised_precision"])


def untrained(candidate: Candidate) -> Candidate:
    """The same layers, widths and pixels without training: as fast, and made in a moment."""
    short: list[Step] = []
    for step in candidate.chain:
        names = _option_names(step.compressor)
        if step.compressor not in ("distill", "qat"):  # friendly keeps its other activations
            options = {**step.options, **({"epochs": 0} if "epochs" in names else {})}
            short.append(_step(step.compressor, options))
    return Candidate(tuple(short), candidate.precision)


def epochs(step: Step) -> int:
    """For how many epochs a step trains, in all its steps where it has several."""
    names = _option_names(step.compressor)
    return int(_value(step, "epochs") * (_value(step, "steps") if "steps" in names else 1)) if "epochs" in names else 0


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
