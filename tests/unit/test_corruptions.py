"""Corruptions: the published strengths, worse with each severity, repeatable, and grey where grey is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from medge.corruptions import KINDS, SEVERITIES, corrupt
from medge.data.sources import phantom
from medge.errors import DataError, RecipeError

NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
BLURS = ("gaussian_blur", "defocus_blur", "motion_blur")
SMALL = arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)))


def drawn() -> NDArray[np.uint8]:
    plane = phantom.draw(1, 0, 0, positive=True, difficulty=0.5)
    return np.repeat(plane[:, :, None], 3, axis=2)


def coloured(side: int = 160) -> NDArray[np.uint8]:
    """The phantom in the colours of skin."""
    picture = Image.fromarray(drawn()).resize((side, side), Image.Resampling.BICUBIC)
    return np.rint(np.asarray(picture) * [0.95, 0.7, 0.6] + [10, 5, 5]).astype(np.uint8)


def flat(level: int, side: int = 224) -> NDArray[np.uint8]:
    return np.full((side, side, 3), level, dtype=np.uint8)


def distances(image: NDArray[np.uint8], kind: str, seed: int) -> list[float]:
    worse = [corrupt(image, kind, severity, seed=seed) for severity in SEVERITIES]
    return [float(np.abs(w.astype(float) - image).mean()) for w in worse]


def assert_grows(image: NDArray[np.uint8], kind: str) -> None:
    for seed in range(4):  # both sides of gamma, several directions of movement
        found = distances(image, kind, seed)
        assert found[0] > 0
        assert found == sorted(set(found)), (seed, found)


def test_there_are_thirteen_kinds_with_names_of_their_own() -> None:
    assert len(set(KINDS)) == 13


@pytest.mark.parametrize("kind", KINDS)
def test_a_phantom_gets_worse_with_each_severity(kind: str) -> None:
    assert_grows(drawn(), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_coloured_image_gets_worse_with_each_severity(kind: str) -> None:
    assert_grows(coloured(), kind)


@pytest.mark.shared
@pytest.mark.parametrize("kind", KINDS)
def test_real_chest_x_rays_get_worse_with_each_severity(kind: str, shared: Path) -> None:
    for name in ("NORMAL", "PNEUMONIA"):
        path = sorted((shared / "data" / "chest-xray" / name).iterdir())[0]
        image = np.asarray(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
        assert_grows(image, kind)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(image=SMALL, severity=st.sampled_from(SEVERITIES), seed=st.integers(0, 2**32))
def test_any_image_keeps_shape_and_type_and_gives_the_same_bytes_again(
    kind: str, image: NDArray[np.uint8], severity: int, seed: int
) -> None:
    before = image.copy()
    image.flags.writeable = False
    worse = corrupt(image, kind, severity, seed=seed)
    assert (worse.shape, worse.dtype) == (image.shape, np.uint8)
    assert worse.tobytes() == corrupt(before, kind, severity, seed=seed).tobytes()
    assert np.array_equal(image, before)
    assert not np.shares_memory(worse, image)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(image=SMALL, severity=st.sampled_from(SEVERITIES))
def test_a_grey_image_stays_grey(kind: str, image: NDArray[np.uint8], severity: int) -> None:
    grey = np.repeat(image[:, :, :1], 3, axis=2)
    worse = corrupt(grey, kind, severity, seed=0)
    assert (worse == worse[:, :, :1]).all()


@pytest.mark.parametrize("kind", NOISES)
def test_noise_of_a_coloured_image_differs_between_channels(kind: str) -> None:
    image = flat(128)
    image[0, 0] = (1, 2, 3)  # no longer grey
    change = corrupt(image, kind, 3, seed=0)[1:].astype(float) - 128
    correlation = np.corrcoef(change.reshape(-1, 3).T)
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.02


@pytest.mark.parametrize("kind", [*NOISES, "motion_blur", "gamma"])
def test_another_seed_draws_otherwise(kind: str) -> None:
    image = coloured()
    assert len({corrupt(image, kind, 3, seed=seed).tobytes() for seed in range(8)}) > 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (*NOISES, "motion_blur", "gamma")])
def test_kinds_without_chance_ignore_the_seed(kind: str) -> None:
    image = coloured()
    assert len({corrupt(image, kind, 3, seed=seed).tobytes() for seed in range(8)}) == 1


@pytest.mark.parametrize(
    ("kind", "level", "expected"),
    [
        ("gaussian_noise", 128, 0.08),  # ImageNet-C's first severity, in 0..1; clipping is rare there
        ("shot_noise", 64, (64 / 255 / 60) ** 0.5),  # Poisson: variance of Poisson(x n) / n is x / n
        ("speckle_noise", 102, 0.15 * 102 / 255),
    ],
)
def test_noise_has_the_published_standard_deviation(kind: str, level: int, expected: float) -> None:
    assert corrupt(flat(level), kind, 1, seed=0)[:, :, 0].std() / 255 == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.03), (5, 0.27)])
def test_impulses_are_as_many_as_published_and_half_of_them_white(severity: int, share: float) -> None:
    plane = corrupt(flat(100), "impulse_noise", severity, seed=0)[:, :, 0]
    assert set(np.unique(plane)) == {0, 100, 255}
    assert (plane != 100).mean() == pytest.approx(share, rel=0.1)
    assert (plane == 255).sum() / (plane != 100).sum() == pytest.approx(0.5, abs=0.05)


def second_moments(kind: str, severity: int, side: int, seed: int = 0) -> NDArray[np.float64]:
    """Covariance (px^2) of what becomes of a white square of 8 px, less that of the square itself (63 / 12)."""
    image = flat(0, side)
    middle = slice(side // 2 - 4, side // 2 + 4)
    image[middle, middle] = 255
    weight = corrupt(image, kind, severity, seed=seed)[:, :, 0].astype(float)
    places = np.mgrid[:side, :side].reshape(2, -1)
    return np.cov(places, aweights=weight.ravel(), ddof=0) - np.eye(2) * 63 / 12


@pytest.mark.parametrize(("kind", "variance"), [("gaussian_blur", 1.0), ("defocus_blur", 3**2 / 4)])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_blur_is_as_wide_as_published_at_224_px_and_in_proportion_elsewhere(
    kind: str, variance: float, scale: int
) -> None:
    """A Gaussian's variance on each axis is sigma^2, a disk's is radius^2 / 4."""
    found = second_moments(kind, 1, 224 * scale)
    assert np.diag(found) == pytest.approx(np.full(2, variance * scale**2), rel=0.06)
    assert abs(found[0, 1]) < 0.02 * variance


def test_movement_blurs_along_one_line_and_leaves_the_image_where_it_was() -> None:
    t = np.linspace(0, 20, 100_001)  # half a Gaussian of sigma 3 px, 20 px long: ImageNet-C's first severity
    weight = np.exp(-0.5 * (t / 3) ** 2)
    along = np.average(t**2, weights=weight) - np.average(t, weights=weight) ** 2
    image = flat(0)
    image[104:120, 104:120] = 255
    for seed in range(5):
        across, found = np.linalg.eigvalsh(second_moments("motion_blur", 1, 224, seed))
        assert found == pytest.approx(along, rel=0.15)
        assert across < 0.5
        moved = corrupt(image, "motion_blur", 5, seed=seed)[:, :, 0].astype(float)
        centre = [np.average(axis, weights=moved) for axis in np.mgrid[:224, :224]]
        assert centre == pytest.approx([111.5, 111.5], abs=0.1)


@pytest.mark.parametrize("kind", [*BLURS, "contrast", "pixelate"])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_flat_image_has_nothing_to_blur(kind: str, level: int) -> None:
    for severity in SEVERITIES:
        assert np.abs(corrupt(flat(level, 32), kind, severity, seed=0).astype(int) - level).max() <= 1


def test_brightness_keeps_hue_and_black_becomes_grey() -> None:
    image = np.array([[[100, 50, 0], [0, 0, 0], [200, 80, 0]]], dtype=np.uint8)
    raised = corrupt(image, "brightness_up", 4, seed=0)  # V + 0.4, that is 102 levels
    assert raised.tolist() == [[[202, 101, 0], [102, 102, 102], [255, 102, 0]]]
    assert corrupt(image, "brightness_down", 5, seed=0).tolist() == [[[50, 25, 0], [0, 0, 0], [100, 40, 0]]]


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.4), (3, 0.2), (5, 0.05)])
def test_contrast_shrinks_about_the_mean(severity: int, factor: float) -> None:
    image = drawn()
    less = corrupt(image, "contrast", severity, seed=0)
    assert less.mean() == pytest.approx(image.mean(), abs=0.5)
    assert less.std() == pytest.approx(image.std() * factor, rel=0.05)


def test_gamma_darkens_some_images_and_lightens_others_and_keeps_black_and_white() -> None:
    found = set()
    for seed in range(16):
        levels = corrupt(np.array([[[0] * 3, [128] * 3, [255] * 3]], dtype=np.uint8), "gamma", 5, seed=seed)[0, :, 0]
        found.add(tuple(levels.tolist()))
    assert found == {(0, round(255 * (128 / 255) ** 1.6), 255), (0, round(255 * (128 / 255) ** 0.4), 255)}


def test_pixelate_makes_blocks() -> None:
    worse = corrupt(coloured(64), "pixelate", 5, seed=0)  # a quarter: blocks of 4 px
    blocks = worse.reshape(16, 4, 16, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_an_unknown_kind_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        corrupt(flat(0, 8), "gausian_noise", 1, seed=0)
    assert "gaussian_noise" in caught.value.fix


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_an_unknown_severity_is_refused(severity: int) -> None:
    with pytest.raises(RecipeError):
        corrupt(flat(0, 8), "contrast", severity, seed=0)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (0, 8, 3), (1, 8, 8, 3)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError):
        corrupt(np.zeros(shape, dtype=np.uint8), "contrast", 1, seed=0)
    with pytest.raises(DataError):
        corrupt(np.zeros((8, 8, 3), dtype=np.float32), "contrast", 1, seed=0)  # type: ignore[arg-type]
