"""Score ties: against every pair, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medge.report.ties import count_ties


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_ties_are_those_of_all_pairs_and_bound_the_auc(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        return
    found = count_ties(scores, positive)
    pairs = [(a, b) for a in scores[positive] for b in scores[~positive]]
    assert found.tied_pairs == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert found.tied_images == sum((scores == s).sum() > 1 for s in scores)
    best = roc_auc_score(positive, scores + 1e-6 * positive)
    worst = roc_auc_score(positive, scores - 1e-6 * positive)
    here = roc_auc_score(positive, scores)
    assert best - here == pytest.approx(found.auc_bound)
    assert here - worst == pytest.approx(found.auc_bound)


def test_distinct_scores_have_no_ties() -> None:
    found = count_ties(np.arange(6.0), np.array([0, 1, 0, 1, 0, 1], dtype=bool))
    assert (found.distinct, found.tied_images, found.tied_pairs, found.auc_bound) == (6, 0, 0.0, 0.0)
