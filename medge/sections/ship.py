"""select, stress and package: what ships, what it is put through, and what it carries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from medge import plugins
from medge.sections.base import Fraction, Name, Section

__all__ = ["CorruptionSection", "OodSection", "PackageSection", "SelectLimits", "SelectSection", "StressSection"]


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
