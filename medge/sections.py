"""The sections of a recipe: what each stage is told. Unknown keys are mistakes; values do not change after reading."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medge import plugins
from medge.errors import RecipeError

__all__ = [
    "AbsoluteLimits",
    "Augment",
    "Calibration",
    "Cold",
    "Columns",
    "CompileSection",
    "CompressSection",
    "CorruptionSection",
    "DataSection",
    "External",
    "FinetuneSection",
    "Margins",
    "Name",
    "OodSection",
    "PackageSection",
    "Phantom",
    "ProfileSection",
    "Rollback",
    "SearchSection",
    "Section",
    "SelectLimits",
    "SelectSection",
    "Soak",
    "Split",
    "Sporadic",
    "Step",
    "StressSection",
    "ValidateSection",
    "Variant",
    "step_from_shorthand",
]

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Section(BaseModel):
    """Unknown keys are mistakes; values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Section):
    """Names of a manifest's columns. `group` is the patient or lesion; without it each image is its own group."""

    path: str = "path"
    label: str = "label"
    group: str | None = None
    subgroups: tuple[str, ...] = ()


class Split(Section):
    """Shares of the groups, or the manifest column that already says train, validation or test."""

    train: OpenFraction = 0.7
    validation: OpenFraction = 0.1
    test: OpenFraction = 0.2
    column: str | None = None

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must sum to 1")
        return self


class Phantom(Section):
    """Radiograph phantoms drawn from the seed: synthetic, and said so in every output."""

    images: Annotated[int, Field(ge=40)] = 1200
    positive_share: OpenFraction = 0.5
    images_per_group: Annotated[int, Field(ge=1)] = 2
    difficulty: Fraction = 0.5


class External(Section):
    """A labelled set from elsewhere, judged beside the test images and never trained on."""

    path: str
    source: str = "folder"
    manifest: str = "manifest.csv"
    columns: Columns = Columns()


class DataSection(Section):
    """Where images come from, how they are split and resized."""

    source: str = "folder"
    path: str | None = None
    manifest: str = "manifest.csv"
    columns: Columns = Columns()
    medmnist: str | None = None
    phantom: Phantom = Phantom()
    positive: str | None = None
    classes: tuple[str, ...] | None = None
    size: Annotated[int, Field(ge=32, le=1024)] = 224
    resize: Literal["squash", "letterbox", "crop"] = "squash"
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    split: Split = Split()
    max_images: Annotated[int, Field(ge=1)] | None = None
    external: External | None = None


class Augment(Section):
    """Random geometry on training images, each with its range."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    flip_probability: Fraction = 0.5
    vertical_flip_probability: Fraction = 0.0
    zoom: tuple[Annotated[float, Field(gt=0, le=4)], Annotated[float, Field(gt=0, le=4)]] = (0.9, 1.1)

    @model_validator(mode="after")
    def _zoom_ascends(self) -> Augment:
        if self.zoom[0] > self.zoom[1]:
            raise ValueError("zoom is [smallest, largest]")
        return self


class AbsoluteLimits(Section):
    """What the float model must reach on validation before anything is compressed."""

    auc: Fraction | None = None
    accuracy: Fraction | None = None


class FinetuneSection(Section):
    """Transfer learning: a frozen backbone first, then blocks unfrozen from the last one down."""

    model: str = "tf_efficientnet_lite0"
    weights: str = "timm"
    head: Literal["plain", "batchnorm"] = "batchnorm"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    frozen_epochs: Annotated[int, Field(ge=0)] = 3
    epochs: Annotated[int, Field(ge=0)] = 5
    unfreeze_blocks_per_epoch: Annotated[int, Field(ge=1)] = 3
    batch_size: Annotated[int, Field(ge=2)] = 32
    head_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    block_decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=1)] = 3
    class_weights: bool = True
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    augment: Augment = Augment()
    limits: AbsoluteLimits = AbsoluteLimits()


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
    """Which layers of a quantised model go back to float where its gate does not pass, and what the search may cost.

    trials, minutes: the budget of each chain; about one trial for each part of the network, then a few for each layer
    that goes back. images: validation images of a trial of one part (the gate is tried on all of them). flips: go on
    until no larger share of decisions flips; none: the gate's limit. `rollback: null` leaves every layer quantised.
    """

    trials: Annotated[int, Field(ge=1)] = 60
    minutes: Annotated[float, Field(gt=0)] = 10.0
    images: Annotated[int, Field(ge=1)] = 128
    flips: Fraction | None = None


class Variant(Section):
    """Chains to try in order: the first one whose gate passes is kept, else the last one."""

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

    ratios, epochs: what may be tried for prune, and for the trainings. images_per_epoch: training images in each (null:
    all). distill: also try distillation as a step of its own. give_up_flips: a chain that has flipped more decisions
    after a step is given up. rounds, seconds: of each measurement of latency, at least.
    """

    minutes: Annotated[float, Field(gt=0)] = 60.0
    trials: Annotated[int, Field(ge=1)] = 100
    backend: str = "openvino"
    ratios: tuple[OpenFraction, ...] = (0.25, 0.375, 0.5, 0.625, 0.75)
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4)
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
        if "float" in self.variants:
            raise ValueError("'float' is the uncompressed model and always there: name this variant otherwise")
        return self


class CompileSection(Section):
    """Backends, each with the precisions in which float variants are built; quantised ones are built as int8."""

    backends: dict[str, tuple[str, ...]] = {"onnxruntime": ("float32",), "openvino": ("float32", "bfloat16")}


class Margins(Section):
    """The gate: engine minus float must stay above the first four, at most the last two (validation.md)."""

    auc: Annotated[float, Field(lt=0)] = -0.01
    sensitivity: Annotated[float, Field(lt=0)] = -0.02
    specificity: Annotated[float, Field(lt=0)] = -0.03
    f1: Annotated[float, Field(lt=0)] = -0.02
    accuracy: Annotated[float, Field(lt=0)] = -0.02
    flips: Fraction = 0.02
    ece: Fraction = 0.02


class ValidateSection(Section):
    """The trial's protocol, fixed before the test images are judged; its hash goes into the bundle."""

    margins: Margins = Margins()
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    threshold: str = "youden"
    transfer: Literal["carried", "refitted"] = "carried"
    bootstrap: Annotated[int, Field(ge=200)] = 2000

    @field_validator("threshold", mode="before")
    @classmethod
    def _rule_is_known(cls, value: Any) -> str:
        from medge.statistics import thresholds  # numpy and scipy: not for every command line

        try:
            thresholds.parse(str(value))
        except RecipeError as error:
            raise ValueError(f"{error.message} {error.fix}") from None
        return str(value)


class Sporadic(Section):
    """One image every `interval_seconds`, nothing in between; p90 needs 64 queries (MLPerf's rule)."""

    queries: Annotated[int, Field(ge=5)] = 20
    interval_seconds: Annotated[float, Field(ge=0)] = 2.0


class Cold(Section):
    """From the start of a process to its first answer, in so many fresh processes an engine."""

    starts: Annotated[int, Field(ge=3)] = 5


class Soak(Section):
    """One engine alone, back to back, for `seconds`: the fastest one, or all in turn. Power is read here."""

    seconds: Annotated[float, Field(gt=0)] = 120.0
    engines: Literal["fastest", "all"] = "fastest"


class ProfileSection(Section):
    """Interleaved blocks of five inferences over all candidates at once (`steady`), and what else `scenarios` names.

    power_mode, lock_clocks: set on the machine while it is measured and put back after; nothing is changed unless
    asked for. estimate: kinds of machines that do not answer, e.g. `[jetson-orin-nano]`; never ranked.

    device: `local`, a name of the device book, or the kind of the only one there (medge devices add). score: run a
    labelled split there too; data_on_device: PATH.npy and PATH.csv of a labelled set that lies there and stays there.
    limit_minutes: a job on a device that takes longer is ended. keep_on_device: `engines` stay there, so that they are
    sent once, or `nothing` does; images never stay. result: set by `medge profile --import`.
    """

    device: str = "local"
    score: Literal["none", "validation", "test"] = "none"
    data_on_device: str | None = None
    limit_minutes: Annotated[float, Field(gt=0)] = 60.0
    keep_on_device: Literal["engines", "nothing"] = "engines"
    result: str | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    blocks: Annotated[int, Field(ge=10)] = 100
    seconds: Annotated[float, Field(gt=0)] = 15.0
    warmup_seconds: Annotated[float, Field(ge=0)] = 1.0
    scenarios: tuple[Literal["steady", "sporadic", "cold", "soak"], ...] = ("steady",)
    sporadic: Sporadic = Sporadic()
    cold: Cold = Cold()
    soak: Soak = Soak()
    power_mode: str | None = None
    lock_clocks: bool = False
    estimate: tuple[str, ...] = ()

    @field_validator("power_mode", mode="before")
    @classmethod
    def _mode_is_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("scenarios")
    @classmethod
    def _steady_is_measured(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "steady" not in value or len(set(value)) != len(value):
            raise ValueError("name each scenario once, and steady always: an engine is chosen by it")
        return value

    @field_validator("estimate")
    @classmethod
    def _estimated_kinds_are_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from medge.estimate import MACHINES

        if unknown := [name for name in value if name not in MACHINES]:
            raise ValueError(f"no machine '{unknown[0]}'. {plugins.nearest(unknown[0], list(MACHINES))}")
        return value


class SelectLimits(Section):
    """What a candidate must keep to be chosen."""

    p90_ms: Annotated[float, Field(gt=0)] | None = None
    size_mb: Annotated[float, Field(gt=0)] | None = None
    memory_mb: Annotated[float, Field(gt=0)] | None = None
    sensitivity: Fraction | None = None


class SelectSection(Section):
    """Which candidate ships; `engine` names one by hand, and its verdict still counts."""

    engine: str | None = None
    prefer: Literal["latency", "size", "auc"] = "latency"
    limits: SelectLimits = SelectLimits()
    accept_inconclusive: bool = False


class OodSection(Section):
    """Refusal of images unlike the training ones, by the engine's own features; also tried on blank frames and noise.

    false_refusal_rate: of images like the validation ones, which set the threshold. train_images: at most so many are
    fitted on (null: all). sets: folders of images that should be refused, at most images_per_set of each; null is left
    out. The external set is counted too. `ood: null` leaves the refusal out of the bundle.
    """

    method: Literal["mahalanobis", "knn"] = "mahalanobis"
    false_refusal_rate: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    train_images: Annotated[int, Field(ge=3)] | None = 4000
    sets: dict[Name, str | None] = {}
    images_per_set: Annotated[int, Field(ge=1)] = 1000

    @field_validator("sets")
    @classmethod
    def _names_are_free(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        taken = sorted({"blank", "noise", "external", "train", "validation", "test"} & set(value))
        if taken:
            raise ValueError(f"{', '.join(taken)}: medge's own name of a set; choose another")
        return value


class CorruptionSection(Section):
    """Test images made worse (ImageNet-C and MedMNIST-C): kinds `all` or a list, severities 1 to 5.

    The default is cheap: few images, the middle severity. A recipe for real images asks for more.
    """

    images: Annotated[int, Field(ge=10)] = 100
    kinds: Literal["all"] | tuple[str, ...] = "all"
    severities: tuple[Annotated[int, Field(ge=1, le=5)], ...] = (3,)

    @field_validator("kinds")
    @classmethod
    def _kinds_are_known(cls, value: Any) -> Any:
        if value != "all":
            from medge.corruptions import KINDS  # numpy and Pillow: not for every command line

            problems = [f"no corruption '{k}'. {plugins.nearest(k, list(KINDS))}" for k in value if k not in KINDS]
            if problems or not value or len(set(value)) != len(value):
                raise ValueError("; ".join(problems) or "name each kind once, and at least one")
        return value

    @field_validator("severities")
    @classmethod
    def _severities_are_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("name each severity once, and at least one")
        return value


class StressSection(Section):
    """The chosen engine off the beaten path. saliency: for so many flips, new misses first, pictures are drawn."""

    ood: OodSection | None = OodSection()
    corruptions: CorruptionSection | None = CorruptionSection()
    saliency: Annotated[int, Field(ge=0, le=100)] = 8


class PackageSection(Section):
    """The bundle's name under deploy/ (the run's name if empty) and how many golden vectors it carries.

    device: the bundle is for this one (a name or a kind), and its engine needs a receipt of it.
    """

    name: Name | None = None
    device: str | None = None
    golden: Annotated[int, Field(ge=8, le=16)] = 12


CompressSection.model_rebuild()
