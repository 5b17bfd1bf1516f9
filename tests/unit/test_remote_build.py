"""Engines that only the device can build: built there, kept there, tested, measured, brought home."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medge import device_book, engine_caches, engines
from medge.device_book import Device
from medge.records import read_json, sha256_of_file, write_json
from medge.sections import ProfileSection
from medge.stages import profile
from tests import remote_run
from tests.remote_run import SECTION
from tests.ssh_server import InProcess

FORGE = """
import json, os
BUILD_CACHE = "timing.cache"
def cache_pin():
    return {"forge": os.environ["FORGE"]}
def missing(precision):
    return None if os.environ.get("FORGE") else "Missing: a forge."
def build(onnx, folder, *, precision):
    with open(os.environ["FORGE"], "a") as log:
        log.write("built ")
    if b"refuse" in onnx.read_bytes():
        raise ToolError("The forge refused the graph.")
    beside = onnx.with_name(BUILD_CACHE)
    beside.write_text((beside.read_text() if beside.exists() else "") + "+")
    (folder / "engine.plan").write_text(json.dumps({"milliseconds": 1}))
    return ["engine.plan"]
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "forge.log"


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path) -> Iterator[Device]:
    """Only it has a forge."""
    folder = tmp_path / "plugin/backends"
    folder.mkdir(parents=True)
    sleeper = Path(__file__).parent / "sleeper_plugin/backends/sleeper.py"
    (folder / "forge.py").write_text(sleeper.read_text() + FORGE)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(folder.parent))
    remote_run.use_sleeper(monkeypatch)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    server = InProcess(tmp_path / "server", environment={"FORGE": str(log), "MEDGE_PLUGIN_PATH": ""})
    one = replace(server.device, python=sys.executable, folder=str(tmp_path / "device"))
    device_book.add(one)
    yield one
    server.stop()


def measured(
    folder: Path, graph: bytes = b"graph", *, section: ProfileSection = SECTION, **more: dict[str, Any]
) -> tuple[dict[str, Any], Path]:
    inputs = remote_run.write_inputs(folder / "run", {"float/sleeper-float32": {}, **more})
    kept = inputs["compile"].folder / "float/forge-float32"
    kept.mkdir(parents=True)
    (kept / "graph.onnx").write_bytes(graph)
    write_json(kept / "skipped.json", {"variant": "float", "backend": "forge", "precision": "float32", "reason": "x"})
    (folder / "work").mkdir()
    return profile.run(section, inputs, folder / "work", 0), folder / "work"


def test_an_engine_is_built_there_once_and_brought_home_with_its_receipt(
    device: Device, tmp_path: Path, log: Path
) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        values, work = measured(folder)
        assert values["built"] == ["float/forge-float32"]
        engine = engines.load(work / "engines/float/forge-float32")
        assert sha256_of_file(work / "engines/float/forge-float32/engine.plan") == engine.files[0].sha256
        receipt = read_json(work / "receipts/float__forge-float32.json")
        assert receipt["engine_sha256"] == engine.sha256
        assert receipt["selftest"]["verdict"] == "not run"
        assert receipt["selftest"]["reason"].startswith("this host has no answer of its own: ONNX Runtime refused")
        assert receipt["latency"]["queries"] == 60
    assert log.read_text() == "built "


def test_a_kept_engine_that_was_changed_is_built_again(device: Device, tmp_path: Path, log: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        measured(folder)
        (record,) = Path(str(device.folder)).glob("files/built-*.json")
        (record.parent / read_json(record)["files"][0]["sha256"]).write_text("spoiled")
    assert log.read_text() == "built built "


def test_times_of_one_build_come_home_go_out_with_the_next_job_and_leave_nothing_there(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    section = SECTION.model_copy(update={"keep_on_device": "nothing"})
    times = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        _, work = measured(folder, section=section)
        times.append(read_json(work / "receipts/float__forge-float32.json")["caches"]["times"])
        assert not Path(str(device.folder)).exists()
    assert times[0]["given"] is None
    assert times[1]["given"] == times[0]["sha256"]
    assert (engine_caches.folder_of("cart7") / times[1]["sha256"]).read_text() == "++"


def test_a_graph_that_is_refused_there_is_named_and_the_others_are_measured(device: Device, tmp_path: Path) -> None:
    values, _ = measured(tmp_path, b"refuse")
    assert values["failures"] == {"float/forge-float32": "The forge refused the graph."}
    assert set(values["engines"]) == {"float/sleeper-float32"}
