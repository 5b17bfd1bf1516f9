"""Tables that cannot be judged are refused with what is wrong, and what is too few is inconclusive."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from medge import predictions
from medge.errors import DataError, RecipeError
from medge.predictions import Predictions
from medge.sections import ValidateSection
from medge.trial import Trial, judge, summary, trial_of_files
from tests.unit.tables import noisy, rows, table

QUICK = ValidateSection(bootstrap=400)


def of(first: Predictions, second: Predictions, **changes: object) -> Trial:
    """The trial of two tables on which thresholds are fitted too."""
    return judge(first, second, first, second, section=QUICK.model_copy(update=changes), seed=0)


def check(trial: Trial, quantity: str):
    return next(c for c in trial.checks if c.quantity == quantity)


def with_logit(value: float) -> Predictions:
    broken = table(60)
    logits = broken.logits.copy()
    logits[7, 1] = value
    return dataclasses.replace(broken, logits=logits)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    with pytest.raises(DataError, match="engine's validation table are not finite"):
        of(table(60), with_logit(value))


def test_one_class_only_is_refused():
    only = rows(table(60), np.flatnonzero(table(60).labels == 1).tolist())
    with pytest.raises(DataError, match="class 0 has 0 of 30 images"):
        of(only, only)


def test_a_class_that_is_missing_among_the_judged_is_refused():
    full = table(60, classes=3)
    part = rows(full, np.flatnonzero(full.labels != 2).tolist())
    with pytest.raises(DataError, match="class 2 has 0"):
        judge(full, full, part, part, section=QUICK, seed=0)


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no image"):
        of(rows(table(60), []), rows(table(60), []))


def test_tables_of_different_images_are_refused():
    with pytest.raises(DataError, match="2 only in the float model's, 0 only in the engine's"):
        of(table(60), rows(table(60), list(range(58))))
    with pytest.raises(DataError, match="60 only in the float model's, 60 only in the engine's"):
        of(table(60), table(60, seed=3))


def test_tables_with_different_labels_or_groups_are_refused():
    first = table(60)
    with pytest.raises(DataError, match="disagree on the label of 60 images"):
        of(first, dataclasses.replace(first, labels=1 - first.labels))
    with pytest.raises(DataError, match="disagree on the group of 1 image,"):
        of(first, dataclasses.replace(first, group=("other", *first.group[1:])))


def test_tables_of_different_classes_are_refused():
    with pytest.raises(DataError, match="2 classes"):
        of(table(60), table(60, classes=3))


def test_missing_groups_are_refused():
    first = table(60)
    without = dataclasses.replace(first, group=("", *first.group[1:]))
    with pytest.raises(DataError, match="1 row of the float model's validation table have no group"):
        of(without, without)


def test_one_group_cannot_be_resampled():
    first = dataclasses.replace(table(60), group=("p",) * 60)
    with pytest.raises(DataError, match="of one group"):
        of(first, first)


def test_labels_outside_the_classes_are_refused():
    first = dataclasses.replace(table(60), labels=table(60).labels + 1)
    with pytest.raises(DataError, match="not a class index"):
        of(first, first)


def test_a_float_model_that_scores_every_image_alike_is_refused():
    flat = dataclasses.replace(table(60), logits=np.tile([0.3, 0.7], (60, 1)))
    with pytest.raises(DataError, match="every image has the same score"):
        of(flat, flat)


def test_identical_copies_of_an_image_count_once():
    first = table(60)
    copied = rows(first, [*range(60), 3, 3])
    trial = of(copied, copied)
    assert (trial.repeated, sum(trial.images.values())) == (2, 60)
    assert dataclasses.replace(trial, repeated=0) == of(first, first)


def test_repeated_rows_that_disagree_are_refused():
    first = rows(table(60), [*range(60), 3])
    logits = first.logits.copy()
    logits[60] += 1
    with pytest.raises(DataError, match="2 rows with different labels or logits"):
        of(dataclasses.replace(first, logits=logits), first)


def test_an_unknown_rule_is_refused():
    with pytest.raises(RecipeError, match="No threshold rule"):
        of(table(60), table(60), threshold="best")


# Two files from any tool


def test_two_files_are_judged_with_the_float_models_own_threshold(tmp_path: Path):
    first = table()
    predictions.write(tmp_path / "a.csv", first)
    predictions.write(tmp_path / "b.csv", noisy(first, 0.01))
    found = summary(trial_of_files(tmp_path / "a.csv", tmp_path / "b.csv"))
    assert found["verdict"] == "pass"
    assert {"float", "engine", "difference", "lower", "upper", "verdict"} <= set(found["auc"])
    assert {"rate", "new_misses", "new_alarms", "verdict"} <= set(found["flips"])
    assert all(found[name]["verdict"] == "pass" for name in ("auc", "sensitivity", "specificity", "f1", "flips"))
    assert "rows" not in found["flips"]


def test_one_file_for_both_models_is_refused(tmp_path: Path):
    predictions.write(tmp_path / "a.csv", table(60))
    with pytest.raises(DataError, match=r"a\.csv is named twice"):
        trial_of_files(tmp_path / "a.csv", tmp_path / "a.csv")


def broken(first: Predictions, how: str) -> tuple[Predictions, Predictions]:
    """Both tables with one fault."""
    logits = first.logits.copy()
    if how == "nan":
        logits[3, 0] = np.nan
        return first, dataclasses.replace(first, logits=logits)
    if how == "one class":
        only = rows(first, np.flatnonzero(first.labels == 1).tolist())
        return only, only
    if how == "other images":
        return first, table(len(first), seed=9)
    if how == "no groups":
        without = dataclasses.replace(first, group=("",) * len(first))
        return without, without
    flat = dataclasses.replace(first, logits=np.tile([0.3, 0.7], (len(first), 1)))
    return flat, flat


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", r"1 row of .*b\.csv are not finite, first line 5, image"),
        ("one class", "class 0 has 0 of 30 images"),
        ("other images", "60 only in the float model's, 60 only in the engine's"),
        ("no groups", r"60 rows of .*a\.csv have no group, first line 2, image"),
        ("equal scores", "every image has the same score"),
    ],
)
def test_files_that_cannot_be_judged_are_refused_with_what_is_wrong(tmp_path: Path, how: str, message: str):
    first, second = broken(table(60), how)
    predictions.write(tmp_path / "a.csv", first)
    predictions.write(tmp_path / "b.csv", second)
    with pytest.raises(DataError, match=message):
        trial_of_files(tmp_path / "a.csv", tmp_path / "b.csv")


def test_ten_images_and_a_subgroup_of_one_are_inconclusive_in_files_too(tmp_path: Path):
    first = dataclasses.replace(table(10, per_group=1), subgroups={"site": ("a",) * 9 + ("b",)})
    predictions.write(tmp_path / "a.csv", first)
    predictions.write(tmp_path / "b.csv", first)
    trial = trial_of_files(tmp_path / "a.csv", tmp_path / "b.csv")
    assert trial.verdict == "inconclusive"
    assert [s.verdict for s in trial.subgroups] == ["inconclusive", "inconclusive"]
    assert check(trial, "sensitivity_carried").needed == {"class_1": 133}
