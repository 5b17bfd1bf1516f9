"""Saliency: it points where the answer comes from, on every family, and says nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medge import model as models
from medge import saliency
from medge.errors import DataError, RecipeError
from medge.weights import FIRST_CLASS
from tests.nets import images


class Corner(nn.Module):
    """Its class 1 is the brightness of the upper left quarter, its class 0 nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Parameter(torch.zeros(1, 1, 8, 8))
        self.seen.data[:, :, :4, :4] = 1
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data = torch.tensor([[0.0], [1.0]])

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        bright = nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2).float().mean(1, keepdim=True), 4) / 255
        features = self.global_pool(bright * self.seen).flatten(1)
        return self.head(features), features


def bright_corner(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    return pictures[:, :16, :16].mean(axis=(1, 2, 3)) / 255


def grey(level: int = 200) -> NDArray[np.uint8]:
    """Bright in the upper half, dark below, so that hiding either changes it."""
    image = np.full((32, 32, 3), level, dtype=np.uint8)
    image[16:] = 20
    return image


def test_grad_cam_points_at_the_corner_that_decides() -> None:
    found = saliency.grad_cam(Corner(), images(3, size=32), np.array([1, 1, 1]))
    assert (found.shape, found.dtype) == ((3, 32, 32), np.float32)
    for one in found:
        assert one.max() == pytest.approx(1)
        assert one[:16, :16].sum() > 0.85 * one.sum()
        assert one[20:, 20:].max() == 0


def test_a_class_without_gradient_gets_zeros_and_no_nan() -> None:
    found = saliency.grad_cam(Corner(), images(2, size=32), np.array([0, 1]))
    assert found[0].max() == 0
    assert found[1].max() == pytest.approx(1)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", FIRST_CLASS)
def test_grad_cam_works_on_every_first_class_family(name: str) -> None:
    torch.manual_seed(0)
    model = models.create(models.specify(name, classes=2, head="plain", dropout=0.2, size=64))
    found = saliency.grad_cam(model, images(2, size=64), np.array([0, 1]))
    assert found.shape == (2, 64, 64)
    assert found.min() >= 0
    assert found.max() == pytest.approx(1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_grad_cam_is_that_of_the_whole_backward_pass() -> None:
    """Against hooks on forward and backward of the last block, without cutting the graph."""
    torch.manual_seed(0)
    model = models.create(models.specify("resnet18", classes=2, head="plain", dropout=0.0, size=64)).eval()
    pictures = images(1, size=64)
    kept: list[Tensor] = []
    hook = model.backbone.layer4.register_forward_hook(lambda _, __, output: kept.append(output))
    logits, _ = model(torch.from_numpy(pictures))
    hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, 1], kept)
    cam = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1, keepdim=True).relu()
    cam = nn.functional.interpolate(cam, size=(64, 64), mode="bilinear")[0, 0]
    expected = (cam / cam.max()).detach().numpy()
    assert saliency.grad_cam(model, pictures, np.array([1]))[0] == pytest.approx(expected, abs=1e-5)


def test_batches_and_frozen_weights_change_nothing() -> None:
    pictures = images(saliency.BATCH + 3, size=32)
    model = Corner().requires_grad_(False)
    found = saliency.grad_cam(model, pictures, np.ones(len(pictures), dtype=np.int64))
    alone = saliency.grad_cam(model, pictures[-1:], np.array([1]))
    assert found[-1] == pytest.approx(alone[0], abs=1e-6)
    assert saliency.grad_cam(model, pictures[:0], np.array([], dtype=np.int64)).shape == (0, 32, 32)


def test_a_model_without_a_feature_map_is_refused() -> None:
    with pytest.raises(RecipeError, match="Grad-CAM"):
        saliency.grad_cam(nn.Sequential(nn.Linear(3, 2)), images(1, size=32), np.array([0]))


def test_occlusion_points_at_the_corner_that_decides() -> None:
    found = saliency.occlusion_map(bright_corner, grey(), window=8, stride=8)
    assert (found.shape, found.dtype) == ((32, 32), np.float32)
    drop = (200 - 110) / 255 / 4  # one of four windows in the corner turns from 200 to the mean, 110
    assert found[:16, :16] == pytest.approx(np.full((16, 16), drop), rel=1e-5)
    assert np.abs(found[:, 16:]).max() == 0
    assert np.abs(found[16:]).max() == 0


def test_occlusion_is_signed() -> None:
    found = saliency.occlusion_map(lambda pictures: -bright_corner(pictures), grey(), window=8, stride=4)
    assert found.min() < 0
    assert found.max() <= 0


@pytest.mark.parametrize(("window", "stride"), [(5, 3), (7, 7), (32, 1)])
def test_every_pixel_is_covered_whatever_the_window(window: int, stride: int) -> None:
    def marked(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return -(pictures == 110).all(axis=3).any(axis=(1, 2)).astype(float)

    found = saliency.occlusion_map(marked, grey(), window=window, stride=stride)
    assert (found == 1).all()


def test_a_score_that_ignores_the_image_has_an_empty_map() -> None:
    assert not saliency.occlusion_map(lambda pictures: np.ones(len(pictures)), grey(), window=8, stride=8).any()


def test_the_difference_of_occlusion_maps_shows_what_only_one_model_looks_at() -> None:
    def right_corner(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        return pictures[:, :16, 16:].mean(axis=(1, 2, 3)) / 255

    found = saliency.occlusion_difference(bright_corner, right_corner, grey(), window=8, stride=8)
    assert found[:16, :16].max() < 0 < found[:16, 16:].min()
    same = saliency.occlusion_difference(bright_corner, bright_corner, grey(), window=8, stride=8)
    assert not same.any()


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (8, 0), (8, 9), (33, 1)])
def test_an_impossible_window_is_refused(window: int, stride: int) -> None:
    with pytest.raises(RecipeError):
        saliency.occlusion_map(bright_corner, grey(), window=window, stride=stride)


def test_scores_that_are_not_one_finite_number_each_are_refused() -> None:
    with pytest.raises(DataError):
        saliency.occlusion_map(lambda pictures: np.zeros((len(pictures), 2)), grey(), window=8, stride=8)
    with pytest.raises(DataError):
        saliency.occlusion_map(lambda pictures: np.full(len(pictures), np.nan), grey(), window=8, stride=8)


def hill() -> NDArray[np.float32]:
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return np.exp(-6 * (x**2 + y**2)).astype(np.float32)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_overlay_is_readable_in_grey_on_any_background(level: int) -> None:
    """Along a line into the hill each of the three contours is black, then white on the higher side."""
    image = np.full((64, 64, 3), level, dtype=np.uint8)
    line = saliency.overlay(image, hill()).mean(axis=2)[32, :32]
    ups = [k for k in range(31) if line[k] == 0 and line[k + 1] == 255]
    crossings = [
        k for k in range(31) for c in saliency.CONTOURS if hill()[32, k] < c * hill().max() <= hill()[32, k + 1]
    ]
    assert ups == crossings
    assert len(ups) == 3


def test_negative_parts_are_dashed() -> None:
    image = np.full((64, 64, 3), 128, dtype=np.uint8)
    whole = (saliency.overlay(image, hill()) == 255).all(axis=2).sum()
    dashed = (saliency.overlay(image, -hill()) == 255).all(axis=2).sum()
    assert 0.3 < dashed / whole < 0.7


def test_a_map_of_zeros_draws_nothing_and_the_image_is_not_touched() -> None:
    image = images(1, size=64)[0]
    before = image.copy()
    assert np.array_equal(saliency.overlay(image, np.zeros((64, 64), np.float32)), image)
    saliency.overlay(image, hill())
    assert np.array_equal(image, before)


@pytest.mark.parametrize("bad", [np.zeros((8, 8), np.float32), np.full((64, 64), np.nan, np.float32)])
def test_a_map_that_does_not_fit_is_refused(bad: NDArray[np.float32]) -> None:
    with pytest.raises(DataError):
        saliency.overlay(images(1, size=64)[0], bad)
