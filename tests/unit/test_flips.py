"""What is expected to flip: the share that is counted, told more exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medge import flips

Floats = NDArray[np.float64]


def _scores(generator: np.random.Generator, images: int) -> Floats:
    """Like those of a good model: two heaps, few images between them."""
    return generator.normal(0, 3, images) + np.where(generator.random(images) < 0.7, 3, -3)


def _counted(before: Floats, after: Floats) -> float:
    return float(((before >= 0) != (after >= 0)).mean())


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.3])
def test_it_is_the_share_that_is_counted_with_half_the_spread(spread: float) -> None:
    generator = np.random.default_rng(0)
    counted, expected = [], []
    for _ in range(200):
        before = _scores(generator, 486)
        after = before + generator.normal(0, spread, 486)
        counted.append(_counted(before, after))
        expected.append(flips.expected_rate(before, after))
    assert np.mean(expected) == pytest.approx(np.mean(counted), abs=3 * np.std(counted) / np.sqrt(200))
    assert np.std(expected) < 0.65 * np.std(counted)


def test_errors_stay_with_images_of_a_like_score() -> None:
    """Far from the threshold they are large, as those of saturated logits are; near it there are none."""
    before = np.concatenate([np.linspace(-9, -8, 300), np.linspace(-1, 1, 300), np.linspace(8, 9, 300)])
    errors = np.where(np.abs(before) > 5, 3.0, 0.0)
    assert flips.expected_rate(before, before + errors) == pytest.approx(0, abs=0.02)


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
