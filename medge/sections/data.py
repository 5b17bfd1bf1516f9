"""data: where images come from, how they are split and resized."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medge.sections.base import Fraction, OpenFraction, Section

__all__ = ["Columns", "DataSection", "External", "Phantom", "Split"]


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
