"""Unit-to-unit variance, and the same job on several devices at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import device_book, fleet, profile_commands, profile_options
from medge.device_book import Device
from medge.errors import MissingError, RecipeError, ToolError
from medge.recipe import Recipe
from medge.records import read_json
from tests import remote_run
from tests.remote_run import SECTION
from tests.ssh_server import InProcess, free_port


def result(milliseconds: float) -> dict[str, Any]:
    wall = [[int(milliseconds * 1e6)] * 5] * 3
    one = {"engine": "a/x-int8", "first_inference_ms": 1.0, "cold_start_ms": 1.0, "peak_memory_mb": None,
           "wall_ns": wall, "cpu_ns": [1] * 3, "order": [0] * 3}  # fmt: skip
    device = {"facts": {"cpu": "c", "board": None}, "before": {"power_mode": {"id": 0, "name": "15W"}}}
    measured = {"series": {"a/x-int8": one, "A/A control": one}, "failures": {}, "reference": None, "rounds": 3,
                "seconds": 0.1}  # fmt: skip
    return {"measured": measured, "scenarios": {}, "device": device, "failures": {}}


def test_the_variance_is_that_of_the_units_medians() -> None:
    found = fleet.summary({"cart7": result(2.0), "cart8": result(3.0), "cart9": result(4.0)})
    engine = found["engines"]["a/x-int8"]
    assert engine == {
        "p50_ms": {"cart7": 2.0, "cart8": 3.0, "cart9": 4.0},
        "units": 3, "median_ms": 3.0, "min_ms": 2.0, "max_ms": 4.0, "cv": round(1 / 3, 5),
    }  # fmt: skip
    assert set(found["engines"]) == {"a/x-int8"}
    assert found["devices"]["cart8"]["power_mode"]["name"] == "15W"


def test_one_unit_has_no_variance() -> None:
    assert fleet.summary({"cart7": result(2.0)})["engines"]["a/x-int8"]["cv"] is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    one = InProcess(tmp_path_factory.mktemp("server"))
    yield one
    one.stop()


@pytest.fixture
def cart(server: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    remote_run.use_sleeper(monkeypatch)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return replace(server.device, python=sys.executable)


def test_two_devices_are_measured_at_once_and_a_third_that_is_off_is_named(cart: Device, tmp_path: Path) -> None:
    carts = [replace(cart, name=name, folder=str(tmp_path / name)) for name in ("cart7", "cart8")]
    off = replace(cart, name="cart9", port=free_port())
    inputs = remote_run.write_inputs(tmp_path / "run")
    recipe: Any = SimpleNamespace(profile=SECTION, seed=0)
    document = fleet.measure([*carts, off], recipe, inputs, tmp_path / "run")
    assert read_json(tmp_path / "run/fleet.json") == document
    assert set(document["devices"]) == {"cart7", "cart8"}
    assert set(document["engines"]["int8/sleeper-int8"]["p50_ms"]) == {"cart7", "cart8"}
    assert "no ssh server listens" in document["failures"]["cart9"]
    with pytest.raises(ToolError, match="Not one device could measure"):
        fleet.measure([off], recipe, inputs, tmp_path / "run")


def test_several_names_or_all_of_a_kind_are_a_fleet(cart: Device, tmp_path: Path) -> None:
    assert profile_options.is_fleet(["a", "b"])
    assert profile_options.is_fleet(["all:linux"])
    assert not profile_options.is_fleet(["a"])
    assert not profile_options.is_fleet(None)
    with pytest.raises(MissingError, match="No device of kind linux") as caught:
        profile_commands.measure_fleet(tmp_path, Recipe(), ["all:linux"])
    assert "medge devices add NAME ssh://user@host --kind linux" in caught.value.fix
    with pytest.raises(RecipeError, match="No kind of device 'lynux'"):
        profile_commands.measure_fleet(tmp_path, Recipe(), ["all:lynux"])
    with pytest.raises(RecipeError, match="'local' is this machine"):
        profile_commands.measure_fleet(tmp_path, Recipe(), ["local", "cart7"])
    assert device_book.devices() == []


def test_a_unit_that_was_restless_is_called_unstable_with_the_reason() -> None:
    restless = result(2.0)
    slow = [10**6] * 80 + [9 * 10**6] * 20
    restless["measured"]["series"]["a/x-int8"]["wall_ns"] = [slow] * 3
    found = fleet.summary({"cart7": result(2.0), "cart8": restless})["devices"]
    assert found["cart7"]["stability"]["verdict"] == "not measured"
    assert found["cart8"]["stability"]["verdict"] == "unstable"
    assert "9.0 times the median" in found["cart8"]["stability"]["reasons"][0]


def test_the_tables_are_the_answer_on_stdout_and_what_is_wrong_and_where_it_lies_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spread = {"units": 2, "median_ms": 2.0, "min_ms": 1.0, "max_ms": 3.0, "cv": 0.5}
    one = {"units": 1, "median_ms": 2.0, "min_ms": 2.0, "max_ms": 2.0, "cv": None}
    shaky = {"board": None, "cpu": "C", "stability": {"verdict": "unstable", "reasons": ["it throttled"]}}
    document = {"devices": {"cart7": shaky}, "engines": {"float/x-float32": spread, "int8/x-int8": one}}
    fleet.show({**document, "failures": {"cart8": "it does not answer"}}, Path("runs/x/fleet.json"))
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.strip().splitlines()]
    assert ["cart7", "C", "unstable"] in rows
    assert ["float/x-float32", "2", "2.00", "1.00", "3.00", "50.0", "%"] in rows
    assert ["int8/x-int8", "1", "2.00", "2.00", "2.00", "one", "unit"] in rows
    assert err.strip().splitlines() == [
        "cart7: unstable: it throttled.",
        "cart8: it does not answer",
        "fleet runs/x/fleet.json",
        "research use; not a medical device",
    ]
