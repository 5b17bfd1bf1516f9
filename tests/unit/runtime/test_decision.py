"""Probabilities and decisions, the same on the device as where they were judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medge.runtime.bundle import OperatingPoint
from medge.runtime.decision import decide, probabilities
from medge.statistics.scores import softmax

LOGITS = st.lists(st.floats(-50, 50), min_size=2, max_size=5)


@given(logits=LOGITS, temperature=st.floats(0.05, 20))
def test_probabilities_are_those_that_select_checked(logits: list[float], temperature: float) -> None:
    expected = softmax(np.asarray([logits]) / temperature)[0]
    assert probabilities(logits, temperature=temperature).tolist() == expected.tolist()


@given(logits=LOGITS)
def test_a_temperature_never_changes_the_most_probable_class(logits: list[float]) -> None:
    point = OperatingPoint("most probable class", None, 3.0, None)
    labels = [str(k) for k in range(len(logits))]
    chosen = decide(probabilities(logits, temperature=3.0), labels=labels, point=point)
    assert logits[int(chosen)] == pytest.approx(max(logits))


@pytest.mark.parametrize(("probability", "decision"), [(0.7, "yes"), (0.69999, "no"), (1.0, "yes"), (0.0, "no")])
@pytest.mark.parametrize("positive_first", [False, True])
def test_the_positive_class_needs_the_threshold(probability: float, decision: str, positive_first: bool) -> None:
    point = OperatingPoint("youden", 0.7, 1.0, "yes")
    labels, both = ("no", "yes"), (1 - probability, probability)
    if positive_first:
        labels, both = ("yes", "no"), (probability, 1 - probability)
    assert decide(both, labels=labels, point=point) == decision


def test_without_a_threshold_the_first_of_equals_wins() -> None:
    point = OperatingPoint("most probable class", None, 1.0, None)
    assert decide([0.4, 0.4, 0.2], labels=("a", "b", "c"), point=point) == "a"
