"""compress and compile: variants, their chains, and the engines that are built of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from medge.sections.base import Fraction, Name, OpenFraction, Section
from medge.sections.validate import ValidateSection

__all__ = [
    "Calibration",
    "CompileSection",
    "CompressSection",
    "Rollback",
    "SearchSection",
    "Step",
    "Variant",
    "step_from_shorthand",
]


class Step(Section):
    """One compressor and its options."""

    compressor: str
    options: dict[str, Any] = {}


def step_from_shorthand(value: Any) -> Any:
    """`ptq` and `{qat: {epochs: 2}}` spelled out."""
    if isinstance(value, str):
        return {"compressor": value}
    if isinstance(value, dict) and len(value) == 1 and "compressor" not in value:
        ((name, options),) = value.items()
        return {"compressor": name, "options": options or {}}
    return value


class Rollback(Section):
    """Which layers of a quantised model go back to float where no chain passes its gate, and what the search may cost.

    trials, minutes: the budget of each chain; about one trial for each part of the network, then a few for each layer
    that goes back. images: validation images of a trial of one part (the gate is tried on all of them). flips: go on
    until no larger share of decisions flips, counted and expected (docs/decisions/0017), also where the gate passes;
    none: half of the gate's limit, once a gate has not passed, for an engine flips others than the model it is made
    from. backend: where the log's cost in latency of each layer in float is measured, here; null measures none.
    `rollback: null` leaves all quantised.
    """

    trials: Annotated[int, Field(ge=1)] = 60
    minutes: Annotated[float, Field(gt=0)] = 10.0
    images: Annotated[int, Field(ge=1)] = 128
    flips: Fraction | None = None
    backend: str | None = "openvino"


class Variant(Section):
    """Chains to try in order, then again with a rollback: the first one whose gate passes is kept, else the best."""

    first_passing: tuple[tuple[Step, ...], ...]
    rollback: Rollback | None = Rollback()

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, value: Any) -> Any:
        """`[ptq]`, `[{qat: {epochs: 2}}]` or `{first_passing: [[ptq], [qat]]}`."""
        if isinstance(value, (list, tuple)):
            value = {"first_passing": [value]}
        if isinstance(value, dict) and isinstance(value.get("first_passing"), (list, tuple)):
            chains = value["first_passing"]
            return {
                **value,
                "first_passing": [
                    [step_from_shorthand(s) for s in chain] if isinstance(chain, (list, tuple)) else chain
                    for chain in chains
                ],
            }
        return value


class Calibration(Section):
    """How many training images fix the quantisation ranges, drawn once and kept as a list in calibration/."""

    images: Annotated[int, Field(ge=1)] = 300


class SearchSection(Section):
    """Chains tried by measurement, on `backend`, until the budget is spent; the best becomes the variant `search`.
    The recipe's own int8 variants are tried first, beside the budget.

    ratios, scales, blocks, epochs: what may be tried for prune, resolution, shorten (and all blocks that can go,
    unless none are named), and for the trainings; what would train for longer than the minutes that are left is not
    begun. images_per_epoch: training images in each (null: all). distill: also try distillation as a step of its own.
    give_up_flips: a chain that has flipped more decisions after a step, but for one whose training follows later, is
    given up. rounds, seconds: of each measurement of latency, at least.
    """

    minutes: Annotated[float, Field(gt=0)] = 60.0
    trials: Annotated[int, Field(ge=1)] = 100
    backend: str = "openvino"
    ratios: tuple[OpenFraction, ...] = (0.25, 0.375, 0.5, 0.625, 0.75)
    scales: tuple[Annotated[float, Field(ge=0.5, lt=1)], ...] = (0.57, 0.714)
    blocks: tuple[Annotated[int, Field(ge=1)], ...] = (1, 3, 5)
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 16)
    images_per_epoch: Annotated[int, Field(ge=1)] | None = None
    distill: bool = False
    give_up_flips: Fraction = 0.1
    rounds: Annotated[int, Field(ge=10)] = 60
    seconds: Annotated[float, Field(gt=0)] = 2.0

    @field_validator("epochs")
    @classmethod
    def _some_epochs(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("name at least one number of epochs")
        return value


class CompressSection(Section):
    """Variants by name. `float` always exists: it is what every other is compared with.

    gate: the trial, on validation images, by which a variant chooses among its chains; `validate` unless given.
    search: none is made unless given, here or by `medge compress --search`.
    """

    calibration: Calibration = Calibration()
    variants: dict[Name, Variant] = {
        "int8": Variant(first_passing=((Step(compressor="ptq"),), (Step(compressor="qat"),)))
    }
    gate: ValidateSection | None = None
    search: SearchSection | None = None

    @model_validator(mode="after")
    def _float_is_kept(self) -> CompressSection:
        if "search" in self.variants and self.search is not None:
            raise ValueError("'search' is what the search finds: name this variant otherwise")
        taken = {"scratch", "record.json", "search.json", "search.png", "searched.yaml"} & set(self.variants)
        if taken:
            raise ValueError(f"'{min(taken)}' is a file of the stage: name this variant otherwise")
        if "float" in self.variants:
            raise ValueError("'float' is the uncompressed model and always there: name this variant otherwise")
        return self


class CompileSection(Section):
    """Backends, each with the precisions in which float variants are built; quantised ones are built as int8, and in
    what is named of `int8_bfloat16` and `int8_float16` (OpenVINO: what they leave in float runs in that)."""

    backends: dict[str, tuple[str, ...]] = {"onnxruntime": ("float32",), "openvino": ("float32", "bfloat16")}
