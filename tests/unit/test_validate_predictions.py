"""`medge validate --predictions FLOAT.csv ENGINE.csv`: the trial for people who use nothing else of medge."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import predictions
from medge.predictions import Predictions
from tests.unit.tables import noisy, rows, table

KEYS = {"verdict", "auc", "sensitivity", "specificity", "f1", "flips"}


def validate(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medge", "validate", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def written(folder: Path, **tables: Predictions) -> None:
    for name, of in tables.items():
        predictions.write(folder / f"{name}.csv", of)


def document(*words: str, cwd: Path, code: int) -> Any:
    done = validate("--predictions", "a.csv", "b.csv", *words, "--json", cwd=cwd)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_the_same_scores_pass_with_exit_0(tmp_path: Path) -> None:
    written(tmp_path, a=table(), b=table())
    found = document(cwd=tmp_path, code=0)
    assert found.keys() >= KEYS
    assert found["verdict"] == "pass"
    assert found["auc"]["difference"] == found["auc"]["lower"] == 0
    assert found["flips"] == {**found["flips"], "rate": 0, "new_misses": 0, "new_alarms": 0, "verdict": "pass"}
    assert {found[name]["verdict"] for name in KEYS - {"verdict"}} == {"pass"}


def test_a_worse_engine_fails_with_exit_5_and_the_same_document(tmp_path: Path) -> None:
    written(tmp_path, a=table(), b=noisy(table(), 3.0))
    found = document(cwd=tmp_path, code=5)
    assert found["verdict"] == found["auc"]["verdict"] == "fail"
    assert found["auc"]["lower"] < found["auc"]["difference"] < found["auc"]["upper"] < -0.01
    assert found["flips"]["new_misses"] + found["flips"]["new_alarms"] > 0


def test_few_images_are_inconclusive_with_exit_5_and_say_how_many_would_decide(tmp_path: Path) -> None:
    written(tmp_path, a=table(40), b=noisy(table(40), 0.05))
    found = document(cwd=tmp_path, code=5)
    assert found["verdict"] == "inconclusive"
    undecided = [found[name] for name in KEYS - {"verdict"} if found[name]["verdict"] == "inconclusive"]
    assert undecided
    assert all(check["needed"] for check in undecided)


def test_settings_change_the_protocol(tmp_path: Path) -> None:
    written(tmp_path, a=table(), b=noisy(table(), 0.3))
    strict = document("--set", "validate.margins.flips=0.0", cwd=tmp_path, code=5)
    assert strict["flips"]["limit"] == 0
    assert strict["flips"]["verdict"] == "fail"


def test_thresholds_can_be_fitted_on_other_tables(tmp_path: Path) -> None:
    whole, other = table(), noisy(table(), 0.2)
    first, second = list(range(300)), list(range(300, 600))
    written(tmp_path, a=rows(whole, first), b=rows(other, first), c=rows(whole, second), d=rows(other, second))
    apart = document("--fitted-on", "c.csv", "d.csv", cwd=tmp_path, code=5)
    alone = document(cwd=tmp_path, code=5)
    assert apart["auc"] == alone["auc"]
    assert apart["sensitivity"] != alone["sensitivity"]


def test_a_person_sees_every_check_and_the_notice(tmp_path: Path) -> None:
    written(tmp_path, a=table(), b=table())
    done = validate("--predictions", "a.csv", "b.csv", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == ""
    for word in ("auc", "sensitivity carried", "specificity refitted", "f1", "flips", "ece", "verdict pass"):
        assert word in done.stderr
    assert "not a medical device" in done.stderr


def contradicted(of: Predictions) -> Predictions:
    """One more row of the sixth image, with another label."""
    again = rows(of, [*range(len(of)), 5])
    labels = again.labels.copy()
    labels[-1] = 1 - labels[-1]
    return dataclasses.replace(again, labels=labels)


def broken(name: str) -> tuple[Predictions, Predictions]:
    good = table(60)
    engine = noisy(good, 0.1)
    logits = engine.logits.copy()
    logits[3, 0] = np.nan
    healthy = np.flatnonzero(good.labels == 0).tolist()
    return {
        "one class": (rows(good, healthy), rows(engine, healthy)),
        "nan": (good, dataclasses.replace(engine, logits=logits)),
        "repeated": (contradicted(good), contradicted(engine)),
        "other images": (good, rows(engine, list(range(50)))),
        "no groups": (dataclasses.replace(good, group=("",) * 60), engine),
        "one group": (dataclasses.replace(good, group=("p",) * 60), dataclasses.replace(engine, group=("p",) * 60)),
        "equal scores": (dataclasses.replace(good, logits=np.zeros((60, 2))), engine),
    }[name]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("one class", "class 1 has 0 of 30 images"),
        ("nan", "b.csv are not finite, first line 5, image"),
        ("repeated", "line 7, image 000000000000; line 62, image 000000000000"),
        ("other images", "10 only in the float model's"),
        ("no groups", "have no group"),
        ("one group", "of one group"),
        ("equal scores", "every image has the same score"),
    ],
)
def test_tables_that_cannot_be_judged_are_exit_2_with_a_fix(tmp_path: Path, name: str, message: str) -> None:
    a, b = broken(name)
    written(tmp_path, a=a, b=b)
    done = validate("--predictions", "a.csv", "b.csv", "--json", cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    found = json.loads(done.stdout)
    assert message in found["error"]
    assert found["fix"]
    assert "Traceback" not in done.stderr


def test_ten_images_and_a_subgroup_of_one_give_no_number_that_means_nothing(tmp_path: Path) -> None:
    few = dataclasses.replace(table(10), subgroups={"sex": ("f", *"m" * 9)})
    written(tmp_path, a=few, b=few)
    found = document(cwd=tmp_path, code=5)
    assert found["verdict"] == "inconclusive"
    assert found["sensitivity"]["verdict"] == "inconclusive"
    assert found["sensitivity"]["lower"] < -0.1  # the same decisions on so few images show next to nothing
    assert found["sensitivity"]["upper"] > 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fitted-on", "a.csv", "b.csv"], "--fitted-on needs --predictions"),
        (["--predictions", "a.csv", "b.csv", "--run", "x"], "takes no --run"),
        (["--predictions", "a.csv", "b.csv", "--set", "data.size=3"], "changes nothing here"),
        (["--predictions", "a.csv", "none.csv"], "Cannot read the predictions table"),
        (["--predictions", "a.csv", "b.csv", "--fitted-on", "a.csv", "b.csv"], "600 images are in"),
        (["--predictions", "a.csv", "b.csv", "--set", "validate.alfa=0.1"], "no such key"),
    ],
)
def test_words_that_do_not_fit_are_exit_2(tmp_path: Path, words: list[str], message: str) -> None:
    written(tmp_path, a=table(), b=table())
    done = validate(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "fix:" in done.stderr


def test_rows_that_repeat_an_image_alike_count_once_and_are_told(tmp_path: Path) -> None:
    good, engine = table(), noisy(table(), 0.05)
    written(tmp_path, a=good, b=engine, c=rows(good, [*range(600), 5, 9]), d=rows(engine, [*range(600), 5, 9]))
    once = document(cwd=tmp_path, code=0)
    done = validate("--predictions", "c.csv", "d.csv", "--json", cwd=tmp_path)
    twice = json.loads(done.stdout)
    assert (once["repeated"], twice["repeated"]) == (0, 2)
    assert {key: twice[key] for key in KEYS} == {key: once[key] for key in KEYS}
    told = validate("--predictions", "c.csv", "d.csv", cwd=tmp_path).stderr
    assert "2 rows repeat an image and count once" in told


def test_one_file_for_both_models_is_refused(tmp_path: Path) -> None:
    written(tmp_path, a=table())
    done = validate("--predictions", "a.csv", "./a.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "named twice" in done.stderr


def test_what_was_judged_and_how_is_told(tmp_path: Path) -> None:
    written(tmp_path, a=table(), b=noisy(table(), 0.05))
    found = document("--set", "validate.threshold=sensitivity>=0.9", cwd=tmp_path, code=0)
    assert found["images"] == {"class_0": 300, "class_1": 300}
    assert found["groups"] == 300
    assert found["protocol"]["threshold"] == "sensitivity>=0.9"
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.csv", "b.csv")]
    assert [of["sha256"] for of in found["tables"]] == digests
    told = validate("--predictions", "a.csv", "b.csv", "--set", "validate.threshold=sensitivity>=0.9", cwd=tmp_path)
    for words in ("600 images", "sensitivity>=0.9", f"float {found['thresholds']['float']:.4f}"):
        assert words in " ".join(told.stderr.split())


def test_the_table_and_the_sentence_give_the_interval_that_decides(tmp_path: Path) -> None:
    written(tmp_path, a=table(60), b=noisy(table(60), 0.2))
    found = document(cwd=tmp_path, code=5)["auc"]
    assert found["decided_lower"] < found["lower"]
    told = validate("--predictions", "a.csv", "b.csv", cwd=tmp_path).stderr
    assert f"[{found['decided_lower']:+.4f}, {found['decided_upper']:+.4f}]" in told
    assert f"[{found['lower']:+.4f}, {found['upper']:+.4f}]" not in told
