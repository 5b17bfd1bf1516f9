"""Where in an image a decision comes from: Grad-CAM inside the float model, occlusion for anything that gives scores.

Both show where the score depends on the pixels, not why, and neither proves that the model looks at the right thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medge.errors import DataError, RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Score", "grad_cam", "occlusion_difference", "occlusion_map", "overlay"]

Images = NDArray[np.uint8]
Map = NDArray[np.float32]
Score = Callable[[Images], NDArray[Any]]  # uint8 [n, h, w, 3] -> float [n]

BATCH = 32
CONTOURS = (0.25, 0.5, 0.75)  # of the largest absolute value
TINT = 0.35


def grad_cam(model: nn.Module, images: Images, classes: NDArray[np.int64]) -> Map:
    """Grad-CAM of each image's class, float32 [n, h, w] in 0..1: Selvaraju et al., ICCV 2017, equations 1 and 2.

    images uint8 [n, h, w, 3], classes [n]; model returns (logits, features). The feature map is what enters the last
    pooling; its channels are weighted with the mean gradient of the class's logit, summed, cut at 0, enlarged
    bilinearly and divided by the image's maximum, so that maps of two images do not compare in height. An image
    whose map is nowhere positive (no gradient, or only evidence against the class) gets zeros. The model's training
    mode is put back; its parameters get no gradient. Raises RecipeError for a model that does not pool a feature map.
    """
    import torch

    device = next(iter([*model.parameters(), *model.buffers()])).device
    was_training = model.training
    model.eval()
    found = [np.zeros((0, *images.shape[1:3]), dtype=np.float32)]
    try:
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH])).to(device)
            wanted = torch.as_tensor(classes[start : start + BATCH], dtype=torch.int64, device=device)
            found.append(_cams(model, batch, wanted).cpu().numpy())
    finally:
        model.train(was_training)
    return np.concatenate(found)


def _cams(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM of one batch. The map is cut from the graph where it enters the pooling: backward runs the head only."""
    import torch
    from torch.nn import functional

    kept: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept[:] = [inputs[0].detach().requires_grad_()]
        return (kept[0], *inputs[1:])

    hook = _pooling(model).register_forward_pre_hook(keep)
    try:
        with torch.enable_grad():
            logits = model(images)[0]
            chosen = logits.gather(1, classes[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, kept)
    finally:
        hook.remove()
    weights = gradient.float().mean(dim=(2, 3), keepdim=True)
    cam = functional.relu((weights * kept[0].detach().float()).sum(dim=1, keepdim=True))
    cam = functional.interpolate(cam, size=images.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
    highest = cam.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, cam / torch.where(highest > 0, highest, 1), 0).clamp(0, 1)


def _pooling(model: nn.Module) -> nn.Module:
    """The last global average pooling that is not inside another one; timm's or torch's."""
    kinds = ("SelectAdaptivePool2d", "AdaptiveAvgPool2d")
    found = {name: module for name, module in model.named_modules() if type(module).__name__ in kinds}
    outer = [module for name, module in found.items() if name.rpartition(".")[0] not in found]
    if not outer:
        raise RecipeError(
            f"Grad-CAM needs a feature map and {type(model).__name__} pools none.",
            fix="Use an occlusion map, which any model has.",
        )
    last: nn.Module = outer[-1]
    return last


def occlusion_map(score: Score, image: Images, *, window: int, stride: int) -> Map:
    """How far the score falls where the image is hidden, signed, float32 [h, w]: Zeiler and Fergus, ECCV 2014.

    A square of `window` px in the image's mean colour moves by `stride` px; a pixel's value is the mean of
    score(image) - score(hidden) over the squares that cover it. The last square of each row and column lies at the
    border, so that every pixel is covered. Positive: what is there speaks for the class. Raises RecipeError unless
    1 <= stride <= window <= the image's shorter side; DataError where the scores are not one finite number per image.
    """
    height, width = image.shape[:2]
    if not 1 <= stride <= window <= min(height, width):
        raise RecipeError(
            f"A window of {window} px moved by {stride} px on an image of {width} x {height} px.",
            fix="Choose 1 <= stride <= window <= the image's shorter side.",
        )
    places = [(y, x) for y in _starts(height, window, stride) for x in _starts(width, window, stride)]
    whole = _scores(score, image[None])[0]
    total, covered = np.zeros((height, width)), np.zeros((height, width))
    for batch in _batches(places):
        hidden = np.repeat(image[None], len(batch), axis=0)
        for k, (y, x) in enumerate(batch):
            hidden[k, y : y + window, x : x + window] = np.rint(image.mean(axis=(0, 1)))
        for (y, x), left in zip(batch, _scores(score, hidden), strict=True):
            total[y : y + window, x : x + window] += whole - left
            covered[y : y + window, x : x + window] += 1
    return (total / covered).astype(np.float32)


def occlusion_difference(before: Score, after: Score, image: Images, *, window: int, stride: int) -> Map:
    """Occlusion map of `after` less that of `before`, float32 [h, w]: positive where `after` leans more on the image.

    Both scores must be of one class and one scale (two models' calibrated probabilities, say). Raises as occlusion_map.
    """
    earlier = occlusion_map(before, image, window=window, stride=stride)
    return occlusion_map(after, image, window=window, stride=stride) - earlier


def _starts(length: int, window: int, stride: int) -> list[int]:
    return sorted({*range(0, length - window + 1, stride), length - window})


def _batches(places: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    return (places[start : start + BATCH] for start in range(0, len(places), BATCH))


def _scores(score: Score, images: Images) -> NDArray[np.float64]:
    found = np.asarray(score(images), dtype=np.float64)
    if found.shape != (len(images),) or not np.isfinite(found).all():
        raise DataError(
            f"Scores of shape {list(found.shape)} for {len(images)} images, or not finite.",
            fix="Give one finite number for each image.",
        )
    return found


def overlay(image: Images, saliency: Map) -> Images:
    """The image uint8 [h, w, 3] with a map [h, w] drawn on it, readable in grey too; a new array.

    Contours at a quarter, half and three quarters of the largest absolute value: white on the higher side and black on
    the lower, whole where the map is positive, dashed where it is negative, over a light tint, orange or blue. A map
    of zeros draws nothing. Raises DataError for another shape or a map that is not finite.
    """
    if saliency.shape != image.shape[:2] or not np.isfinite(saliency).all():
        raise DataError(
            f"A map of shape {list(saliency.shape)}, or not finite, for an image of {list(image.shape)}.",
            fix="Give a finite map of the image's height and width.",
        )
    highest = float(np.abs(saliency).max(initial=0))
    if highest == 0:
        return np.array(image)
    height = saliency.astype(np.float64) / highest
    drawn = image.astype(np.float64)
    for part, colour in ((np.maximum(height, 0), (255, 140, 0)), (np.maximum(-height, 0), (0, 90, 255))):
        drawn += (np.asarray(colour) - drawn) * (TINT * part)[:, :, None]
    for sign, dash in ((1, np.ones(height.shape, dtype=bool)), (-1, _dashes(height.shape))):
        for level in CONTOURS:
            inside = sign * height >= level
            drawn[_rim(~inside) & dash] = 0
            drawn[_rim(inside) & dash] = 255
    pixels: Images = np.rint(np.clip(drawn, 0, 255)).astype(np.uint8)
    return pixels


def _rim(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the region with a neighbour (of four) outside it; the image's border is not a rim."""
    wide = np.pad(region, 1, mode="edge")
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    rim: NDArray[np.bool_] = region & ~inner
    return rim


def _dashes(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Squares of 3 px like a chessboard's, which cut any line into dashes."""
    rows, columns = np.indices(shape) // 3
    cut: NDArray[np.bool_] = (rows + columns) % 2 == 0
    return cut
