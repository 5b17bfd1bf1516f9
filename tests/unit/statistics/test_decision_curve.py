"""Net benefit against tables worked by hand, a count by definition, and what must hold of any curve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medge.errors import DataError
from medge.statistics.decision_curve import net_benefit, treat_all


def test_ten_patients_worked_by_hand() -> None:
    """Four sick among ten. By hand, (TP, FP) at 0.1: (4, 5); 0.2: (4, 3); 0.25: (3, 2); 0.5: (3, 1); 0.8: (1, 0)."""
    sick = [0.9, 0.7, 0.5, 0.2]
    well = [0.6, 0.4, 0.2, 0.15, 0.1, 0.05]
    probabilities = np.array(sick + well)
    positive = np.array([True] * 4 + [False] * 6)
    expected = [0.4 - 0.5 / 9, 0.4 - 0.3 / 4, 0.3 - 0.2 / 3, 0.3 - 0.1, 0.1]
    found = net_benefit(probabilities, positive, np.array([0.1, 0.2, 0.25, 0.5, 0.8]))
    assert found == pytest.approx(expected)


def test_a_hundred_patients_worked_by_hand() -> None:
    """A test that is positive (risk 0.6) in 16 of 20 sick and 12 of 80 well, else risk 0.04.

    At 0.2 a false positive costs a quarter of a true one: 16/100 - 12/100/4 = 0.13; treating all: 0.2 - 0.8/4 = 0.
    At 0.02 everyone is treated; beyond 0.6 no one.
    """
    probabilities = np.repeat([0.6, 0.04, 0.6, 0.04], [16, 4, 12, 68])
    positive = np.repeat([True, False], [20, 80])
    thresholds = np.array([0.02, 0.2, 0.5, 0.6, 0.61])
    expected = [0.2 - 0.8 * 0.02 / 0.98, 0.13, 0.04, 0.16 - 0.12 * 1.5, 0.0]
    assert net_benefit(probabilities, positive, thresholds) == pytest.approx(expected)
    expected_of_all = [0.2 - 0.8 * 0.02 / 0.98, 0.0, -0.6, -1.0, 0.2 - 0.8 * 0.61 / 0.39]
    assert treat_all(0.2, thresholds) == pytest.approx(expected_of_all)


pairs = st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40)


@given(pairs, st.lists(st.integers(0, 19), max_size=8))
def test_it_is_the_count_by_definition_ties_included(rows: list[tuple[int, bool]], at: list[int]) -> None:
    probabilities = np.array([p / 20 for p, _ in rows])
    positive = np.array([y for _, y in rows])
    thresholds = np.array([t / 20 for t in at])
    expected = [
        (sum(y for p, y in rows if p >= t) - sum(not y for p, y in rows if p >= t) * (t / 20) / (1 - t / 20))
        / len(rows)
        for t in at
    ]
    assert net_benefit(probabilities, positive, thresholds) == pytest.approx(expected)


@given(pairs)
def test_at_threshold_zero_everyone_is_treated_and_it_is_worth_the_prevalence(rows: list[tuple[int, bool]]) -> None:
    positive = np.array([y for _, y in rows])
    zero = np.zeros(1)
    found = net_benefit(np.array([p / 20 for p, _ in rows]), positive, zero)
    assert found == pytest.approx([positive.mean()])
    assert treat_all(positive.mean(), zero) == pytest.approx([positive.mean()])


def test_a_model_that_calls_all_sick_is_treating_all_and_a_perfect_one_is_worth_the_prevalence() -> None:
    positive = np.arange(50) % 5 == 0
    thresholds = np.linspace(0.01, 0.99, 33)
    assert net_benefit(np.ones(50), positive, thresholds) == pytest.approx(treat_all(0.2, thresholds))
    assert net_benefit(positive.astype(float), positive, thresholds) == pytest.approx(np.full(33, 0.2))


def test_treating_all_is_worth_nothing_where_the_threshold_is_the_prevalence() -> None:
    assert treat_all(0.3, np.array([0.3]))[0] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(
    ("probabilities", "positive", "thresholds"),
    [
        ([], [], [0.5]),
        ([0.5], [True, False], [0.5]),
        ([float("nan")], [True], [0.5]),
        ([1.2], [True], [0.5]),
        ([0.5], [True], [1.0]),
        ([0.5], [True], [-0.1]),
        ([0.5], [True], [float("nan")]),
    ],
)
def test_what_has_no_net_benefit_is_refused(
    probabilities: list[float], positive: list[bool], thresholds: list[float]
) -> None:
    with pytest.raises(DataError):
        net_benefit(np.array(probabilities), np.array(positive, dtype=bool), np.array(thresholds))


def test_labels_that_are_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="int64"):
        net_benefit(np.array([0.5]), np.array([1]), np.array([0.5]))  # type: ignore[arg-type]


@pytest.mark.parametrize("prevalence", [-0.1, 1.1, float("nan")])
def test_an_impossible_prevalence_is_refused(prevalence: float) -> None:
    with pytest.raises(DataError):
        treat_all(prevalence, np.array([0.5]))
