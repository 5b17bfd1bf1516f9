"""What is expected to flip: the share that is counted, told more exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medge import flips

Floats = NDArray[np.float64]
Errors = Callable[[np.random.Generator, Floats], Floats]


def _scores(generator: np.random.Generator, images: int) -> Floats:
    """Like those of a good model on chest X-rays: one image in twenty within 1.5 of the threshold."""
    positive = generator.random(images) < 0.73
    return np.where(positive, generator.normal(6, 2.6, images), generator.normal(-5, 2.2, images))


def _alike(generator: np.random.Generator, scores: Floats) -> Floats:
    return generator.normal(0, 0.25, len(scores))


def _shrinking(generator: np.random.Generator, scores: Floats) -> Floats:
    return -0.1 * scores + generator.normal(0, 0.1, len(scores))


def _growing(generator: np.random.Generator, scores: Floats) -> Floats:
    return generator.normal(0, 1, len(scores)) * (0.1 + 0.1 * np.abs(scores))


def _shifted(generator: np.random.Generator, scores: Floats) -> Floats:
    return generator.normal(-0.5, 0.1, len(scores))


def _counted(before: Floats, after: Floats) -> float:
    return float(((before >= 0) != (after >= 0)).mean())


@pytest.fixture(
    scope="module",
    params=[(_alike, 1.0, 0.75), (_shrinking, 1.0, 0.75), (_growing, 2.0, 0.75), (_shifted, 1.0, 1.05)],
    ids=lambda p: p[0].__name__,
)
def told(request: pytest.FixtureRequest) -> tuple[Floats, Floats, float, float]:
    """Of 300 sets of 486 images: what is counted, what is expected, how many times too large that may be, and how much
    as widely it may scatter."""
    errors, factor, spread = request.param
    generator = np.random.default_rng(0)
    counted, expected = [], []
    for _ in range(300):
        before = _scores(generator, 486)
        after = before + errors(generator, before)
        counted.append(_counted(before, after))
        expected.append(flips.expected_rate(before, after))
    return np.array(counted), np.array(expected), factor, spread


def test_on_average_it_is_what_is_counted_or_where_errors_grow_more(told: tuple[Floats, Floats, float, float]) -> None:
    counted, expected, factor, _ = told
    exactly = 3 * counted.std() / np.sqrt(len(counted))
    assert counted.mean() - exactly < expected.mean() < factor * counted.mean() + exactly


def test_it_scatters_less_than_what_is_counted_and_no_more_where_all_are_shifted(
    told: tuple[Floats, Floats, float, float],
) -> None:
    counted, expected, _, spread = told
    assert expected.std() < spread * counted.std()


def test_where_nothing_is_counted_it_still_tells_many_flips_from_few() -> None:
    """The luck of a few hundred images: none of them flips, whichever of two engines it is."""
    generator = np.random.default_rng(0)
    lucky: dict[float, list[float]] = {0.1: [], 0.3: []}
    while min(map(len, lucky.values())) < 20:
        before = _scores(generator, 486)
        for spread, found in lucky.items():
            after = before + generator.normal(0, spread, len(before))
            if _counted(before, after) == 0:
                found.append(flips.expected_rate(before, after))
    assert np.median(lucky[0.3]) > 2 * np.median(lucky[0.1])


def test_errors_along_a_line_flip_nothing_that_they_do_not_flip_themselves() -> None:
    before = np.linspace(-3, 3, 100)
    assert flips.expected_rate(before, 2 * before) == 0
    assert flips.expected_rate(before, 0.1 * before) == 0


def test_a_threshold_that_moves_past_half_of_the_images_flips_half_of_them() -> None:
    before = np.linspace(-1, 1, 1000)
    assert flips.expected_rate(before, before - 2) == pytest.approx(0.5, abs=0.002)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=300), st.randoms(use_true_random=False))
def test_no_error_flips_nothing_and_the_order_of_images_does_not_matter(scores: list[float], chance) -> None:
    before = np.unique(np.array(scores))
    assert flips.expected_rate(before, before.copy()) == 0.0
    after = before + np.array([chance.uniform(-1, 1) for _ in before])
    at = np.array(chance.sample(range(len(before)), len(before)))
    found = flips.expected_rate(before, after)
    assert 0.0 <= found <= 1.0
    assert flips.expected_rate(before[at], after[at]) == found
