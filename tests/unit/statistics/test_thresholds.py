"""Threshold rules: what they promise, ties, and what float noise may not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medge.errors import DataError, RecipeError
from medge.statistics.scores import probability_of_score, score_of_probability
from medge.statistics.thresholds import Rule, fit, parse

POSITIVE = np.array([0, 0, 1, 0, 1, 1], dtype=bool)
SCORES = np.array([-3.0, -1.0, 0.0, 1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("youden", Rule("youden")),
        ("sensitivity>=0.95", Rule("sensitivity", 0.95)),
        (" specificity >= .9 ", Rule("specificity", 0.9)),
        ("sensitivity>=1", Rule("sensitivity", 1.0)),
        ("0.5", Rule("fixed", 0.5)),
    ],
)
def test_rules_are_read(text, rule):
    assert parse(text) == rule


@pytest.mark.parametrize(
    "text", ["", "yuden", "sensitivity>0.9", "sensitivity>=1.2", "sensitivity>=0", "0", "1", "nan", "-1"]
)
def test_unknown_rules_are_refused(text):
    with pytest.raises(RecipeError, match="No threshold rule"):
        parse(text)


def test_thresholds_lie_midway_between_scores():
    assert fit(parse("youden"), SCORES, POSITIVE) == -0.5  # sensitivity 1, specificity 2/3, against 2/3 and 1 at 1.5
    assert fit(parse("specificity>=0.9"), SCORES, POSITIVE) == 1.5
    assert fit(parse("sensitivity>=0.6"), SCORES, POSITIVE) == 1.5
    assert fit(parse("sensitivity>=0.95"), SCORES, POSITIVE) == -0.5
    assert fit(parse("0.5"), SCORES, POSITIVE) == 0.0


def test_shares_are_counted_not_rounded():
    positive = np.arange(200) >= 100
    threshold = fit(parse("sensitivity>=0.95"), np.arange(200.0), positive)
    assert np.sum(np.arange(100.0, 200.0) >= threshold) == 95


def test_all_scores_equal_leaves_all_or_nothing():
    scores = np.zeros(6)
    assert fit(parse("sensitivity>=0.95"), scores, POSITIVE) < 0 < fit(parse("specificity>=0.95"), scores, POSITIVE)


def test_one_class_has_no_threshold():
    with pytest.raises(DataError, match="both classes"):
        fit(parse("youden"), SCORES, np.ones(6, dtype=bool))


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["youden", "sensitivity>=0.9", "specificity>=0.8"]))
def test_rules_keep_their_promise_whatever_the_order_of_rows(seed, text):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-5, 6, 40).astype(float)
    positive = rng.permutation(np.arange(40) < rng.integers(1, 40))
    threshold = fit(parse(text), scores, positive)
    shuffled = rng.permutation(40)
    assert threshold == fit(parse(text), scores[shuffled], positive[shuffled])
    noisy = scores + rng.uniform(-1e-9, 1e-9, 40)
    assert np.array_equal(scores >= threshold, noisy >= threshold)

    def rates(cut):
        return np.mean(scores[positive] >= cut), np.mean(scores[~positive] < cut)

    every = [rates(cut) for cut in np.arange(-6.5, 7.0)]
    sensitivity, specificity = rates(threshold)
    if text == "youden":
        assert sensitivity + specificity == pytest.approx(max(a + b for a, b in every))
    elif text.startswith("sensitivity"):
        assert sensitivity >= 0.9
        assert specificity == pytest.approx(max(b for a, b in every if a >= 0.9))
    else:
        assert specificity >= 0.8
        assert sensitivity == pytest.approx(max(a for a, b in every if b >= 0.8))


def test_scores_and_probabilities_are_each_others_inverse():
    for score in (-30.0, -1.5, 0.0, 2.0, 15.0):
        assert score_of_probability(probability_of_score(score)) == pytest.approx(score, rel=1e-9)


def test_a_recipe_with_an_unknown_rule_is_refused_when_it_is_read():
    from medge.recipe import parse as recipe

    assert recipe({"validate": {"threshold": 0.5}}, origin="x").validate_.threshold == "0.5"
    with pytest.raises(RecipeError, match="No threshold rule 'best'"):
        recipe({"validate": {"threshold": "best"}}, origin="x")
