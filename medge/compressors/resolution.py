"""Fewer pixels: the network sees a reduced image, and is trained to answer as it did on the whole one.

The image is reduced inside the model, so its input, its preprocessing and its weights stay what they were, and nothing
of the network is taken away; the operations of its convolutions fall with the square of the side. It is reduced
bilinearly, which from more than twice the side would skip pixels. Pooled features keep their meaning and shift in
scale (Touvron et al. 2019, Fixing the train-test resolution discrepancy, arXiv 1906.06423), so the BatchNorms gather
new statistics before the training.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medge import channels
from medge.compressors._options import check_number, part
from medge.errors import RecipeError, ToolError
from medge.recovery import Job, Training, recover

if TYPE_CHECKING:
    from torch import nn

    from medge.compressors import Context

__all__ = ["Options", "apply"]

MULTIPLE = 8  # pixels: what remains of the image after three strides of 2 is then whole


@dataclass(frozen=True)
class Options:
    """scale: the reduced image's side as a share of the whole one's, rounded to a multiple of 8 pixels. The rest:
    medge.recovery.Training.
    """

    scale: float = 0.7
    epochs: int = 3
    learning_rate: float = 5e-4
    batch_size: int = 32
    temperature: float = 1.0
    distillation: float = 1.0
    features: float = 1.0
    mixup: float = 0.0
    images_per_epoch: int | None = None

    def __post_init__(self) -> None:
        check_number("scale", self.scale, low=0.5, high=1)
        if self.scale == 1:
            raise ValueError("scale is below 1 (nothing is reduced)")
        check_number("batch_size", self.batch_size, kind=int, low=2)
        part(self, Training)


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A copy of `model` that reduces its images, trained, in eval mode. Continues at its epoch in `context.work`.

    Raises RecipeError where the image is too small to be reduced so little, ToolError for another module.
    """
    from medge.model import Classifier

    if not isinstance(model, Classifier):
        raise ToolError("resolution takes a classifier of medge.", fix="Put resolution before what quantises.")
    whole = model.side or model.spec.size
    side = MULTIPLE * round(options.scale * whole / MULTIPLE)
    if not 0 < side < whole:
        raise RecipeError(
            f"resolution: {options.scale:g} of {whole} pixels, rounded to a multiple of {MULTIPLE}, is {side}.",
            fix="Give a smaller scale." if side else "Give larger images (data.size), or leave resolution out.",
        )
    reduced = copy.deepcopy(model)
    reduced.side = side
    channels.refresh_batch_norms(reduced, context.data, context.calibration)
    context.log.append(
        f"resolution: the model sees {side} x {side} of {whole} x {whole} pixels, {(side / whole) ** 2:.0%} of them."
    )
    training = part(options, Training)
    job = Job("resolution", context.work / "resolution.pt", repr(options), training, batch_norms=True)
    return recover(reduced, job, context)
