"""Which test images become golden vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medge.golden import choose_rows, margins
from medge.runtime.bundle import OperatingPoint


@given(values=st.lists(st.floats(-1, 1), min_size=1, max_size=60), count=st.integers(8, 16))
def test_rows_are_different_ascending_and_as_many_as_there_can_be(values: list[float], count: int) -> None:
    rows = choose_rows(np.asarray(values), count)
    assert rows == sorted(set(rows))
    assert len(rows) == min(count, len(values))


def test_the_nearest_to_the_threshold_and_both_ends_are_in() -> None:
    margin = np.linspace(-0.5, 0.5, 101)
    rows = choose_rows(margin, 12)
    assert {0, 100} <= set(rows)
    assert {48, 49, 50, 51, 52} & set(rows) >= {49, 50, 51}


def test_margins_are_from_the_threshold_with_two_classes() -> None:
    point = OperatingPoint("youden", 0.5, 1.0, "b")
    assert margins(np.array([[0.0, 0.0], [0.0, 50.0]]), labels=("a", "b"), point=point) == pytest.approx([0, 0.5])


def test_margins_are_between_the_first_two_with_more_classes() -> None:
    point = OperatingPoint("most probable class", None, 1.0, None)
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    assert margins(logits, labels=("a", "b", "c"), point=point) == pytest.approx([0.2, 0.7])
