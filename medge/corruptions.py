"""Thirteen ways in which an image gets worse on its way to the model, at five severities each.

After Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
ICLR 2019 (ImageNet-C), whose severity tables are for 224 px, and Di Salvo, Doerrich and Ledig, "MedMNIST-C", 2024,
for what ImageNet-C lacks. Weather is left out: no radiograph was ever taken in snow. The code is ours; each function
says which table it follows and where it departs.

*Size.* Lengths (sigma of a blur, radius of a disk, length of a movement) are multiplied by the shorter side / 224, so
that the same share of the anatomy is blurred; on small images the first severities therefore do little. Noise,
brightness, contrast and gamma are per pixel, JPEG's blocks are 8 px and pixelate's factor is relative: these are as
published at every size.

*Grey.* A radiograph's detector counts once, and its one plane is copied to three channels. So an image whose three
channels are equal everywhere is corrupted as one plane and stays grey, noise included; in any other image the noise
of the channels is independent, as published.

*Rounding.* To the nearest of 256 levels, where ImageNet-C truncates and saves as JPEG of quality 85.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from medge import plugins
from medge.errors import DataError, RecipeError

__all__ = ["KINDS", "SEVERITIES", "corrupt"]

Planes = NDArray[np.float64]  # [h, w, 1 or 3] in 0..1
SEVERITIES = (1, 2, 3, 4, 5)
PUBLISHED_SIDE = 224  # px


def corrupt(image: NDArray[np.uint8], kind: str, severity: int, *, seed: int) -> NDArray[np.uint8]:
    """The image uint8 [h, w, 3], worse: a new array of the same shape.

    `seed` >= 0 decides noise, direction of movement and side of gamma. It is not mixed with the severity, so that the
    severities of one image share their random draws and differ in strength alone; give each image its own seed. Equal
    arguments give equal bytes on one machine (exp and FFT may round differently on another). Raises RecipeError for an
    unknown kind, with the nearest, or severity; DataError for an array that is not such an image.
    """
    if kind not in _FUNCTIONS:
        raise RecipeError(f"No corruption '{kind}'.", fix=plugins.nearest(kind, list(KINDS)))
    if severity not in SEVERITIES:
        raise RecipeError(f"No severity {severity} of a corruption.", fix="Choose 1 (least) to 5 (most).")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(
            f"Not an image: {image.dtype} {list(image.shape)}.", fix="Give uint8 [height, width, 3], not empty."
        )
    grey = bool((image == image[:, :, :1]).all())
    planes = (image[:, :, :1] if grey else image).astype(np.float64) / 255
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode())])
    worse = _FUNCTIONS[kind](planes, severity - 1, rng)
    levels = np.rint(np.clip(worse, 0, 1) * 255).astype(np.uint8)
    return np.repeat(levels, 3, axis=2) if grey else levels


def _gaussian_noise(x: Planes, at: int, rng: Generator) -> Planes:
    """Normal noise of electronics; its standard deviation is ImageNet-C's."""
    return x + rng.normal(size=x.shape) * (0.08, 0.12, 0.18, 0.26, 0.38)[at]


def _shot_noise(x: Planes, at: int, rng: Generator) -> Planes:
    """Counting noise of few quanta: Poisson(x n) / n with ImageNet-C's n of a white pixel."""
    quanta = (60, 25, 12, 5, 3)[at]
    return rng.poisson(x * quanta) / quanta


def _impulse_noise(x: Planes, at: int, rng: Generator) -> Planes:
    """Dead pixels, black or white by a coin; their share is ImageNet-C's."""
    hit = rng.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[at]
    return np.where(hit, np.where(rng.random(x.shape) < 0.5, 1.0, 0.0), x)


def _speckle_noise(x: Planes, at: int, rng: Generator) -> Planes:
    """Noise in proportion to the signal: x + x N(0, c) with ImageNet-C's c."""
    return x + x * rng.normal(size=x.shape) * (0.15, 0.2, 0.35, 0.45, 0.6)[at]


def _gaussian_blur(x: Planes, at: int, rng: Generator) -> Planes:
    """ImageNet-C's sigma in px at 224, scaled; the image's edge goes on outside, as there."""
    from scipy.ndimage import gaussian_filter

    sigma = (1, 2, 3, 4, 6)[at] * _scale(x)
    blurred: Planes = gaussian_filter(x, sigma=(sigma, sigma, 0), mode="nearest", truncate=4)
    return blurred


def _defocus_blur(x: Planes, at: int, rng: Generator) -> Planes:
    """A lens out of focus: a disk of ImageNet-C's radius in px at 224, scaled; mirrored at the edge, as there.

    Its rim is smooth by area (each pixel as far as the disk covers it), where ImageNet-C blurs a jagged disk a little:
    a scaled radius need not be whole.
    """
    return _convolved(x, _disk((3, 4, 6, 8, 10)[at] * _scale(x)), border="reflect")


def _motion_blur(x: Planes, at: int, rng: Generator) -> Planes:
    """A patient, breath or hand that moved: a fading trail, half a Gaussian, along a line.

    Lengths and sigmas are ImageNet-C's (radius, sigma), given to ImageMagick, whose trail is 2 radius + 1 px long; in
    px at 224, scaled. Two departures: the direction is any (theirs within 45 degrees of the horizontal; a chest moves
    up and down), and the trail is centred on its own mass, because theirs shifts the picture too: that is no blur.
    """
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[at]
    angle = rng.uniform(0, 2 * np.pi)
    return _convolved(x, _trail(2 * radius * _scale(x), sigma=sigma * _scale(x), angle=angle), border="edge")


def _brightness_up(x: Planes, at: int, rng: Generator) -> Planes:
    """ImageNet-C's brightness: V of hue, saturation and value raised by c, and clipped.

    Hue and saturation stay, so all channels are multiplied by the ratio of the values; black becomes grey.
    """
    value = x.max(axis=2, keepdims=True)
    raised = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[at], 1)
    brighter: Planes = np.where(value > 0, x / np.where(value > 0, value, 1), 1) * raised
    return brighter


def _brightness_down(x: Planes, at: int, rng: Generator) -> Planes:
    """Less exposure: all multiplied by MedMNIST-C's factor for chest X-rays and skin."""
    return x * (0.9, 0.8, 0.7, 0.6, 0.5)[at]


def _contrast(x: Planes, at: int, rng: Generator) -> Planes:
    """Each channel drawn towards its mean over the image, by ImageNet-C's factor."""
    mean = x.mean(axis=(0, 1), keepdims=True)
    flatter: Planes = (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[at] + mean
    return flatter


def _gamma(x: Planes, at: int, rng: Generator) -> Planes:
    """Another tone curve, x^gamma: MedMNIST-C's exponents for chest X-rays, darker or lighter by a coin of the seed."""
    exponents = ((1.1, 1.2, 1.3, 1.4, 1.6), (0.9, 0.8, 0.7, 0.6, 0.4))[int(rng.integers(2))]
    curved: Planes = np.power(x, exponents[at])
    return curved


def _jpeg(x: Planes, at: int, rng: Generator) -> Planes:
    """Through libjpeg at ImageNet-C's quality; colour at half resolution, Pillow's default, as there."""
    stream = io.BytesIO()
    _picture(x).save(stream, format="JPEG", quality=(25, 18, 15, 10, 7)[at])
    return _planes(Image.open(stream))


def _pixelate(x: Planes, at: int, rng: Generator) -> Planes:
    """Shrunk by ImageNet-C's factor with a box filter and enlarged again."""
    factor = (0.6, 0.5, 0.4, 0.3, 0.25)[at]
    height, width = x.shape[:2]
    small = (max(1, int(width * factor)), max(1, int(height * factor)))
    return _planes(_picture(x).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX))


_FUNCTIONS: dict[str, Callable[[Planes, int, Generator], Planes]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "gaussian_blur": _gaussian_blur,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "brightness_up": _brightness_up,
    "brightness_down": _brightness_down,
    "contrast": _contrast,
    "gamma": _gamma,
    "jpeg": _jpeg,
    "pixelate": _pixelate,
}
KINDS: tuple[str, ...] = tuple(_FUNCTIONS)


def _scale(x: Planes) -> float:
    return float(min(x.shape[:2])) / PUBLISHED_SIDE


def _disk(radius: float) -> NDArray[np.float64]:
    """Share of each pixel that a disk around the middle pixel's centre covers, sum 1; counted on 15 x 15 points."""
    reach = int(np.ceil(radius + 0.5))
    points = (np.arange((2 * reach + 1) * 15) - ((2 * reach + 1) * 15 - 1) / 2) / 15
    inside = (points[:, None] ** 2 + points[None, :] ** 2 <= radius**2).astype(np.float64)
    covered: NDArray[np.float64] = inside.reshape(2 * reach + 1, 15, 2 * reach + 1, 15).sum(axis=(1, 3))
    covered /= covered.sum()
    return covered


def _trail(length: float, *, sigma: float, angle: float) -> NDArray[np.float64]:
    """exp(-t^2 / (2 sigma^2)), t from 0 to `length` px along `angle`, its mass centred on the middle pixel, sum 1.

    Each of many points is shared among the four pixels around it.
    """
    t = np.linspace(0, length, 8 * int(np.ceil(length)) + 1)
    weight = np.exp(-0.5 * (t / sigma) ** 2)
    weight /= weight.sum()
    t = t - (t * weight).sum()
    reach = int(np.ceil(np.abs(t).max())) + 1
    row, column = reach + t * np.sin(angle), reach + t * np.cos(angle)
    top, left = np.floor(row).astype(np.int64), np.floor(column).astype(np.int64)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
            np.add.at(kernel, (top + down, left + right), share * weight)
    return kernel


def _convolved(x: Planes, kernel: NDArray[np.float64], *, border: str) -> Planes:
    """Each channel convolved with a kernel of odd sides, the image continued outside by numpy.pad's `border`."""
    from scipy.signal import fftconvolve

    reach = kernel.shape[0] // 2
    wide = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode=border)  # type: ignore[call-overload]
    found: Planes = fftconvolve(wide, kernel[:, :, None], mode="valid", axes=(0, 1))
    return found


def _picture(x: Planes) -> Image.Image:
    levels = np.rint(x * 255).astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if x.shape[2] == 1 else levels)


def _planes(picture: Image.Image) -> Planes:
    pixels = np.asarray(picture, dtype=np.float64) / 255
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
