"""How often the gate passes an engine whose true difference is known: at the margin (at most alpha) and above it.

    python benchmarks/gate_error_rates.py            # about three minutes on two cores
    python benchmarks/gate_error_rates.py --cases 200

Writes benchmarks/results/gate_error_rates.json and .png. Sizes are those of the official chest X-ray test set, 390
positive and 234 negative images. Scores are binormal; decisions change by chance with the rates that give the true
difference. The AUC passes by the worse of DeLong's bound and the one with skewness, as in the gate; DeLong alone is in
`before`. `predicted` is what medge.statistics.samplesize says of the bound that decides, by which it also says how many
images an inconclusive trial needs; `needed` asks for that number at one difference and shows how many trials then pass.
`clustered` repeats the margin and no difference with two images a patient whose errors are alike, for the
plain bounds, those that decide, and the bootstrap by group printed beside them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from provenance import provenance
from scipy.stats import norm
from sklearn.metrics import f1_score

from medge.metrics import Model, count_columns, rates_of_counts, rates_without_each_group
from medge.records import write_json
from medge.statistics.bootstrap import accelerated, acceleration, percentiles, ranking, resample, totals
from medge.statistics.delong import paired_auc
from medge.statistics.intervals import design_effect, restricted_variance, tango
from medge.statistics.samplesize import POWER, factor_for_difference, images_for_proportions, power_of_difference

ALPHA, POSITIVE, NEGATIVE = 0.05, 390, 234
RESULTS = Path(__file__).parent / "results"
Z = norm.isf(ALPHA)


def scores_of_two(
    rng: np.random.Generator, difference: float, *, area: float = 0.97, per_patient: int = 1, times: float = 1.0
) -> Any:
    """Two models' scores, correlation 0.97 within a class, whose true areas are `area` and `area + difference`; of
    `times` as many images."""
    counts = round(times * POSITIVE), round(times * NEGATIVE)
    positive = np.arange(sum(counts)) < counts[0]
    patient = np.arange(len(positive)) // per_patient

    def noise() -> np.ndarray:
        # of one patient's images two thirds of the noise is shared
        own = rng.normal(size=len(positive))
        shared = rng.normal(size=patient[-1] + 1)[patient]
        return own if per_patient == 1 else np.sqrt(1 / 3) * own + np.sqrt(2 / 3) * shared

    common = np.sqrt(0.97) * noise()
    first, second = (
        common + np.sqrt(0.03) * noise() + np.sqrt(2) * norm.ppf(area + shift) * positive for shift in (0.0, difference)
    )
    return first, second, positive, patient


def auc_point(rng: np.random.Generator, difference: float, cases: int, *, times: float = 1.0) -> dict[str, Any]:
    """Pass rate against -0.01, the predicted power, and what was seen of the variance, reach and skewness."""
    found = [paired_auc(*scores_of_two(rng, difference, times=times)[:3], alpha=ALPHA) for _ in range(cases)]
    spread = float(np.std([pair.difference for pair in found]))
    lowers = [min(pair.lower, pair.clustered_lower) for pair in found]
    reach = float(np.mean([pair.difference - low for pair, low in zip(found, lowers, strict=True)]))
    skewness = float(np.mean([pair.clustered_skewness for pair in found]))
    predicted = power_of_difference((difference + 0.01) / spread, reach / spread, skewness)
    before = float(np.mean([pair.lower > -0.01 for pair in found]))
    seen = {"variance": spread**2, "reach": reach, "skewness": skewness}
    return {**point("auc", difference, -0.01, [low > -0.01 for low in lowers], predicted), "before": before, **seen}


def share_point(
    rng: np.random.Generator, name: str, images: int, difference: float, margin: float, cases: int
) -> dict[str, Any]:
    """Pass rate of Tango's interval; 1 % of decisions change for the better whatever the difference."""
    gained, lost = 0.01, 0.01 - difference
    tables = rng.multinomial(images, [gained, lost, 1 - gained - lost], size=cases)
    passed = [tango(int(b), int(c), images, alpha=ALPHA)[0] > margin for b, c, _ in tables]
    at_margin = restricted_variance(gained, lost, margin)
    observed = gained + lost - difference**2
    predicted = norm.cdf((np.sqrt(images) * (difference - margin) - Z * np.sqrt(at_margin)) / np.sqrt(observed))
    return point(name, difference, margin, passed, float(predicted))


def f1_point(rng: np.random.Generator, difference: float, cases: int) -> dict[str, Any]:
    """Pass rate of the paired BCa bootstrap of F1 against -0.02; the engine misses what the float model found."""
    sensitivity, specificity, margin = 0.95, 0.92, -0.02
    alarms = NEGATIVE * (1 - specificity)
    target = f1_of(sensitivity, alarms) + difference
    # 2 P s / (P s + A + P) = F1 for s
    engine = target * (alarms + POSITIVE) / (POSITIVE * (2 - target))
    labels = (np.arange(POSITIVE + NEGATIVE) < POSITIVE).astype(np.int64)
    passed, differences, reaches, skewnesses = [], [], [], []
    for case in range(cases):
        chance = rng.random(len(labels))
        before = np.where(labels == 1, chance < sensitivity, chance < 1 - specificity).astype(np.int64)
        after = np.where(labels == 1, chance < engine, before).astype(np.int64)
        index = np.arange(len(labels))
        statistics = [totals(count_columns(labels, decided, 2), index, len(labels)) for decided in (before, after)]
        draws = resample(statistics, len(labels), images=len(labels), resamples=1000, seed=case)
        drawn = rates_of_counts(draws[1], 2)["f1"] - rates_of_counts(draws[0], 2)["f1"]
        without = [
            rates_without_each_group(Model(labels, np.zeros((len(labels), 2)), decided, 1.0), index, len(labels))["f1"]
            for decided in (before, after)
        ]
        seen = float(f1_score(labels, after) - f1_score(labels, before))
        differences.append(seen)
        lower = accelerated(drawn, seen, without[1] - without[0], alpha=ALPHA)[0]
        passed.append(lower > margin)
        reaches.append(seen - lower)
        skewnesses.append(6 * (acceleration(without[1] - without[0]) or 0.0))
    spread, reach, skewness = float(np.std(differences)), float(np.mean(reaches)), float(np.mean(skewnesses))
    predicted = power_of_difference((difference - margin) / spread, reach / spread, skewness)
    return point("f1", difference, margin, passed, predicted)


def needed(rng: np.random.Generator, seen: dict[str, Any], cases: int) -> list[dict[str, Any]]:
    """The number of images that medge asks for, POWER of whose trials should pass, and how many of them do.

    For the AUC at the point `seen`, for sensitivity with 1 % of decisions gained and 2 % lost.
    """
    factor = factor_for_difference(
        seen["variance"], seen["true_difference"] + 0.01, alpha=ALPHA, reach=seen["reach"], skewness=seen["skewness"]
    )
    images = images_for_proportions(1, 2, 100, margin=-0.02, alpha=ALPHA)
    assert factor is not None
    assert images is not None
    auc = auc_point(rng, seen["true_difference"], cases, times=factor)
    share = share_point(rng, "sensitivity", images, -0.01, -0.02, cases)
    asked = round(factor * (POSITIVE + NEGATIVE))
    return [{**auc, "images": asked, "promised": POWER}, {**share, "images": images, "promised": POWER}]


def f1_of(sensitivity: float, alarms: float) -> float:
    """F1 from the sensitivity and the expected number of false alarms."""
    return 2 * POSITIVE * sensitivity / (POSITIVE * sensitivity + alarms + POSITIVE)


def clustered(rng: np.random.Generator, difference: float, cases: int) -> list[dict[str, Any]]:
    """Pass rates of the AUC with two alike images a patient: DeLong, what decides, and the bootstrap by group."""
    passed: dict[str, list[bool]] = {"paired DeLong": [], "decides": [], "bootstrap by group": []}
    for case in range(cases):
        first, second, positive, patient = scores_of_two(rng, difference, per_patient=2)
        found = paired_auc(first, second, positive, alpha=ALPHA, index=patient)
        passed["paired DeLong"].append(found.lower > -0.01)
        passed["decides"].append(min(found.lower, found.clustered_lower) > -0.01)
        if case % 4 == 0:
            statistics = [ranking(scores, positive, patient) for scores in (first, second)]
            draws = resample(statistics, int(patient[-1]) + 1, images=len(positive), resamples=500, seed=case)
            lower = percentiles(draws[1][:, 0] - draws[0][:, 0], alpha=ALPHA)[0]
            passed["bootstrap by group"].append(lower > -0.01)
    return [
        {**point("auc", difference, -0.01, flags, at_margin(difference, -0.01)), "method": method, "per_patient": 2}
        for method, flags in passed.items()
    ]


def clustered_share(
    rng: np.random.Generator, name: str, images: int, difference: float, margin: float, cases: int
) -> list[dict[str, Any]]:
    """Pass rates of a share with two images a patient whose changes are correlated by 2 / 3."""
    index = np.arange(images) // 2
    passed: dict[str, list[bool]] = {"Tango": [], "decides": []}
    for _ in range(cases):
        chances = [0.01, 0.01 - difference, 0.98 + difference]
        own, shared = (rng.choice([1, -1, 0], size=images, p=chances) for _ in range(2))
        change = np.where(rng.random(images) < np.sqrt(2 / 3), shared[2 * index], own)
        table = np.array([(change == 1).sum(), (change == -1).sum(), images])
        plain = tango(*table, alpha=ALPHA)[0]
        passed["Tango"].append(plain > margin)
        passed["decides"].append(min(plain, tango(*(table / design_effect(change, index)), alpha=ALPHA)[0]) > margin)
    return [
        {**point(name, difference, margin, flags, at_margin(difference, margin)), "method": method, "per_patient": 2}
        for method, flags in passed.items()
    ]


def at_margin(difference: float, margin: float) -> float | None:
    """Where the truth is on the margin alpha of the trials may pass; elsewhere nothing is predicted for groups."""
    return ALPHA if difference == margin else None


def point(
    quantity: str, difference: float, margin: float, passed: list[Any], predicted: float | None
) -> dict[str, Any]:
    rate, cases = float(np.mean(passed)), len(passed)
    error = float(np.sqrt(max(rate * (1 - rate), 1 / cases) / cases))
    return {
        "quantity": quantity,
        "true_difference": difference,
        "margin": margin,
        "cases": cases,
        "pass_rate": rate,
        "standard_error": round(error, 5),
        "predicted": None if predicted is None else round(float(predicted), 5),
    }


def plot(points: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    quantities = list(dict.fromkeys(p["quantity"] for p in points))
    figure, axes = plt.subplots(1, len(quantities), figsize=(3.4 * len(quantities), 3.2), sharey=True)
    for axis, quantity in zip(axes, quantities, strict=True):
        mine = [p for p in points if p["quantity"] == quantity]
        x = [p["true_difference"] for p in mine]
        axis.errorbar(x, [p["pass_rate"] for p in mine], [2 * p["standard_error"] for p in mine], fmt="o", label="seen")
        axis.plot(x, [p["predicted"] for p in mine], "--", label="predicted")
        axis.axvline(mine[0]["margin"], color="grey", linewidth=0.8)
        axis.axhline(ALPHA, color="grey", linewidth=0.8)
        axis.set(title=quantity, xlabel="true difference")
    axes[0].set_ylabel("share of trials that pass")
    axes[-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    cases = parser.parse_args().cases
    rng = np.random.default_rng(0)
    points = [auc_point(rng, d, cases) for d in (-0.02, -0.01, -0.0075, -0.005, -0.0025, 0.0)]
    points += [share_point(rng, "sensitivity", POSITIVE, d, -0.02, cases) for d in (-0.04, -0.02, -0.015, -0.01, 0.0)]
    points += [share_point(rng, "specificity", NEGATIVE, d, -0.03, cases) for d in (-0.06, -0.03, -0.02, -0.01, 0.0)]
    points += [f1_point(rng, d, max(50, cases // 4)) for d in (-0.03, -0.02, -0.015, -0.01, -0.005)]
    repeated = [p for d in (-0.01, 0.0) for p in clustered(rng, d, cases)]
    for name, images, margin in (("sensitivity", POSITIVE, -0.02), ("specificity", NEGATIVE, -0.03)):
        repeated += [p for d in (margin, 0.0) for p in clustered_share(rng, name, images, d, margin, cases)]
    found = needed(rng, next(p for p in points if p["quantity"] == "auc" and p["true_difference"] == -0.005), cases)
    for p in found:
        print(
            f"{p['quantity']}: {p['images']} images asked for, {p['promised']:.0%} promised, {p['pass_rate']:.1%} pass"
        )
    for p in points + repeated:
        print(
            f"{p['quantity']:12} {p.get('method', ''):20} true {p['true_difference']:+.4f} margin {p['margin']:+.2f}: "
            f"passes {p['pass_rate']:.3f} +- {p['standard_error']:.3f}"
            + (f", predicted {p['predicted']:.3f}" if p["predicted"] is not None else "")
        )
    RESULTS.mkdir(exist_ok=True)
    document = {
        **provenance(),
        "alpha": ALPHA,
        "images": {"positive": POSITIVE, "negative": NEGATIVE},
        "points": points,
        "needed": found,
        "clustered": repeated,
    }
    write_json(RESULTS / "gate_error_rates.json", document)
    plot(points, RESULTS / "gate_error_rates.png")
    for p in points + [p for p in repeated if p["method"] == "decides"]:
        if p["true_difference"] == p["margin"]:
            excess = (p["pass_rate"] - ALPHA) / p["standard_error"]
            name = f"{p['quantity']}, {p.get('per_patient', 1)} a patient"
            print(f"{name}: false passes at the margin {p['pass_rate']:.3f}, {excess:+.1f} errors from alpha")


if __name__ == "__main__":
    main()
