"""`medge compare`: the same test images are compared in pairs, others are not, and the reason is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medge import workspace
from medge.compare import compare
from medge.records import read_json
from medge.sections import SelectSection
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/: first and again (another choice on the same images), smaller (fewer images), started, three (classes)."""
    runs = tmp_path_factory.mktemp("compare") / "runs"
    runs.mkdir()
    write_run(runs / "first")
    write_run(runs / "again", select=SelectSection(engine="pruned-int8/openvino-int8"))
    write_run(runs / "smaller", images=600)
    write_run(runs / "started", until="compile")
    write_run(runs / "three", labels=("a", "b", "c"))
    return runs.parent


def medge(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "medge", *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_a_run_against_a_copy_of_itself_differs_in_nothing(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "runs/first", tmp_path / "copy")
    document = compare([home / "runs/first", tmp_path / "copy"])
    (one,) = document["comparisons"]
    assert one["comparable"] is True
    assert one["trial"]["auc"]["difference"] == 0
    assert one["trial"]["flips"]["count"] == 0
    assert one["trial"]["auc"]["verdict"] == one["trial"]["f1"]["verdict"] == "pass"
    first, second = document["runs"]
    assert {**first, "run": ""} == {**second, "run": ""}


def test_the_same_images_are_compared_in_pairs(home: Path) -> None:
    document = compare([home / "runs/first", home / "runs/again"])
    (one,) = document["comparisons"]
    trials = [
        read_json(home / f"runs/{run}/5-validate/trials.json")["engines"][engine]["test"]["metrics"]["engine"]["auc"]
        for run, engine in (("first", "int8/openvino-int8"), ("again", "pruned-int8/openvino-int8"))
    ]
    assert one["trial"]["auc"]["difference"] == pytest.approx(trials[1]["value"] - trials[0]["value"])
    assert one["trial"]["verdict"] == "fail"
    assert [row["engine"] for row in document["runs"]] == ["int8/openvino-int8", "pruned-int8/openvino-int8"]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("smaller", "their test images are not the same: 240 are in both, 240 only in first, 0 only in smaller"),
        ("started", "started has no chosen engine"),
        ("three", "their classes differ: NORMAL, PNEUMONIA against a, b, c"),
    ],
)
def test_what_cannot_be_compared_says_why(home: Path, other: str, reason: str) -> None:
    (one,) = compare([home / "runs/first", home / f"runs/{other}"])["comparisons"]
    assert one == {"reference": "first", "run": other, "comparable": False, "reason": reason}


def test_the_command_prints_a_table_and_one_document(home: Path) -> None:
    plain = medge("compare", "first", "again", "started", cwd=home)
    assert plain.returncode == 0, plain.stderr
    assert "pruned-int8/openvino-int8" in plain.stderr
    assert "again against first, the same test images: fail. AUC −" in plain.stderr
    assert "started against first: not comparable, started has no chosen engine." in plain.stderr
    as_json = medge("compare", "first", "again", "--json", cwd=home)
    assert as_json.returncode == 0
    document = json.loads(as_json.stdout)
    assert document["reference"] == "first"
    assert {"auc", "sensitivity", "specificity", "flips", "p50_ms", "bytes"} <= set(document["runs"][0])


def test_an_unknown_run_is_exit_2_with_the_nearest_name(home: Path) -> None:
    done = medge("compare", "first", "agian", cwd=home)
    assert done.returncode == 2
    assert "There is no run 'agian'" in done.stderr
    assert "Did you mean 'again'?" in done.stderr


def test_one_run_is_not_compared_with_itself(home: Path) -> None:
    done = medge("compare", "first", "first", cwd=home)
    assert done.returncode == 2
    assert "Compare two different runs" in done.stderr


def test_report_names_all_four_files(home: Path) -> None:
    done = medge("report", "--run", "first", "--json", cwd=home)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    for key in ("report", "report_json", "model_card", "change_control"):
        assert (home / document[key]).is_file(), key
    assert workspace.RUNS.as_posix() == "runs"
