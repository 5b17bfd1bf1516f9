"""`medge profile` for other machines, as it is typed: over ssh, by a stick, on several at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from medge import cli, device_book
from medge.device_book import Device
from medge.errors import IntegrityError, MedgeError, MissingError, RecipeError
from medge.pipeline import PARENTS
from medge.recipe import Recipe, dump, parse
from medge.records import read_json
from medge.workspace import STAGES, Inputs, Stage, step
from tests import remote_run, synthetic_run
from tests.ssh_server import InProcess, free_port

QUICK = {"blocks": 10, "seconds": 0.1, "warmup_seconds": 0.0, "threads": 1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    one = InProcess(tmp_path_factory.mktemp("server"))
    yield one
    one.stop()


@pytest.fixture
def run(tmp_path: Path, server: InProcess, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run up to compile, two devices of the ward, and one without a network."""
    remote_run.use_sleeper(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("cart7", "cart8"):
        folder = str(tmp_path / name)
        device_book.add(replace(server.device, name=name, python=sys.executable, folder=folder))
    device_book.add(Device("cart9", "linux", ""))
    folder = tmp_path / "runs/ward"
    folder.mkdir(parents=True)
    recipe = Recipe(name="ward", profile=QUICK)
    (folder / "recipe.yaml").write_text(dump(recipe))
    done: dict[str, Stage] = {}
    data = partial(synthetic_run._data, images=24, synthetic=True, labels=synthetic_run.LABELS)
    writers = {"data": data, "compile": write_compile}
    for name in STAGES[: STAGES.index("compile") + 1]:
        module = SimpleNamespace(run=writers.get(name) or synthetic_run._WRITERS[name])
        inputs = {parent: done[parent] for parent in PARENTS[name]}
        done[name] = step(folder, name, recipe.section(name), inputs, module, seed=0)
    return folder


def write_compile(section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    for name, options in remote_run.ENGINES.items():
        remote_run.write_engine(work, name, options)
    return {"engines": list(remote_run.ENGINES), "skipped": []}


def call(*words: str) -> Any:
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return json.loads(done.stdout)


def test_a_device_is_named_on_the_command_line_and_measured_once(run: Path) -> None:
    first = call("profile", "--device", "cart7")["stages"]["profile"]
    assert first["values"]["device"] == "cart7"
    assert call("profile", "--device", "cart7")["stages"]["profile"]["skipped"]
    assert {path.name for path in (run / "6-profile/receipts").iterdir()} == {
        "float__sleeper-float32.json",
        "int8__sleeper-int8.json",
    }


def test_a_stick_carries_a_job_there_and_its_result_back(run: Path, tmp_path: Path) -> None:
    asked = call("profile", "--device", "cart9", "--export", "job.zip")
    with zipfile.ZipFile("job.zip") as archive:
        archive.extractall("stick")
    subprocess.run(
        [sys.executable, "-I", "job.pyz"], cwd="stick", check=True, env={"PATH": os.defpath}, capture_output=True
    )
    found = call("profile", "--import", "stick/result.zip")["stages"]["profile"]
    assert (asked["device"], found["values"]["device"]) == ("cart9", "cart9")
    assert call("profile")["stages"]["profile"]["skipped"]
    assert read_json(run / "6-profile/latency.json")["device"]["name"] == "cart9"
    with pytest.raises(IntegrityError):
        call("profile", "--import", "job.zip")


def test_several_devices_are_compared_and_the_run_keeps_its_own_profile(run: Path) -> None:
    document = call("profile", "--device", "cart7", "--device", "cart8")
    assert document["engines"]["int8/sleeper-int8"]["units"] == 2
    assert read_json(run / "fleet.json")["devices"].keys() == {"cart7", "cart8"}
    assert not (run / "6-profile").exists()


def test_what_cannot_be_meant_is_refused(run: Path) -> None:
    with pytest.raises(RecipeError, match="3 devices of kind linux: cart7, cart8, cart9"):
        call("profile", "--device", "linux")
    with pytest.raises(MissingError, match="There is no device 'cart6'") as caught:
        call("profile", "--device", "cart6")
    assert caught.value.exit_code == 3
    with pytest.raises(MissingError, match="cart9 has no network"):
        call("profile", "--device", "cart9")
    with pytest.raises(RecipeError, match="exported for one device"):
        call("profile", "--device", "cart7", "--device", "cart8", "--export", "job.zip")
    with pytest.raises(RecipeError, match="the result is its own"):
        call("profile", "--device", "cart7", "--import", "result.zip")


def test_what_a_refused_profile_asked_for_is_not_asked_for_again(run: Path) -> None:
    call("profile", "--device", "cart7")
    before = (run / "recipe.yaml").read_text()
    with pytest.raises(MissingError, match="no power modes"):
        call("profile", "--device", "cart8", "--set", "profile.power_mode=MAXN")
    assert (run / "recipe.yaml").read_text() == before
    device_book.add(Device("cart6", "linux", "127.0.0.1", port=free_port(), facts={"cpu": "c"}))
    with pytest.raises(MedgeError):
        call("profile", "--device", "cart6")
    assert (run / "recipe.yaml").read_text() == before
    assert call("profile")["stages"]["profile"]["skipped"]


def test_whether_engines_may_stay_is_kept_until_the_other_is_said(run: Path) -> None:
    def kept() -> Any:
        return parse(yaml.safe_load((run / "recipe.yaml").read_text()), origin="run").profile.keep_on_device

    call("profile", "--device", "cart7", "--no-cache")
    assert kept() == "nothing"
    call("profile", "--device", "cart7")
    assert kept() == "nothing"
    assert not call("profile", "--device", "cart7", "--cache")["stages"]["profile"]["skipped"]
    assert kept() == "engines"
