"""Fewer pixels: the network sees a reduced image, and is trained to answer as it did on the whole one.

The image is reduced inside the model, so its input and its preprocessing stay what they were, and nothing of the
network is taken away; the operations of its convolutions fall with the square of the side. It is reduced bilinearly,
which from more than twice the side would skip pixels: at least half is left. Pooled features keep their meaning and
shift in scale (Touvron et al. 2019, Fixing the train-test resolution discrepancy, arXiv 1906.06423), so the BatchNorms
gather new statistics before the training.
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
    from medge.model import Classifier

__all__ = ["Options", "apply", "check"]

MULTIPLE = 8  # pixels: what remains of the image after three strides of 2 is then whole


@dataclass(frozen=True)
class Options(Training):
    """scale: the reduced image's side as a share of the whole one's, rounded to a multiple of 8 pixels. The rest:
    medge.recovery.Training.
    """

    scale: float = 0.7
    epochs: int = 3

    def __post_init__(self) -> None:
        check_number("scale", self.scale, low=0.5, high=1)
        if self.scale == 1:
            raise ValueError("scale is below 1 (nothing is reduced)")
        check_number("batch_size", self.batch_size, kind=int, low=2)
        super().__post_init__()


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A copy of `model` that reduces its images, trained, in eval mode. Continues at its epoch in `context.work`.

    Raises RecipeError where that reduces nothing or skips pixels, ToolError for another module and for a network that
    takes images of one size only.
    """
    from medge.model import Classifier

    if not isinstance(model, Classifier):
        raise ToolError("resolution takes a classifier of medge.", fix="Put resolution before what quantises.")
    reduced, side = _reduced(model, options, context)
    whole = context.data.preprocess.height
    channels.refresh_batch_norms(reduced, context.data, context.calibration)
    context.log.append(
        f"resolution: the model sees {side} x {side} of {whole} x {whole} pixels, {(side / whole) ** 2:.0%} of them."
    )
    training = part(options, Training)
    job = Job("resolution", context.work / "resolution.pt", repr(options), training, batch_norms=True)
    return recover(reduced, job, context)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. A copy of `model` that reduces its images."""
    return _reduced(model, options, context)[0]


def _reduced(model: Classifier, options: Options, context: Context) -> tuple[Classifier, int]:
    """The copy, untrained, and the side in pixels that it sees."""
    whole = context.data.preprocess.height
    side = _side(options.scale, seen=model.side or whole, whole=whole)
    reduced = copy.deepcopy(model)
    reduced.side = side
    _check_takes(reduced, context)
    return reduced, side


def _side(scale: float, *, seen: int, whole: int) -> int:
    """The side that is left of `seen`, of an image of `whole`. Raises RecipeError where it is no less or too little."""
    side = MULTIPLE * round(scale * seen / MULTIPLE)
    found = f"resolution: {scale:g} of {seen} pixels, rounded to a multiple of {MULTIPLE}, is {side}"
    if side >= seen:
        raise RecipeError(f"{found}.", fix="Give a smaller scale, or larger images (data.size).")
    if 2 * side < whole:
        raise RecipeError(
            f"{found}: less than half of the image's {whole}, and a bilinear reduction would skip pixels.",
            fix="Give a larger scale, or a smaller data.size.",
        )
    return side


def _check_takes(reduced: Classifier, context: Context) -> None:
    """Raises ToolError where the backbone refuses the size, as transformers with learned positions do."""
    import torch

    image = torch.from_numpy(context.data.read(context.data.indices("train")[:1]))
    try:
        with torch.inference_mode():
            reduced.eval()(image)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ToolError(
            f"resolution: {reduced.spec.timm_name} cannot take {reduced.side} px images: {error}.",
            fix="Leave resolution out, or choose a convolutional network.",
        ) from error
