"""Score ties: a coarse engine gives many images the same score, and what that can cost in AUC by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medge.report.gather import Found
from medge.statistics.scores import one_vs_rest

__all__ = ["Ties", "count_ties", "ties"]


@dataclass(frozen=True)
class Ties:
    """Of N images: distinct scores, images that share theirs with another one, the share of pairs of a positive and a
    negative image that are tied, and the most that AUC would change if every tie were resolved one way."""

    images: int
    distinct: int
    tied_images: int
    tied_pairs: float
    auc_bound: float


def count_ties(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Ties:
    """Ties among scores [N]; `positive` [N] marks the positive class, both classes are there.

    A tied pair counts one half in AUC (Bamber, J. Math. Psychology 12 (1975) 387-415; Hanley and McNeil, Radiology 143
    (1982) 29-36), so that breaking all ties rightly adds, and wrongly takes, at most half the share of tied pairs.
    """
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    positives = np.bincount(index[positive], minlength=len(counts)).astype(np.float64)
    negatives = np.bincount(index[~positive], minlength=len(counts)).astype(np.float64)
    share = float((positives * negatives).sum() / (positives.sum() * negatives.sum()))
    return Ties(len(scores), len(counts), int(counts[counts > 1].sum()), share, share / 2)


def ties(found: Found) -> dict[str, Ties]:
    """Of the float model and every engine on test; of more than two classes the one-vs-rest scores with most ties."""
    return {name: _worst(found, name) for name in ("float", *found.judged)}


def _worst(found: Found, name: str) -> Ties:
    table = found.images(name, "test")
    scores = one_vs_rest(table.logits)
    classes = [1] if scores.shape[1] == 1 else list(range(scores.shape[1]))
    each = [count_ties(scores[:, n], table.labels == k) for n, k in enumerate(classes)]
    return max(each, key=lambda found_ties: found_ties.tied_pairs)
