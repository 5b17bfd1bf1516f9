"""How often the 95 % intervals of the bootstrap cover the truth, in simulation: AUC, its difference, F1, accuracy.

    python benchmarks/bootstrap_coverage.py            # some minutes on two cores
    python benchmarks/bootstrap_coverage.py --cases 200

Writes benchmarks/results/bootstrap_coverage.json. Images come one or two a patient, whose errors are alike; whole
patients are drawn, as everywhere in medge. The truth of the binormal AUC is exact; F1 and accuracy are means over a
simulation of 400,000 patients. Between 93 and 97 % is the aim.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from scipy.stats import norm

from medge.records import write_json
from medge.statistics.bootstrap import percentiles, ranking, resample, totals

RESULT = Path(__file__).parent / "results" / "bootstrap_coverage.json"
POSITIVE, NEGATIVE, AREA, LOSS = 390, 234, 0.97, 0.01
SHARED = 2 / 3  # of the noise of one patient's images


def scores(rng: np.random.Generator, positive: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two models' binormal scores of the same images, true areas AREA and AREA - LOSS, correlation 0.97."""

    def noise() -> np.ndarray:
        alike = len(np.unique(patient)) < len(patient)
        share = SHARED if alike else 0.0
        own, common = rng.normal(size=len(positive)), rng.normal(size=int(patient.max()) + 1)[patient]
        return np.sqrt(1 - share) * own + np.sqrt(share) * common

    both = np.sqrt(0.97) * noise()
    first, second = (
        both + np.sqrt(0.03) * noise() + np.sqrt(2) * norm.ppf(area) * positive for area in (AREA, AREA - LOSS)
    )
    return first, second


def f1_and_accuracy(counts: np.ndarray) -> np.ndarray:
    """[..., 2] from sums [..., 4] of true positives, false positives, false negatives and images."""
    tp, fp, fn, n = np.moveaxis(counts, -1, 0)
    return np.stack([2 * tp / (2 * tp + fp + fn), 1 - (fp + fn) / n], axis=-1)


def decided(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    called = score >= norm.ppf(0.92)
    columns = [called & positive, called & ~positive, ~called & positive, np.ones(len(positive))]
    return np.stack(columns, axis=1).astype(np.float64)


def layout(images: int, per_patient: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.arange(images)
    return order < images * POSITIVE / (POSITIVE + NEGATIVE), order // per_patient


def coverage(per_patient: int, cases: int, resamples: int) -> dict[str, dict[str, float]]:
    positive, patient = layout(POSITIVE + NEGATIVE, per_patient)
    groups = int(patient.max()) + 1
    rng = np.random.default_rng([7, per_patient])
    many = layout(400_000 * per_patient, per_patient)
    truth = f1_and_accuracy(decided(scores(rng, *many)[0], many[0]).sum(axis=0))
    truths = {"auc": AREA, "auc_difference": -LOSS, "f1": float(truth[0]), "accuracy": float(truth[1])}
    hits = dict.fromkeys(truths, 0)
    for case in range(cases):
        first, second = scores(rng, positive, patient)
        statistics = [
            ranking(first, positive, patient),
            ranking(second, positive, patient),
            totals(decided(first, positive), patient, groups),
        ]
        a, b, sums = resample(statistics, groups, images=len(positive), resamples=resamples, seed=case)
        rates = f1_and_accuracy(sums)
        drawn = {"auc": a[:, 0], "auc_difference": b[:, 0] - a[:, 0], "f1": rates[:, 0], "accuracy": rates[:, 1]}
        for name, values in drawn.items():
            lower, upper = percentiles(values, alpha=0.025)
            hits[name] += lower <= truths[name] <= upper
    return {
        name: {
            "truth": round(truths[name], 5),
            "coverage": round(hit / cases, 4),
            "standard_error": round(float(np.sqrt(0.95 * 0.05 / cases)), 4),
        }
        for name, hit in hits.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--result", type=Path, default=RESULT)
    chosen = parser.parse_args()
    found: dict[str, Any] = {
        **provenance(),
        "cases": chosen.cases,
        "resamples": chosen.resamples,
        "images": {"positive": POSITIVE, "negative": NEGATIVE},
        "nominal": 0.95,
    }
    for per_patient in (1, 2):
        found[f"{per_patient}_images_a_patient"] = rows = coverage(per_patient, chosen.cases, chosen.resamples)
        for name, row in rows.items():
            print(
                f"{per_patient} a patient  {name:15} {row['coverage']:.3f} +- {row['standard_error']:.3f}", flush=True
            )
    write_json(chosen.result, found)


if __name__ == "__main__":
    main()
