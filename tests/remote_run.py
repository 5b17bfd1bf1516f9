"""A data and a compile stage of made-up engines, for jobs on devices."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from medge import conversation, remote_profile
from medge.device_book import Device
from medge.job.territory import MARKER
from medge.records import sha256_of_file, write_json
from medge.sections import ProfileSection
from medge.stages import profile
from medge.workspace import Stage
from tests.synthetic_run import write_data

SECTION = ProfileSection(device="cart7", blocks=12, seconds=0.1, warmup_seconds=0.0, threads=1)
ENGINES: dict[str, dict[str, Any]] = {
    "float/sleeper-float32": {"milliseconds": 2},
    "int8/sleeper-int8": {"milliseconds": 1},
}


def use_sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Path(__file__).parent / "unit/sleeper_plugin"
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin) + os.pathsep + os.environ.get("MEDGE_PLUGIN_PATH", ""))


def write_inputs(folder: Path, engines: dict[str, dict[str, Any]] | None = None) -> dict[str, Stage]:
    write_data(folder / "1-data", images=24, size=8)
    for name, options in (ENGINES if engines is None else engines).items():
        write_engine(folder / "4-compile", name, options)
    return {
        name: Stage(name, folder / place, key="", sha256="", values={}, inputs={}, seconds=0.0, skipped=False)
        for name, place in (("data", "1-data"), ("compile", "4-compile"))
    }


def write_engine(compile_folder: Path, name: str, options: dict[str, Any]) -> None:
    folder = compile_folder / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "options.json"
    path.write_text(json.dumps(options))
    variant, target = name.split("/")
    backend, precision = target.split("-")
    file = {"path": "options.json", "sha256": sha256_of_file(path), "bytes": path.stat().st_size}
    write_json(
        folder / "engine.json",
        {"variant": variant, "backend": backend, "precision": precision, "files": [file], "onnx_sha256": "0",
         "versions": {}},
    )  # fmt: skip


def left(device: Device) -> list[str]:
    """The files in a device's folder, without the one that says it is medge's."""
    assert device.folder is not None
    root = Path(device.folder)
    return sorted(
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and path.name != MARKER
    )


def measured(tmp_path: Path, engines: Any = None, **changes: Any) -> tuple[dict[str, Any], Path]:
    inputs = write_inputs(tmp_path / "run", engines)
    work = tmp_path / "work"
    work.mkdir()
    return profile.run(SECTION.model_copy(update=changes), inputs, work, 0), work


def made_job(tmp_path: Path, device: Device) -> remote_profile.Made:
    (tmp_path / "scratch").mkdir()
    inputs = write_inputs(tmp_path / "run")
    return remote_profile.make(SECTION, inputs, tmp_path / "scratch", device=device, seed=0)


def talk(device: Device) -> dict[str, Any]:
    with conversation.connected(device) as agent:
        return agent.hello
