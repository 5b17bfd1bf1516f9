"""The select stage over a made-up run: what choice.json holds, and which verdict is the stage's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import predictions
from medge.errors import RecipeError, ToolError
from medge.records import read_json, write_json
from medge.runtime.bundle import OperatingPoint
from medge.runtime.decision import decide, probabilities
from medge.sections import SelectLimits, SelectSection
from medge.stages import select
from medge.workspace import required
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made-up", until="profile")


def chosen(run: Path, work: Path, **keys: Any) -> dict[str, Any]:
    """The values and the document of the stage."""
    work.mkdir(exist_ok=True)
    inputs = {name: required(run, name) for name in ("compile", "validate", "profile")}
    values = select.run(SelectSection(**keys), inputs, work, 0)
    return {**read_json(work / "choice.json"), "values": values}


def changed(run: Path, copy: Path, *, test: str | None = None, validation: str | None = None) -> Path:
    """A copy of the run in which every engine has these verdicts."""
    shutil.copytree(run, copy)
    trials = read_json(copy / "5-validate/trials.json")
    for of in trials["engines"].values():
        of["test"]["verdict"] = test or of["test"]["verdict"]
        of["validation"]["verdict"] = validation or of["validation"]["verdict"]
    write_json(copy / "5-validate/trials.json", trials)
    return copy


def test_the_fastest_kept_engine_is_chosen_and_every_candidate_is_recorded(run: Path, tmp_path: Path) -> None:
    found = chosen(run, tmp_path / "work")
    assert found["chosen"] == found["values"]["chosen"] == "int8/openvino-int8"
    dropped = {row["name"]: row["reason"] for row in found["candidates"] if not row["kept"]}
    assert dropped == {"pruned-int8/openvino-int8": "it fails the gate on validation"}
    assert found["values"]["sentence"].startswith("int8/openvino-int8 (3.3")


@pytest.mark.parametrize(
    ("test", "accept", "expected"),
    [
        ("pass", False, "pass"),
        ("inconclusive", False, "inconclusive"),
        ("inconclusive", True, "accepted"),
        ("fail", True, "fail"),
    ],
)
def test_the_verdict_is_that_of_the_chosen_one_on_test(
    run: Path, tmp_path: Path, test: str, accept: bool, expected: str
) -> None:
    copy = changed(run, tmp_path / "run", test=test)
    assert chosen(copy, tmp_path / "work", accept_inconclusive=accept)["values"]["verdict"] == expected


def test_the_verdict_on_test_does_not_change_the_choice(run: Path, tmp_path: Path) -> None:
    copy = changed(run, tmp_path / "run", test="fail")
    assert chosen(copy, tmp_path / "work")["chosen"] == chosen(run, tmp_path / "other")["chosen"]


def test_unstable_latencies_are_said_with_the_choice(run: Path, tmp_path: Path) -> None:
    copy = changed(run, tmp_path / "run")
    latency = read_json(copy / "6-profile/latency.json")
    for name, verdict in (("steady", "stable"), ("restless", "unstable")):
        write_json(
            copy / "6-profile/latency.json", {**latency, "stability": {"verdict": verdict, "reasons": ["it ran hot"]}}
        )
        sentence = chosen(copy, tmp_path / name)["sentence"]
        assert ("The latencies are unstable (it ran hot): mend that" in sentence) == (verdict == "unstable")


def test_with_no_candidate_left_the_verdict_is_fail_and_the_nearest_miss_is_named(run: Path, tmp_path: Path) -> None:
    found = chosen(run, tmp_path / "work", limits=SelectLimits(p90_ms=1.0))
    assert (found["chosen"], found["operating_point"], found["values"]["verdict"]) == (None, None, "fail")
    assert "the nearest miss is int8/openvino-int8" in found["sentence"]


def test_an_engine_over_a_limit_chosen_by_hand_is_a_fail(run: Path, tmp_path: Path) -> None:
    copy = changed(run, tmp_path / "run", test="pass")
    found = chosen(copy, tmp_path / "work", engine="float/openvino-float32", limits=SelectLimits(size_mb=5))
    assert (found["chosen"], found["values"]["verdict"]) == ("float/openvino-float32", "fail")
    assert "chosen by hand, although its size" in found["sentence"]


def test_an_unknown_engine_is_an_error_with_the_nearest_name(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'int8/openvino-int8'\?"):
        chosen(run, tmp_path / "work", engine="int8/openvino-int")


def test_the_device_decides_as_the_trial_did(run: Path, tmp_path: Path) -> None:
    found = chosen(run, tmp_path / "work")
    point = OperatingPoint(**found["operating_point"])
    labels = read_json(run / "5-validate/trials.json")["labels"]
    trial = read_json(run / "5-validate/trials.json")["engines"][found["chosen"]]["test"]
    table = predictions.read(run / "5-validate/predictions/int8__openvino-int8-test.csv")
    shipped = [
        decide(p, labels=labels, point=point) for p in probabilities(table.logits, temperature=point.temperature)
    ]
    truth = np.asarray(labels)[table.labels]
    confusion = [[int(np.sum((truth == a) & (np.asarray(shipped) == b))) for b in labels] for a in labels]
    assert confusion == trial["confusion"]["engine"]


def test_a_repeated_choice_is_the_same_document(run: Path, tmp_path: Path) -> None:
    first, second = chosen(run, tmp_path / "a"), chosen(run, tmp_path / "b")
    assert json.dumps(first) == json.dumps(second)


def test_no_engine_with_both_predictions_and_latencies_is_an_error(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    latency = read_json(copy / "6-profile/latency.json")
    write_json(copy / "6-profile/latency.json", {**latency, "engines": {}})
    with pytest.raises(ToolError, match="both predictions and latencies"):
        chosen(copy, tmp_path / "work")
