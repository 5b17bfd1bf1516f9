"""The validate stage: tables, verdicts, resume after a kill, and engines that die."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import model as models
from medge import predictions
from medge.errors import DataError, ToolError
from medge.records import Engine, file_record, read_json, sha256_of_file, write_json
from medge.sections import ValidateSection
from medge.stages import validate
from medge.workspace import Stage
from tests.synthetic_run import write_data

SECTION = ValidateSection(bootstrap=200)

# An engine that is a text file: the means of the picture's centre and border as logits, or what the file asks for.
BACKEND = """
import os, signal, sys
import numpy as np
from medge.protocols import QuantRules

PACKAGE, PRECISIONS, QUANT = "numpy", ("float32",), QuantRules()

class Session:
    def __init__(self, order):
        self.order = order
    def run(self, images):
        if self.order == "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        pixels = images[0].astype(np.float64)
        score = (pixels[8:24, 8:24].mean() - pixels.mean()) / 4
        if self.order == "nan":
            score = float("nan")
        if self.order == "worse":
            score = np.random.default_rng(int(pixels.sum())).normal()
        wide = [0.0, score, 0.0] if self.order == "three" else [0.0, score]
        return np.array([wide], np.float32), np.zeros((1, 1), np.float32)

def start(folder, files, *, precision, threads):
    assert "torch" not in sys.modules
    (folder / "starts").open("a").write("x")
    return Session((folder / files[0]).read_text())
"""


class Reference:
    """What stands in for the torch model: the same arithmetic as the engine's."""

    calls = 0

    @classmethod
    def predict(cls, model: Any, data: Any, indices: Any, *, description: str) -> np.ndarray:
        cls.calls += 1
        pixels = data.read(indices).astype(np.float64)
        score = (pixels[:, 8:24, 8:24].mean(axis=(1, 2, 3)) - pixels.mean(axis=(1, 2, 3))) / 4
        return np.stack([np.zeros_like(score), score], axis=1).astype(np.float32)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    plugin = tmp_path / "plugins" / "backends"
    plugin.mkdir(parents=True)
    (plugin / "scripted_validate.py").write_text(BACKEND)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(tmp_path / "plugins"))
    monkeypatch.setattr(models, "load", lambda folder: None)
    monkeypatch.setattr(models, "predict", Reference.predict)
    Reference.calls = 0
    write_data(tmp_path / "1-data", images=400, size=32)
    names = {"data": "1-data", "finetune": "2-finetune", "compile": "4-compile"}
    add_engine(tmp_path / "4-compile", "float", "same")
    return {name: Stage(name, tmp_path / folder, "k", "s", {}, 0.0, {}, False) for name, folder in names.items()}


def add_engine(compiled: Path, variant: str, order: str) -> str:
    folder = compiled / variant / "scripted_validate-float32"
    folder.mkdir(parents=True)
    (folder / "engine.txt").write_text(order)
    engine = Engine(
        variant, "scripted_validate", "float32", (file_record(folder, folder / "engine.txt"),), "0" * 64, {}
    )
    write_json(folder / "engine.json", engine)
    return engine.name


def run(inputs: dict[str, Stage], work: Path) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    return validate.run(SECTION, inputs, work, 0)


def test_every_engine_is_judged_on_validation_and_test(inputs: dict[str, Stage], tmp_path: Path) -> None:
    worse = add_engine(inputs["compile"].folder, "int8", "worse")
    values = run(inputs, tmp_path / "work")
    assert set(values["engines"]) == {"float/scripted_validate-float32", worse}
    assert values["engines"][worse] == {"validation": "fail", "test": "fail"}
    document = read_json(tmp_path / "work" / "trials.json")
    trial = document["engines"]["float/scripted_validate-float32"]["test"]
    assert {c["quantity"]: c["difference"] for c in trial["checks"]}["auc"] == 0.0
    assert document["protocol"]["bootstrap"] == 200
    table = predictions.read(tmp_path / "work" / "predictions" / "int8__scripted_validate-float32-test.csv")
    assert len(table) == 160


def test_an_external_set_is_judged_with_the_thresholds_of_validation(inputs: dict[str, Stage], tmp_path: Path) -> None:
    folder = inputs["data"].folder
    manifest = (folder / "manifest.csv").read_text().replace(",train,", ",external,")
    (folder / "manifest.csv").write_text(manifest)
    about = {**read_json(folder / "dataset.json"), "sha256": sha256_of_file(folder / "manifest.csv")}
    write_json(folder / "dataset.json", about)
    values = run(inputs, tmp_path / "work")
    trials = read_json(tmp_path / "work" / "trials.json")["engines"]["float/scripted_validate-float32"]
    assert set(values["engines"]["float/scripted_validate-float32"]) == {"validation", "test", "external"}
    assert trials["external"]["thresholds"] == trials["validation"]["thresholds"]


def test_a_repeated_run_writes_the_same_bytes(inputs: dict[str, Stage], tmp_path: Path) -> None:
    first, second = (run(inputs, tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert (tmp_path / "a" / "trials.json").read_bytes() == (tmp_path / "b" / "trials.json").read_bytes()


def test_a_killed_run_keeps_the_tables_that_it_had_finished(inputs: dict[str, Stage], tmp_path: Path) -> None:
    run(inputs, tmp_path / "work")
    whole = (tmp_path / "work" / "trials.json").read_bytes()
    os.unlink(tmp_path / "work" / "trials.json")
    os.unlink(tmp_path / "work" / "predictions" / "float__scripted_validate-float32-test.csv")
    starts = inputs["compile"].folder / "float" / "scripted_validate-float32" / "starts"
    (tmp_path / "work" / "predictions" / ".float-test.csv.123").write_text("sha256,gro")
    before, Reference.calls = len(starts.read_text()), 0
    run(inputs, tmp_path / "work")
    assert (len(starts.read_text()) - before, Reference.calls) == (1, 0)
    assert (tmp_path / "work" / "trials.json").read_bytes() == whole
    assert not list((tmp_path / "work" / "predictions").glob(".*"))


@pytest.mark.parametrize(("order", "said"), [("die", "SIGSEGV"), ("nan", "nan"), ("three", "3 logits for 2 classes")])
def test_an_engine_that_breaks_is_named(inputs: dict[str, Stage], tmp_path: Path, order: str, said: str) -> None:
    name = add_engine(inputs["compile"].folder, "int8", order)
    with pytest.raises(ToolError) as caught:
        run(inputs, tmp_path / "work")
    assert name in caught.value.message
    assert said in caught.value.message


def test_a_set_without_test_images_is_refused(inputs: dict[str, Stage], tmp_path: Path) -> None:
    folder = inputs["data"].folder
    (folder / "manifest.csv").write_text((folder / "manifest.csv").read_text().replace(",test,", ",train,"))
    about = {**read_json(folder / "dataset.json"), "sha256": sha256_of_file(folder / "manifest.csv")}
    write_json(folder / "dataset.json", about)
    with pytest.raises(DataError, match="no test images"):
        run(inputs, tmp_path / "work")
