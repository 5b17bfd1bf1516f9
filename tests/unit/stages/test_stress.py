"""The stage stress: what it writes, what it leaves out, and that a kill costs what was being done and no more."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medge import corruptions, engine_outputs, flip_pictures, robustness
from medge.data import dataset
from medge.errors import DataError, GateFailed, RecipeError
from medge.recipe import parse
from medge.records import read_json, write_json
from medge.sections import CorruptionSection, OodSection, StressSection
from medge.stages import stress
from medge.workspace import Stage
from tests.fake_stages import fake_inputs

ENGINE = "float/onnxruntime-float32"
FEW = CorruptionSection(images=12, kinds=("jpeg", "gaussian_noise"), severities=(1, 5))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    return fake_inputs(tmp_path_factory.mktemp("run"), images=200, stressed=False)


def run(inputs: dict[str, Stage], work: Path, **keys: Any) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    section = StressSection(**{"corruptions": FEW, "saliency": 0, **keys})
    stress.run(section, inputs, work, 0)
    return dict(read_json(work / "stress.json"))


def test_the_document_has_what_the_report_reads(inputs: dict[str, Stage], tmp_path: Path) -> None:
    found = run(inputs, tmp_path)
    assert (found["schema"], found["engine"], found["reference"], found["saliency"]) == (1, ENGINE, ENGINE, [])
    rows = found["corruptions"]["rows"]
    assert [(row["kind"], row["severity"]) for row in rows] == [
        ("jpeg", 1), ("jpeg", 5), ("gaussian_noise", 1), ("gaussian_noise", 5)
    ]  # fmt: skip
    assert {"auc_float", "auc_engine", "difference", "lower", "flips"} <= set(rows[0])
    assert {row["difference"] for row in rows} == {row["flips"] for row in rows} == {0.0}
    engine = found["ood"]["engines"][ENGINE]
    assert set(engine["sets"]) == {"blank", "noise"}
    assert (engine["sets"]["blank"]["refused"], engine["sets"]["blank"]["images"]) == (18, 18)
    assert engine["validation"]["refused"] <= 1
    assert engine["threshold_rule"]["guaranteed"] is False


def test_corrupted_images_are_judged_and_not_the_clean_ones(inputs: dict[str, Stage], tmp_path: Path) -> None:
    """By an oracle: the engine's arithmetic in numpy on images corrupted here."""
    rows = run(inputs, tmp_path, ood=None)["corruptions"]["rows"]
    data = dataset.load(inputs["data"].folder)
    test = data.indices("test")
    chosen = test[robustness.sample(data.label[test], 12, seed=0)]
    images = [corruptions.corrupt(data.read([r])[0], "gaussian_noise", 5, seed=int(r)) for r in chosen]
    means = np.stack([image.mean(axis=(0, 1)) for image in images])
    score = means @ np.array([-0.05, 0.01, 0.05]) - 0.2
    positive = data.label[chosen] == 1
    pairs = score[positive][:, None] - score[~positive][None]
    expected = float((pairs > 1e-4).mean() + 0.5 * (np.abs(pairs) <= 1e-4).mean())
    assert rows[-1]["auc_engine"] == pytest.approx(expected, abs=0.03)
    assert rows[-1]["refused_engine"] is None


def test_each_part_can_be_left_out(inputs: dict[str, Stage], tmp_path: Path) -> None:
    found = run(inputs, tmp_path, ood=None, corruptions=None)
    assert (found["ood"], found["corruptions"]) == (None, None)
    assert not (tmp_path / "ood.npy").exists()


def test_sets_of_the_recipe_are_counted_and_absent_ones_left_out_with_a_warning(
    inputs: dict[str, Stage], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(3):
        Image.fromarray(np.full((40, 40, 3), 60 * k, np.uint8)).save(folder / f"{k}.png")
    (folder / "broken.png").write_bytes(b"no image")
    sets = {"photos": str(folder), "none": None, "gone": str(tmp_path / "gone")}
    found = run(inputs, tmp_path / "work", ood=OodSection(sets=sets), corruptions=None)
    measured = found["ood"]["engines"][ENGINE]["sets"]
    assert set(measured) == {"blank", "noise", "photos"}
    assert (measured["photos"]["images"], measured["photos"]["refused"]) == (3, 3)
    said = capsys.readouterr().err
    assert all(part in said for part in ("sets.none is left out", "sets.gone is left out", "1 of 4 files"))


def test_a_named_folder_without_images_is_refused(inputs: dict[str, Stage], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        run(inputs, tmp_path / "work", ood=OodSection(sets={"x": str(tmp_path / "empty")}))


def test_a_changed_image_of_a_set_changes_the_fingerprint(tmp_path: Path) -> None:
    section = StressSection(ood=OodSection(sets={"x": str(tmp_path), "y": None}))
    (tmp_path / "a.png").write_bytes(b"1")
    before = stress.fingerprint(section)
    (tmp_path / "a.png").write_bytes(b"22")
    assert stress.fingerprint(section) != before
    assert stress.fingerprint(StressSection()) == ""


def test_nothing_chosen_is_nothing_stressed(inputs: dict[str, Stage], tmp_path: Path) -> None:
    shutil.copytree(inputs["select"].folder, tmp_path / "select")
    write_json(tmp_path / "select" / "choice.json", {"chosen": None})
    other = Stage("select", tmp_path / "select", "k", "s", {}, 0.0, {}, False)
    with pytest.raises(GateFailed):
        stress.run(StressSection(), {**inputs, "select": other}, tmp_path, 0)


def test_a_repeated_run_writes_the_same_bytes(inputs: dict[str, Stage], tmp_path: Path) -> None:
    run(inputs, tmp_path / "a")
    run(inputs, tmp_path / "b")
    for name in ("stress.json", "ood.npy", "ood.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from medge import robustness
from medge.sections import CorruptionSection, StressSection
from medge.records import write_json
from medge.stages import stress
from medge.workspace import Stage
inputs = {name: Stage(name, Path(folder), "k", "s", {}, 0.0, {}, False) for name, folder in INPUTS}
def write_and_die(path, value):
    write_json(path, value)
    os.kill(os.getpid(), signal.SIGKILL)
robustness.write_json = write_and_die
section = CorruptionSection(images=12, kinds=("jpeg", "gaussian_noise"), severities=(1, 5))
stress.run(StressSection(corruptions=section, saliency=0), inputs, Path(WORK), 0)
"""


def test_kill_9_costs_no_piece_that_was_done(
    inputs: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, work = tmp_path / "whole", tmp_path / "work"
    run(inputs, whole)
    work.mkdir()
    folders = [(name, str(stage.folder)) for name, stage in inputs.items()]
    code = textwrap.dedent(KILLED).replace("INPUTS", repr(folders)).replace("WORK", repr(str(work)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, env={**os.environ})
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (work / "scratch" / "corruption-jpeg.json").is_file()
    ran: list[str] = []
    plainly = engine_outputs.logits_in_child

    def noted(*arguments: Any, **keys: Any) -> Any:
        ran.append(keys["output"].name)
        return plainly(*arguments, **keys)

    monkeypatch.setattr(engine_outputs, "logits_in_child", noted)
    run(inputs, work)
    looks = ("gaussian_noise", "again-gaussian_noise")  # and the second look at those that would be refused
    assert ran == [f"float__onnxruntime-float32-{look}-logits.npy" for look in looks]
    assert (work / "stress.json").read_bytes() == (whole / "stress.json").read_bytes()


def test_flips_are_drawn_new_misses_first_and_listed(
    inputs: dict[str, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float model is a small torch net that pools; the engine's maps are real ones."""
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = torch.nn.Conv2d(3, 4, 5, stride=4)
            self.pool = torch.nn.AdaptiveAvgPool2d(1)
            self.head = torch.nn.Linear(4, 2)

        def forward(self, images: Any) -> Any:
            features = self.pool(self.body(images.permute(0, 3, 1, 2).float() / 255)).flatten(1)
            return self.head(features), features

    monkeypatch.setattr(flip_pictures, "_model", lambda folder: Net())
    data = dataset.load(inputs["data"].folder)
    test = data.indices("test")
    flips = [{"sha256": data.sha256s[int(test[k])], "kind": kind, "decision_float": 1}
             for k, kind in enumerate(("new miss", "new alarm", "new alarm"))]  # fmt: skip
    shutil.copytree(inputs["validate"].folder, tmp_path / "validate")
    trials = read_json(tmp_path / "validate" / "trials.json")
    trials["engines"][ENGINE]["test"]["flips"]["rows"] = flips
    write_json(tmp_path / "validate" / "trials.json", trials)
    other = Stage("validate", tmp_path / "validate", "k", "s", {}, 0.0, {}, False)
    found = run({**inputs, "validate": other}, tmp_path / "work", ood=None, corruptions=None, saliency=2)
    assert [(one["sha256"], one["kind"]) for one in found["saliency"]] == [(f["sha256"], f["kind"]) for f in flips[:2]]
    for one in found["saliency"]:
        for key in ("grad_cam", "difference"):
            assert Image.open(tmp_path / "work" / one[key]).size == (32, 32)


def test_the_sample_keeps_both_classes_and_their_shares() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    chosen = labels[robustness.sample(labels, 20, seed=0)]
    assert (int((chosen == 0).sum()), int((chosen == 1).sum())) == (18, 2)
    assert np.array_equal(robustness.sample(labels, 500, seed=0), np.arange(100))


@pytest.mark.parametrize(
    ("stressed", "said"),
    [
        ({"corruptions": {"kinds": ["jpg"]}}, "Did you mean 'jpeg'"),
        ({"corruptions": {"severities": [6]}}, "less than or equal to 5"),
        ({"corruptions": {"severities": [1, 1]}}, "each severity once"),
        ({"ood": {"sets": {"blank": "x"}}}, "medge's own name"),
        ({"ood": {"method": "magic"}}, "mahalanobis"),
    ],
)
def test_a_wrong_stress_section_is_refused(stressed: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse({"stress": stressed}, origin="test")
