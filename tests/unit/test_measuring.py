"""One visit to a machine: its power mode set for as long as it lasts, what it shows noted meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medge import measuring
from medge.devices import jetson
from medge.errors import ToolError
from medge.measuring import Conditions
from tests.jetson import FAKE_JETSON
from tests.unit.test_scenarios import made, shared


@pytest.fixture(autouse=True)
def on_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Path(__file__).parent / "sleeper_plugin"
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin))
    monkeypatch.setenv("PATH", f"{FAKE_JETSON}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_JETSON_STATE", str(tmp_path / "state.json"))


def test_a_jetson_is_measured_in_the_mode_that_was_asked_for_and_put_back(tmp_path: Path) -> None:
    conditions = Conditions(blocks=12, seconds=0.1, warmup_seconds=0.0, power_mode="15W", lock_clocks=True)
    engines = made(tmp_path, {"float/sleeper-float32": {}})
    measured = measuring.measure(jetson, engines, seed=0, conditions=conditions, **shared(tmp_path))
    device = measured.device
    assert device["power"]["during"]["power_mode"] == {"id": 0, "name": "15W"}
    assert device["power"]["during"]["clocks"]["locked"] is True
    assert {one["power_mw"] for one in device["samples"]} == {3848}
    for when in ("before", "after"):
        assert (device[when]["power_mode"]["name"], device[when]["clocks"]["locked"]) == ("25W", False)
    assert measured.steady.rounds >= 12


def test_a_jetson_that_refuses_the_mode_is_not_measured(tmp_path: Path) -> None:
    conditions = Conditions(blocks=12, seconds=0.1, warmup_seconds=0.0, power_mode="7W")
    engines = made(tmp_path, {"float/sleeper-float32": {}})
    with pytest.raises(ToolError, match="only by a reboot"):
        measuring.measure(jetson, engines, seed=0, conditions=conditions, **shared(tmp_path))
    assert not list(tmp_path.glob("*.log"))
