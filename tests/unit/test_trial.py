"""The trial: its verdicts, its symmetries, its point values, and every table that it must refuse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as known

from medge.predictions import Predictions
from medge.records import to_json
from medge.sections import Margins, ValidateSection
from medge.statistics.scores import positive_score, score_of_probability
from medge.trial import Trial, judge
from tests.unit.tables import noisy, rows, table

QUICK = ValidateSection(bootstrap=400)


def of(first: Predictions, second: Predictions, **changes: object) -> Trial:
    """The trial of two tables on which thresholds are fitted too."""
    return judge(first, second, first, second, section=QUICK.model_copy(update=changes), seed=0)


def check(trial: Trial, quantity: str):
    return next(c for c in trial.checks if c.quantity == quantity)


def test_a_model_compared_with_itself_passes_without_a_difference():
    trial = of(table(), table())
    assert trial.verdict == "pass"
    assert {c.quantity: c.difference for c in trial.checks} == dict.fromkeys([c.quantity for c in trial.checks], 0.0)
    assert {c.verdict for c in trial.checks} == {"pass"}
    assert (check(trial, "auc").lower, trial.flips["count"], trial.mcnemar["p"]) == (0.0, 0, 1.0)


def test_a_model_compared_with_itself_on_few_images_is_inconclusive_and_says_how_many_would_do():
    trial = of(table(40, per_group=1), table(40, per_group=1))
    assert trial.verdict == "inconclusive"
    assert check(trial, "sensitivity_carried").needed == {"class_1": 133}
    assert check(trial, "specificity_carried").needed == {"class_0": 88}


def test_the_gate_has_the_checks_of_the_specification():
    binary = [c.quantity for c in of(table(), table()).checks]
    at = ["sensitivity_carried", "sensitivity_refitted", "specificity_carried", "specificity_refitted"]
    assert binary == ["auc", *at, "f1", "flips", "ece"]
    many = [c.quantity for c in of(table(classes=3), table(classes=3)).checks]
    assert many == ["auc", "recall_0", "recall_1", "recall_2", "accuracy", "f1", "flips", "ece"]


@pytest.mark.parametrize("classes", [2, 4])
def test_a_ruined_engine_fails_every_bound(classes):
    before = table(1200, classes=classes)
    trial = of(before, noisy(before, 6.0))
    assert trial.verdict == "fail"
    assert {check(trial, name).verdict for name in ("auc", "f1", "flips")} == {"fail"}


def test_an_engine_that_gives_every_image_the_same_score_fails():
    before = table()
    trial = of(before, dataclasses.replace(before, logits=np.zeros_like(before.logits)))
    assert trial.verdict == "fail"
    assert check(trial, "auc").engine == 0.5


def test_a_loss_of_calibration_alone_is_seen_by_temperature_and_not_by_decisions():
    before = table(2000)
    trial = of(before, dataclasses.replace(before, logits=3 * before.logits))
    assert trial.temperature == pytest.approx(3 * trial.temperature_float, rel=1e-4)
    assert check(trial, "sensitivity_refitted").difference == 0.0
    assert trial.flips["count"] > 0  # the carried threshold is a cut on uncalibrated scores, and they were stretched
    assert check(trial, "ece").difference == pytest.approx(0.0, abs=1e-6)


def test_a_shifted_engine_loses_sensitivity_at_the_carried_threshold_and_regains_it_at_its_own():
    before = table(2000)
    after = dataclasses.replace(before, logits=before.logits - [0.0, 1.0])
    trial = of(before, after)
    assert check(trial, "auc").difference == 0.0
    assert check(trial, "sensitivity_carried").verdict == "fail"
    assert check(trial, "sensitivity_refitted").difference == 0.0
    assert trial.flips["new_misses"] > 0
    assert of(before, after, transfer="refitted").flips["count"] == 0
    assert [row["kind"] for row in trial.flips["rows"]] == sorted(
        [row["kind"] for row in trial.flips["rows"]], key=["new miss", "corrected alarm"].index
    )


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    first = table(120)
    second = noisy(first, 0.3)
    shuffled = [rows(t, rng.permutation(120).tolist()) for t in (first, second, first, second)]
    expected = judge(first, second, first, second, section=QUICK, seed=0)
    assert to_json(expected) == to_json(judge(*shuffled, section=QUICK, seed=0))


def test_exchanging_the_classes_exchanges_sensitivity_and_specificity():
    def swapped(t: Predictions) -> Predictions:
        return dataclasses.replace(t, labels=1 - t.labels, logits=t.logits[:, ::-1].copy())

    first = table(400)
    second = noisy(first, 0.3)
    section = {"threshold": "0.5", "margins": Margins(specificity=-0.02)}
    trial, mirrored = of(first, second, **section), of(swapped(first), swapped(second), **section)
    assert check(trial, "auc").lower == pytest.approx(check(mirrored, "auc").lower)
    before, after = check(trial, "sensitivity_carried"), check(mirrored, "specificity_carried")
    assert (before.difference, before.lower, before.needed is None) == (
        after.difference, pytest.approx(after.lower), after.needed is None
    )  # fmt: skip
    assert trial.flips["new_misses"] == mirrored.flips["new_alarms"]


@pytest.mark.parametrize("classes", [2, 4])
def test_point_values_are_scikit_learns_and_lie_in_their_intervals(classes):
    first = table(500, classes=classes, quality=1.5)
    second = noisy(first, 0.3)
    trial = of(first, second)
    labels = second.labels
    if classes == 2:
        scores = positive_score(second.logits)
        decisions = (scores >= score_of_probability(trial.thresholds["used"])).astype(int)
        average, auc = "binary", known.roc_auc_score(labels, scores)
    else:
        p = np.exp(second.logits) / np.exp(second.logits).sum(axis=1, keepdims=True)
        decisions, average = second.logits.argmax(axis=1), "macro"
        auc = known.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    found = trial.metrics["engine"]
    expected = {
        "accuracy": known.accuracy_score(labels, decisions),
        "balanced_accuracy": known.balanced_accuracy_score(labels, decisions),
        "precision": known.precision_score(labels, decisions, average=average),
        "recall": known.recall_score(labels, decisions, average=average),
        "f1": known.f1_score(labels, decisions, average=average),
        "auc": auc,
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected)
    assert trial.confusion["engine"] == known.confusion_matrix(labels, decisions).tolist()
    assert check(trial, "f1").engine == pytest.approx(expected["f1"])
    assert check(trial, "auc").engine == pytest.approx(auc)
    for name, metric in found.items():
        if name != "ece":  # resampled calibration error is larger than the plain one: it adds noise to every bin
            assert metric.lower <= metric.value <= metric.upper, name


def test_a_share_of_one_has_an_interval_that_is_not_a_point():
    first = table(100, quality=12.0)
    found = of(first, first).metrics["engine"]
    assert (found["accuracy"].value, found["accuracy"].upper, found["accuracy"].method) == (1.0, 1.0, "Wilson")
    assert found["accuracy"].lower == pytest.approx(100 / (100 + 1.959964**2))
    assert found["auc"].lower < 1


def test_thresholds_come_from_validation_and_the_verdict_from_the_judged_images():
    validation, judged = table(400, seed=1), table(800, seed=2)
    trial = judge(validation, noisy(validation, 0.2), judged, noisy(judged, 0.2), section=QUICK, seed=0)
    assert trial.thresholds == of(validation, noisy(validation, 0.2)).thresholds
    assert trial.images == {"class_0": 400, "class_1": 400}


def test_a_trial_is_plain_json_and_repeats_to_the_digit():
    first = table(300)
    texts = {json.dumps(to_json(of(first, noisy(first, 0.5))), allow_nan=False) for _ in range(2)}
    assert len(texts) == 1


def test_what_was_judged_before_changes_nothing():
    first, other = table(300), table(300, seed=5)
    fresh = of(first, noisy(first, 0.5))
    of(other, noisy(other, 0.5))
    of(first, noisy(first, 0.1), alpha=0.1, threshold="0.5", bootstrap=300)
    of(dataclasses.replace(first, logits=first.logits + np.array([0.0, 1e-3])), first)
    assert to_json(of(first, noisy(first, 0.5))) == to_json(fresh)
    trial = of(first, first)
    assert trial.metrics["float"] == trial.metrics["engine"]  # the same draws for both


def test_another_protocol_has_another_hash():
    assert of(table(), table()).protocol_sha256 != of(table(), table(), alpha=0.1).protocol_sha256


def test_alike_images_of_a_patient_hold_a_verdict_back_and_the_notes_say_so():
    # The engine loses seven images, all of two patients: to Tango seven independent ones of 600.
    first = table(1200, quality=3.0, per_group=12)
    patient = [k for k in range(1200) if first.group[k] in ("p7", "p8") and first.labels[k] == 1]
    logits = first.logits.copy()
    logits[patient] = [5.0, -5.0]
    trial = of(first, dataclasses.replace(first, logits=logits), margins=Margins(sensitivity=-0.024))
    found = check(trial, "sensitivity_carried")
    assert found.decided_lower < -0.024 < found.lower
    assert (found.verdict, found.beside[0].method) == ("inconclusive", found.decided_by)
    assert any("sensitivity carried would pass by Tango" in note for note in trial.notes)
    alone = dataclasses.replace(first, group=first.sha256)
    trial = of(alone, dataclasses.replace(alone, logits=logits), margins=Margins(sensitivity=-0.024))
    assert (check(trial, "sensitivity_carried").verdict, trial.notes) == ("pass", ())


def test_the_auc_is_decided_by_the_worse_of_delong_and_the_bound_by_group_and_both_are_given():
    first = table(600)
    found = check(of(first, noisy(first, 0.3)), "auc")
    assert found.decided_lower == min(found.lower, found.beside[0].lower)
    assert found.decided_upper == max(found.upper, found.beside[0].upper)
    assert (found.method, found.decided_by) == ("paired DeLong", "DeLong clustered by group, with skewness")


def test_subgroups_have_their_own_differences_and_small_ones_are_inconclusive():
    first = table(1200)
    sex = tuple("fm"[k % 2] for k in range(1199))
    columns = {"sex": (*sex, ""), "site": ("a",) * 1199 + ("b",), "image": first.sha256}
    first = dataclasses.replace(first, subgroups=columns)
    second = noisy(first, 0.01)
    trial = of(first, second)
    found = {(s.column, s.value): s for s in trial.subgroups}
    assert set(found) == {("sex", "f"), ("sex", "m"), ("sex", "unknown"), ("site", "a"), ("site", "b")}
    assert (found["site", "a"].verdict, found["site", "b"].verdict) == ("pass", "inconclusive")
    assert len(found["site", "b"].checks) == 1  # one image has neither an AUC nor the other class
    assert trial.subgroups_left_out == ("image",)
    women = rows(first, [k for k in range(1199) if sex[k] == "f"])
    shifted = rows(second, [k for k in range(1199) if sex[k] == "f"])
    same = judge(first, second, women, shifted, section=QUICK, seed=0)
    assert check(same, "auc").lower == found["sex", "f"].checks[0].lower
    assert trial.verdict == of(dataclasses.replace(first, subgroups={}), second).verdict


# What must be refused
