"""Refusing unlike images: the distance, the threshold's promise, and what the runtime makes of a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import ood
from medge.errors import DataError, IntegrityError
from medge.runtime import ood as light


def clouds(count: int, *, seed: int, dimensions: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two classes that differ in a few directions, as pooled features of one kind of image do."""
    random = np.random.default_rng(seed)
    basis = np.random.default_rng(99).normal(size=(6, dimensions))
    labels = np.arange(count) % 2
    means = 4 + np.random.default_rng(98).normal(size=(2, dimensions))
    x = means[labels] + random.normal(size=(count, 6)) @ basis * 0.3 + random.normal(size=(count, dimensions)) * 0.05
    return x.astype(np.float32), labels


@pytest.fixture(params=light.METHODS)
def fitted(request: pytest.FixtureRequest) -> light.Detector:
    features, labels = clouds(600, seed=0)
    detector = ood.fit(request.param, features, labels, seed=0)
    validation = ood.scores(detector, clouds(400, seed=1)[0])
    return ood.with_threshold(detector, ood.threshold_of(validation, 0.01))


def test_like_images_pass_and_unlike_ones_are_refused(fitted: light.Detector) -> None:
    like = ood.refusals(ood.scores(fitted, clouds(1000, seed=2)[0]), fitted.threshold)
    assert like["rate"] <= 0.03
    random = np.random.default_rng(3)
    unlike = ood.refusals(ood.scores(fitted, random.uniform(0, 8, (200, 40))), fitted.threshold)
    assert (unlike["images"], unlike["refused"]) == (200, 200)
    assert unlike["lower"] > 0.97


def test_a_blank_feature_vector_and_one_that_is_no_number_are_refused(fitted: light.Detector) -> None:
    odd = np.stack([np.zeros(40), np.full(40, np.nan)])
    assert [light.is_unlike(fitted, score) for score in ood.scores(fitted, odd)] == [True, True]


def test_the_low_rank_distance_is_mahalanobis_of_the_covariance_it_stands_for() -> None:
    features, labels = clouds(300, seed=0)
    detector = ood.fit("mahalanobis", features, labels, seed=0)
    table = detector.table.astype(np.float64)
    means, rows = table[: detector.means], table[detector.means :]
    inverse = (np.eye(40) - rows.T @ rows) / detector.variance
    x = light.normalised(clouds(50, seed=4)[0])
    expected = np.sqrt(np.min([np.einsum("ni,ij,nj->n", x - m, inverse, x - m) for m in means], axis=0))
    assert np.allclose(ood.scores(detector, x), expected, rtol=1e-6)


def test_with_all_directions_kept_it_is_mahalanobis_of_the_shrunk_covariance() -> None:
    from sklearn.covariance import ledoit_wolf

    features, labels = clouds(300, seed=0, dimensions=20)
    x = light.normalised(features)
    detector = ood.fit("mahalanobis", features, labels, seed=0)
    means = np.stack([x[labels == k].mean(axis=0) for k in (0, 1)])
    inverse = np.linalg.inv(ledoit_wolf(x - means[labels], assume_centered=True)[0])
    expected = np.sqrt(np.min([np.einsum("ni,ij,nj->n", x - m, inverse, x - m) for m in means], axis=0))
    assert np.allclose(ood.scores(detector, features), expected, rtol=1e-3)


def test_the_neighbours_distance_is_that_of_the_kth_nearest() -> None:
    features, labels = clouds(60, seed=0)
    detector = ood.fit("knn", features, labels, seed=0)
    x = light.normalised(clouds(5, seed=5)[0])
    distances = np.sort(np.linalg.norm(x[:, None] - light.normalised(features)[None], axis=2), axis=1)
    assert np.allclose(ood.scores(detector, x), distances[:, ood.NEIGHBOURS - 1], atol=1e-5)


def test_the_threshold_is_the_named_order_statistic() -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 200.0))
    found = ood.threshold_of(scores, 0.01)
    assert (found.value, found.order, found.images, found.guaranteed) == (198.0, 198, 199, True)


def test_a_small_validation_set_takes_its_largest_score_and_says_so() -> None:
    found = ood.threshold_of(np.arange(50.0), 0.01)
    assert (found.value, found.order, found.guaranteed) == (49.0, 50, False)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 50))
    assert ood.threshold_of(np.arange(99.0), 0.01).guaranteed
    assert not ood.threshold_of(np.arange(98.0), 0.01).guaranteed


@pytest.mark.parametrize(("images", "rate"), [(99, 0.01), (250, 0.01), (496, 0.02), (60, 0.05)])
def test_over_many_draws_no_more_like_images_are_refused_than_named(images: int, rate: float) -> None:
    random = np.random.default_rng(0)
    shares, beyond = [], 0
    for _ in range(4000):
        found = ood.threshold_of(random.uniform(size=images), rate)
        shares.append(1 - found.value)  # of uniform scores exactly this share lies above
        beyond += 1 - found.value > found.upper
    assert np.mean(shares) <= rate + 4 * np.std(shares) / np.sqrt(4000)
    assert beyond / 4000 == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")]])
def test_no_threshold_comes_of_nothing(scores: list[float]) -> None:
    with pytest.raises(DataError):
        ood.threshold_of(np.asarray(scores), 0.01)


def test_two_images_or_features_that_are_no_numbers_cannot_be_fitted() -> None:
    for features in (np.ones((2, 4)), np.full((9, 4), np.inf)):
        with pytest.raises(DataError, match="Unlike images cannot be told"):
            ood.fit("mahalanobis", features, np.zeros(len(features), np.int64), seed=0)


def test_equal_features_everywhere_refuse_everything_else_and_nothing_equal() -> None:
    detector = ood.fit("mahalanobis", np.ones((30, 4)), np.arange(30) % 2, seed=0)
    found = ood.threshold_of(ood.scores(detector, np.ones((10, 4))), 0.1)
    detector = ood.with_threshold(detector, found)
    assert ood.refusals(ood.scores(detector, np.ones((5, 4))), detector.threshold)["refused"] == 0
    assert ood.refusals(ood.scores(detector, np.eye(4)), detector.threshold)["refused"] == 4


def entry(detector: light.Detector, **changes: Any) -> dict[str, Any]:
    kept = {key: getattr(detector, key) for key in ("method", "threshold", "means", "variance", "neighbours")}
    return {**kept, "file": "ood.npy", **changes}


def test_a_table_read_back_scores_the_same(fitted: light.Detector, tmp_path: Path) -> None:
    np.save(tmp_path / "ood.npy", fitted.table)
    x = clouds(20, seed=6)[0]
    assert np.array_equal(ood.scores(light.load(tmp_path, entry(fitted)), x), ood.scores(fitted, x))


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "magic"},
        {"threshold": float("nan")},
        {"variance": 0.0},
        {"means": 10_000},
        {"neighbours": 0},
        {"file": "missing.npy"},
    ],
)
def test_an_entry_that_does_not_fit_its_table_is_refused(
    fitted: light.Detector, tmp_path: Path, changes: dict[str, Any]
) -> None:
    np.save(tmp_path / "ood.npy", fitted.table)
    with pytest.raises(IntegrityError, match="unlike images cannot be read"):
        light.load(tmp_path, entry(fitted, **changes))


def test_features_of_another_width_are_an_error_and_not_a_score(fitted: light.Detector) -> None:
    with pytest.raises(IntegrityError, match="another engine"):
        ood.scores(fitted, np.ones((1, 41)))


def test_a_reason_names_both_numbers(fitted: light.Detector) -> None:
    assert light.reason(replace(fitted, threshold=18.3), 41.21) == (
        "unlike the images this model was validated on (score 41.21 > 18.3)"
    )


def test_blank_and_noise_images_are_what_they_are_called() -> None:
    blank, noise = ood.blank_images(8, 9), ood.noise_images(8, 9, seed=0)
    assert {int(np.ptp(image)) for image in blank} == {0}
    assert (blank.shape[1:], noise.shape, noise.dtype) == ((8, 9, 3), (52, 8, 9, 3), np.uint8)
    assert noise[0].std() > 0
    assert np.array_equal(noise, ood.noise_images(8, 9, seed=0))
    assert not np.array_equal(noise, ood.noise_images(8, 9, seed=1))


def test_an_image_is_refused_only_where_its_jpeg_looks_unlike_too() -> None:
    from medge.runtime.ood import Detector, is_unlike, score_of

    detector = Detector("knn", 0.5, np.eye(3, dtype=np.float32)[:1])
    like, unlike = np.eye(3)[:1], np.eye(3)[1:2]
    looked = []

    def again(features: np.ndarray) -> np.ndarray:
        looked.append(1)
        return features

    assert score_of(detector, like, lambda: again(unlike)) == 0
    assert not looked  # a second look only where the first would refuse
    assert not is_unlike(detector, score_of(detector, unlike, lambda: again(like)))
    assert is_unlike(detector, score_of(detector, unlike, lambda: again(unlike)))
    assert len(looked) == 2


def test_the_second_look_keeps_the_size_and_changes_little() -> None:
    from medge.runtime.ood import recompressed

    image = np.random.default_rng(0).integers(100, 140, (33, 48, 3)).astype(np.uint8)
    again = recompressed(image)
    assert (again.shape, again.dtype) == (image.shape, np.uint8)
    assert 0 < np.abs(again.astype(int) - image).mean() < 20
