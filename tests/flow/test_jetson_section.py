"""The lines of "Your Jetson in five minutes", typed one after the other, against a fake Jetson on a real ssh server."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from medge import cli, engines, manifest, predictions
from medge.data import dataset
from medge.errors import MedgeError
from medge.pipeline import PARENTS
from medge.recipe import Recipe, dump
from medge.records import read_json, to_json, write_json
from medge.runtime import bundle as bundles
from medge.runtime.predict import predict_logits, start_engine
from medge.trial import judge
from medge.workspace import STAGES, Inputs, Stage, step
from tests import fake_stages
from tests.ssh_server import Sshd, sshd
from tests.synthetic_run import write_data

pytestmark = pytest.mark.ssh

ROOT = Path(__file__).resolve().parents[2]
FAKE = ROOT / "tests/fake_jetson"
TITLE = "## Your Jetson in five minutes\n"
RECIPE = Recipe.model_validate({
    "name": "ward",
    "validate": {"bootstrap": 200, "margins": {"auc": -0.9, "sensitivity": -0.99, "specificity": -0.99, "f1": -0.99,
                                               "flips": 1.0, "ece": 1.0}},
    "profile": {"blocks": 12, "seconds": 0.2, "warmup_seconds": 0.0, "threads": 1},
    "select": {"accept_inconclusive": True},
    "stress": {"corruptions": {"images": 10, "kinds": ["jpeg"]}, "saliency": 0},
})  # fmt: skip


def section(name: str) -> list[str]:
    """Its command lines, without their comments."""
    text = (ROOT / name).read_text(encoding="utf-8").split(TITLE)[1].split("\n## ")[0]
    return [line.split("  #")[0].strip() for line in text.splitlines() if line.startswith("    medge ")]


@pytest.fixture(scope="module")
def jetson(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    folder = tmp_path_factory.mktemp("jetson")
    environment = {
        "PATH": f"{FAKE}:{os.environ['PATH']}", "FAKE_JETSON_STATE": str(folder / "state.json"),
        "PYTHONPATH": str(FAKE / "site"),
    }  # fmt: skip
    with sshd(folder / "sshd", environment=environment) as one:
        yield one


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run that has been through validate: a small network, its engine for ONNX Runtime, the engine's own answers."""
    monkeypatch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/ward"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(RECIPE))
    done: dict[str, Stage] = {}
    for name in STAGES[: STAGES.index("validate") + 1]:
        inputs = {parent: done[parent] for parent in PARENTS[name]}
        module = SimpleNamespace(run=globals()[f"make_{name}"])
        done[name] = step(folder, name, RECIPE.section(name), inputs, module, seed=0)
    return folder


def make_data(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    shutil.rmtree(work)
    write_data(work, images=60, size=32)
    (work / ".key").touch()
    return {"images": 60, "pixel_identical": 0, "near_duplicates": 0, "notes": []}


def make_finetune(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    write_json(work / "model.json", {"timm_name": "means", "weights": "none"})
    return {"verdict": "pass", "limits": [], "best": {"phase": "blocks", "epoch": 1}}


def make_compress(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    (work / "float").mkdir()
    fake_stages.write_onnx(work / "float/model.onnx", size=32)
    variant = {"name": "float", "quantised": False, "chain": [], "log": [], "verdict": "pass"}
    write_json(work / "float/variant.json", {**variant, "onnx_sha256": "0" * 64})
    return {"variants": ["float"]}


def make_compile(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    engine, _ = fake_stages._write_engine(
        work, inputs["compress"].folder / "float/model.onnx", "onnxruntime", "float32"
    )
    return {"engines": [engine.name], "skipped": []}


def make_validate(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    data = dataset.load(inputs["data"].folder)
    ((engine, folder),) = engines.load_all(inputs["compile"].folder)
    session = start_engine(engine, folder, threads=1)
    (work / "predictions").mkdir()
    tables = {}
    for split in ("validation", "test"):
        rows = data.indices(split)
        tables[split] = data.predictions(rows, predict_logits(session, data.read(rows)))
        for name in ("float", engine.name.replace("/", "__")):
            predictions.write(work / "predictions" / f"{name}-{split}.csv", tables[split])
    fitted = tables["validation"]
    trials = {
        split: to_json(judge(fitted, fitted, table, table, section=section, seed=seed))
        for split, table in tables.items()
    }
    about = {"schema": 1, "synthetic": True, "labels": list(data.labels), "protocol_sha256": "5" * 64}
    protocol = section.model_dump(mode="json")
    write_json(work / "trials.json", {**about, "protocol": protocol, "engines": {engine.name: trials}})
    return {"engines": {engine.name: {split: trial["verdict"] for split, trial in trials.items()}}}


def call(*words: str) -> Any:
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def typed(line: str, jetson: Sshd, tmp_path: Path) -> Any:
    """What a line answers; its address is this test's, and of a first meeting the fingerprint is accepted."""
    words = shlex.split(line)[1:]
    if words[:2] == ["devices", "add"]:
        device = jetson.device
        words = [f"ssh://{device.user}@127.0.0.1:{device.port}" if "://" in word else word for word in words]
        words += ["--folder", str(tmp_path / "there"), "--python", sys.executable]
        words += ["--identity", str(device.identity), "--yes"]
    return call(*words)


def test_both_places_that_hold_the_lines_say_the_same() -> None:
    assert section("README.md") == section("docs/devices.md")
    assert len(section("README.md")) > 4


def test_the_lines_of_the_section_end_with_a_receipt_in_the_bundle(jetson: Sshd, run: Path, tmp_path: Path) -> None:
    answers = {line: typed(line, jetson, tmp_path) for line in section("README.md")}
    package = list(answers.values())[-1]
    assert package["stages"]["package"]["values"]["validated_on"] == "cart7"
    bundle = bundles.load(tmp_path / package["bundle"])
    (entry,) = bundle.manifest["receipts"]
    receipt = read_json(bundle.folder / entry["path"])
    assert receipt["engine_sha256"] == bundle.engine.sha256
    assert receipt["selftest"]["verdict"] == "pass"
    assert set(receipt["answers"]) == {"validation", "test"}
    assert "most probable class" in receipt["metrics"]["accuracy_decided_by"]
    readme = (bundle.folder / "README.md").read_text()
    assert "at the operating threshold" in readme
    assert f"The receipt's accuracy on cart7, {receipt['metrics']['accuracy']:.3f} of" in readme
    profile = next(answer for line, answer in answers.items() if line.startswith("medge profile"))
    values = profile["stages"]["profile"]["values"]
    assert (values["device"], set(values["selftests"].values())) == ("cart7", {"pass"})


def test_a_power_mode_is_for_the_command_that_names_it(jetson: Sshd, run: Path, tmp_path: Path) -> None:
    typed(section("README.md")[0], jetson, tmp_path)

    def power() -> Any:
        return read_json(run / "6-profile/latency.json")["device"]["power"]

    call("profile", "--device", "jetson", "--power-mode", "25W", "--lock-clocks")
    assert power()["during"]["power_mode"]["name"] == "25W"
    before = (run / "recipe.yaml").read_text()
    with pytest.raises(MedgeError):
        call("profile", "--device", "jetson", "--power-mode", "NOSUCH")
    assert (run / "recipe.yaml").read_text() == before
    assert not call("profile")["stages"]["profile"]["skipped"]
    assert not power()
    call("profile", "--device", "jetson", "--power-mode", "25W", "--lock-clocks")
    assert call("profile", "--device", "jetson", "--power-mode", "25W", "--lock-clocks")["stages"]["profile"]["skipped"]
