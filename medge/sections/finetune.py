"""finetune: how the float model is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from medge.sections.base import Fraction, Section

__all__ = ["AbsoluteLimits", "Augment", "FinetuneSection"]


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
