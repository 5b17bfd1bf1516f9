"""A run whose engine a device built that has a `kiln`: a backend which this host knows and has not."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from medge import device_book, predictions
from medge.records import sha256_of_json, to_json, write_json
from medge.sections import ProfileSection, SelectSection, ValidateSection
from medge.stages import profile, select
from medge.trial import judge
from medge.workspace import Stage
from tests.fake_stages import fake_inputs
from tests.ssh_server import InProcess

NAME = "float/kiln-float32"
PROTOCOL = ValidateSection(bootstrap=200)
REFERENCE = Path(__file__).resolve().parent / "plugins/backends/reference.py"
KILN = """
import os
def missing(precision):
    return None if os.environ.get("KILN") else "Missing: a kiln."
def versions():
    return {"kiln": os.environ["KILN"]}
class _Wrong:
    def __init__(self, session):
        self._session = session
    def run(self, images):
        logits, features = self._session.run(images)
        return -logits, features
_right = start
def start(folder, files, *, precision, threads):
    session = _right(folder, files, precision=precision, threads=threads)
    return _Wrong(session) if os.environ.get("KILN") == "wrong" else session
"""


@dataclass(frozen=True)
class Measured:
    """A run with its profile stage made on a device that has a kiln."""

    run: dict[str, Stage]

    def then(self, name: str, module: Any, section: Any, work: Path) -> Measured:
        work.mkdir(parents=True)
        values = module.run(section, self.run, work, 0)
        return Measured({**self.run, name: Stage(name, work, "k", name.ljust(64, "0"), values, 0.0, {}, False)})

    def folder(self, name: str) -> Path:
        return self.run[name].folder

    def values(self, name: str) -> Any:
        return self.run[name].values


def measured(folder: Path, *, score: str, kiln: str = "1") -> Measured:
    with pytest.MonkeyPatch.context() as patch:
        plugin = folder / "plugin/backends"
        plugin.mkdir(parents=True)
        (plugin / "kiln.py").write_text(REFERENCE.read_text() + KILN)
        patch.setenv("MEDGE_PLUGIN_PATH", str(plugin.parent))
        patch.setenv("MEDGE_DEVICES", str(folder / "devices.json"))
        patch.setenv("HOME", str(folder / "home"))
        server = InProcess(folder / "server", environment={"KILN": kiln, "MEDGE_PLUGIN_PATH": ""})
        device_book.add(replace(server.device, python=sys.executable, folder=str(folder / "device")))
        run = fake_inputs(folder / "run", stressed=False)
        _judge(run)
        kept = run["compile"].folder / NAME
        kept.mkdir(parents=True)
        shutil.copyfile(folder / "run/means.onnx", kept / "graph.onnx")
        write_json(kept / "skipped.json", {"variant": "float", "backend": "kiln", "precision": "float32"})
        asked = {"device": "cart7", "blocks": 12, "seconds": 0.1, "warmup_seconds": 0.0, "threads": 1, "score": score}
        section = ProfileSection.model_validate(asked)
        try:
            return Measured(run).then("profile", profile, section, folder / "6-profile")
        finally:
            server.stop()


def _judge(run: dict[str, Stage]) -> None:
    """The trials of the engine of this host, as validate would have left them."""
    tables = run["validate"].folder / "predictions"
    name = "float/onnxruntime-float32"

    def table(stem: str, split: str) -> predictions.Predictions:
        return predictions.read(tables / f"{stem}-{split}.csv")

    trials = {
        split: to_json(
            judge(
                table("float", "validation"), table(name.replace("/", "__"), "validation"), table("float", split),
                table(name.replace("/", "__"), split), section=PROTOCOL, seed=0,
            )
        )
        for split in ("validation", "test")
    }  # fmt: skip
    protocol = PROTOCOL.model_dump(mode="json")
    about = {"labels": ["NORMAL", "PNEUMONIA"], "protocol": protocol, "protocol_sha256": sha256_of_json(protocol)}
    write_json(run["validate"].folder / "trials.json", {**about, "engines": {name: trials}})


def chosen(scored: Measured, folder: Path, engine: str | None = NAME) -> Measured:
    return scored.then("select", select, SelectSection(engine=engine, accept_inconclusive=True), folder / "7-select")


def copied(scored: Measured, folder: Path) -> Measured:
    """The run with a profile stage of its own, to be changed."""
    copy = folder / "6-profile"
    shutil.copytree(scored.folder("profile"), copy)
    return Measured({**scored.run, "profile": replace(scored.run["profile"], folder=copy)})
