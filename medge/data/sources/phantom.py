"""Radiograph phantoms drawn from a seed: a stand-in for chest X-rays where there are none. Synthetic, and said so.

An anatomy (body, lungs, ribs, heart) belongs to a group; its images differ in position, exposure and noise. The
positive class has soft opacities in the lungs, some of them so faint that no reader finds them all.

Only + - * / sqrt, comparisons and integer draws are used: IEEE 754 rounds these alike everywhere, so that a seed
gives the same bytes on every machine; exp, sin and BLAS would not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medge.data.table import SourceTable, interned

__all__ = ["CLASSES", "SIDE", "draw", "files", "rows"]

Plane = NDArray[Any]  # float32 [SIDE, SIDE]

CLASSES = ("normal", "opacity")
SIDE = 160  # px of a phantom before it is resized as any other image
VERSION = 1  # of the drawing; part of what decides the pixels


def files(section: Any) -> Iterator[Path]:
    """No files: the seed decides."""
    return iter(())


def rows(section: Any, *, seed: int, work: Path) -> SourceTable:
    """`phantom.images` images in groups of `images_per_group`; a group is positive or not as a whole."""
    spec = section.phantom
    count = -(-spec.images // spec.images_per_group)
    positive = np.zeros(count, dtype=bool)
    positive[np.random.default_rng([seed, 1]).permutation(count)[: max(1, round(count * spec.positive_share))]] = True
    group = [row // spec.images_per_group for row in range(spec.images)]

    def fetch(row: int) -> NDArray[np.uint8]:
        return draw(seed, group[row], row, positive=bool(positive[group[row]]), difficulty=spec.difficulty)

    return SourceTable(
        name="phantom",
        paths=[f"phantom/{row:06d}" for row in range(spec.images)],
        labels=interned(CLASSES[int(positive[k])] for k in group),
        groups=interned(f"phantom-{k:05d}" for k in group),
        fetch=fetch,
        synthetic=True,
        notes=("Synthetic: radiograph phantoms drawn from the seed; nothing here is a patient.",),
        identity=f"phantom {VERSION} seed {seed} {spec.model_dump_json()}",
    )


def draw(seed: int, group: int, row: int, *, positive: bool, difficulty: float) -> NDArray[np.uint8]:
    """One phantom, uint8 [SIDE, SIDE]. Equal arguments give equal bytes."""
    body = np.random.default_rng([seed, 2, group])
    shot, finding = np.random.default_rng([seed, 3, row]), np.random.default_rng([seed, 4, row])
    x, y = _grid(shot)
    attenuation, lungs = _anatomy(body, x, y)
    attenuation += _texture(shot, amplitude=0.05 + 0.05 * difficulty)
    inside = np.flatnonzero(lungs > 0.6)
    for _ in range(int(shot.integers(2, 6))):  # vessels seen end-on, in both classes: what an opacity is confused with
        _add_blob(shot, attenuation, lungs, inside, strength=_between(shot, 0.05, 0.15), size=(0.02, 0.05))
    if positive:
        plain = _between(finding, 0.0, 1.0) * (1.25 - difficulty)  # 0 is a faint opacity, 1 a plain one
        for _ in range(int(finding.integers(1, 4))):
            _add_blob(finding, attenuation, lungs, inside, strength=0.12 + 0.5 * plain, size=(0.08, 0.18))
    return _exposed(shot, attenuation, noise=0.02 + 0.03 * difficulty)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _grid(shot: np.random.Generator) -> tuple[Plane, Plane]:
    """Coordinates -1 to 1 of the pixels, with the patient shifted, scaled and a little tilted."""
    axis = (np.arange(SIDE, dtype=np.float32) + 0.5) * (2.0 / SIDE) - 1.0
    scale, tilt = _between(shot, 0.93, 1.07), _between(shot, -0.06, 0.06)
    x = (axis[None, :] - _between(shot, -0.06, 0.06)) * scale
    y = (axis[:, None] - _between(shot, -0.06, 0.06)) * scale
    return x + tilt * y, y - tilt * x


def _soft(distance: Plane, width: float) -> Plane:
    """1 where distance <= -width, 0 where it is >= width, a smooth step (3t^2 - 2t^3) between."""
    t = np.clip((width - distance) * (0.5 / width), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _ellipse(x: Plane, y: Plane, *, at: tuple[float, float], radii: tuple[float, float]) -> Plane:
    """Signed distance, roughly: 0 on the ellipse, -1 in its middle."""
    u, v = (x - at[0]) * (1.0 / radii[0]), (y - at[1]) * (1.0 / radii[1])
    return np.sqrt(u * u + v * v) - 1.0


def _anatomy(body: np.random.Generator, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    """How much each pixel's ray loses (0 air, 1 bone and more), and the lung fields as weights 0 to 1."""
    girth, height = _between(body, 0.82, 1.0), _between(body, 0.62, 0.76)
    torso = _soft(_ellipse(x, y, at=(0.0, 0.25), radii=(girth, 1.25)), 0.04)
    shoulders = _soft(_ellipse(x, y, at=(0.0, 0.45), radii=(girth * 1.45, 1.22)), 0.06)
    neck = _soft(_ellipse(x, y, at=(0.0, -1.0), radii=(0.22, 0.5)), 0.15)
    outline = np.maximum(np.maximum(torso, shoulders * 0.9), neck * 0.95)
    top, bow = _between(body, -0.05, 0.0), _between(body, 0.6, 1.1)
    out = np.abs(x)
    lung = _ellipse(out, y, at=(girth * 0.46, top), radii=(girth * 0.36, height))
    apart = out - girth * 0.42
    dome = y - (height * 0.72 + top) + bow * apart * apart - 0.04 * (x < 0)  # the liver lifts the right half
    aerated = _soft(lung, 0.09) * _soft(dome, 0.04)
    size = _between(body, 0.24, 0.34)
    heart = _soft(_ellipse(x - 0.25 * y, y, at=(_between(body, 0.0, 0.06), 0.3), radii=(size, 0.36)), 0.13)
    middle = _soft(out - _between(body, 0.08, 0.12) - 0.05 * np.abs(y), 0.07)
    dense = np.maximum(heart, middle)
    spine = 0.16 * _soft(out - 0.07, 0.03) - 0.1 * _soft(out - 0.045, 0.02) * _soft(y + 0.25, 0.1)
    attenuation = 0.62 * outline - 0.42 * aerated + dense * (0.05 + 0.33 * aerated)
    attenuation += (spine + _ribs(body, out * (1.0 / girth), y)) * torso + _clavicles(body, out, y) * outline
    return attenuation, aerated * (1.0 - dense)


def _ribs(body: np.random.Generator, out: Plane, y: Plane) -> Plane:
    """Nine back ribs that fall away from the spine and fainter front ribs that cross them; `out` is 1 at the flank."""
    gap, first = _between(body, 0.155, 0.19), _between(body, -0.82, -0.74)
    strength = _between(body, 0.07, 0.12)

    def nearest(line: Plane) -> Plane:
        """Distance to the nearest of the ribs that repeat the first one at each gap."""
        place = (y - line) * (1.0 / gap)
        distance: Plane = np.abs(place - np.clip(np.floor(place + 0.5), 0.0, 8.0)) * gap
        return distance

    back = nearest(first + out * (0.75 * out - 0.30))
    front = nearest(first + 0.34 - 0.50 * out * (out - 0.55))
    flank = _soft(out - 0.92, 0.05)
    total: Plane = _soft(back - 0.024, 0.02) * _soft(0.08 - out, 0.04)
    total += 0.45 * _soft(front - 0.03, 0.025) * _soft(0.35 - out, 0.1)
    total *= strength * flank
    return total


def _clavicles(body: np.random.Generator, out: Plane, y: Plane) -> Plane:
    line = y - (_between(body, -0.78, -0.68) - out * (0.10 - 0.05 * out))
    return 0.13 * _soft(np.abs(line) - 0.03, 0.02) * _soft(out - 0.75, 0.06) * _soft(0.1 - out, 0.03)


def _add_blob(
    shot: np.random.Generator,
    attenuation: Plane,
    lungs: Plane,
    inside: NDArray[np.int64],
    *,
    strength: float,
    size: tuple[float, float],
) -> None:
    """Adds a soft opacity of three lobes, fading at the border of the lungs; sizes are in half sides."""
    row, column = divmod(int(inside[int(shot.integers(inside.size))]), SIDE)
    reach = int(size[1] * SIDE * 1.6) + 1
    window = (slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1))
    pixels = np.arange(SIDE, dtype=np.float32)
    dy, dx = pixels[window[0]][:, None] - row, pixels[window[1]][None, :] - column
    total = np.zeros(np.broadcast_shapes(dy.shape, dx.shape), dtype=np.float32)
    for _ in range(3):
        radius = _between(shot, *size) * (SIDE / 2)
        u = dx * (1.0 / radius) - _between(shot, -0.7, 0.7)
        v = (dy * (1.0 / radius) - _between(shot, -0.7, 0.7)) * _between(shot, 0.8, 1.3)
        bump = np.maximum(1.0 - 0.4 * (u * u + v * v), 0.0)
        np.maximum(total, bump * bump, out=total)
    room = np.maximum(1.25 - attenuation[window], 0.0)  # what fills with fluid does not become denser than bone
    attenuation[window] += strength * total * lungs[window] * room


def _texture(shot: np.random.Generator, *, amplitude: float) -> Plane:
    """Smooth random structure (vessels, soft tissue) at three scales: random grids with smooth steps between knots."""
    total = np.zeros((SIDE, SIDE), dtype=np.float32)
    for cells, share in ((6, 0.5), (16, 0.3), (40, 0.2)):
        knots = shot.integers(-1000, 1001, size=(cells + 1, cells + 1)).astype(np.float32) * (
            amplitude * share / 1000.0
        )
        place = (np.arange(SIDE, dtype=np.float32) + 0.5) * (cells / SIDE)
        low = place.astype(np.int64)
        t = place - low.astype(np.float32)
        t = t * t * (3.0 - 2.0 * t)
        lines = knots[low] * (1.0 - t)[:, None] + knots[low + 1] * t[:, None]
        total += lines[:, low] * (1.0 - t) + lines[:, low + 1] * t
    return total


def _exposed(shot: np.random.Generator, attenuation: Plane, *, noise: float) -> NDArray[np.uint8]:
    """Film: bone white, air black; exposure, contrast and quantum noise (a sum of uniform draws) vary."""
    grains = shot.integers(-128, 128, size=(3, SIDE, SIDE), dtype=np.int16).sum(axis=0, dtype=np.int16)
    level = attenuation * _between(shot, 0.85, 1.15) + _between(shot, -0.05, 0.07)
    level += grains.astype(np.float32) * (noise / 128.0)
    level = np.clip(level, 0.0, 1.0)
    curve = _between(shot, -0.25, 0.8)  # a tone curve without pow: y = (1 + c) x / (1 + c x)
    level = (1.0 + curve) * level / (1.0 + curve * level)
    pixels: NDArray[np.uint8] = np.floor(level * 245.0 + 5.5).astype(np.uint8)
    return pixels
