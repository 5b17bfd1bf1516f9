"""The profile stage over engines of a backend that sleeps as told."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medge import profile_options, recipe
from medge.devices import local
from medge.errors import ToolError
from medge.records import read_json, write_json
from medge.sections import ProfileSection
from medge.stages import profile
from medge.workspace import Stage
from tests.synthetic_run import write_data

SECTION = ProfileSection(blocks=14, seconds=0.1, warmup_seconds=0.0, threads=1)


@pytest.fixture(autouse=True)
def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Path(__file__).parents[1] / "sleeper_plugin"
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin) + os.pathsep + os.environ.get("MEDGE_PLUGIN_PATH", ""))


def measured(
    tmp_path: Path, engines: dict[str, dict[str, Any]], section: ProfileSection = SECTION
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The stage's values and its latency.json."""
    write_data(tmp_path / "1-data", images=24, size=8)
    for name, options in engines.items():
        folder = tmp_path / "4-compile" / name
        folder.mkdir(parents=True)
        (folder / "options.json").write_text(json.dumps(options))
        variant, target = name.split("/")
        backend, precision = target.split("-")
        file = {"path": "options.json", "sha256": "0" * 64, "bytes": 100}
        write_json(
            folder / "engine.json",
            {
                "variant": variant,
                "backend": backend,
                "precision": precision,
                "files": [file],
                "onnx_sha256": "0",
                "versions": {},
            },
        )
    work = tmp_path / "work"
    work.mkdir()
    inputs = {
        name: Stage(name, tmp_path / folder, key="", sha256="", values={}, inputs={}, seconds=0.0, skipped=False)
        for name, folder in (("data", "1-data"), ("compile", "4-compile"))
    }
    values = profile.run(section, inputs, work, 0)
    return values, read_json(work / "latency.json"), work


def test_ratios_are_to_the_float_engine_of_the_same_backend(tmp_path: Path) -> None:
    values, report, work = measured(
        tmp_path, {"float/sleeper-float32": {"milliseconds": 6}, "int8/sleeper-int8": {"milliseconds": 2}}
    )
    ratio = report["ratio_to_float"]["int8/sleeper-int8"]
    assert ratio["to"] == report["reference"] == "float/sleeper-float32"
    assert 0.25 < ratio["lower"] <= ratio["ratio"] <= ratio["upper"] < 0.5
    assert report["ratio_to_float"]["float/sleeper-float32"]["ratio"] == 1.0
    latency = report["engines"]["int8/sleeper-int8"]
    assert (latency["queries"], latency["p99_ms"], latency["bytes"]) == (report["blocks"] * 5, None, 100)
    assert latency["p90_ms"] >= latency["p50_ms"] >= 2
    assert report["aa_control"]["engine"] == "float/sleeper-float32"
    assert values["aa_control"] in ("stable", "unstable")
    rows = list(csv.DictReader((work / "raw/int8__sleeper-int8.csv").open()))
    assert len(rows) == latency["queries"]
    assert (work / "raw/A__A-control.csv").exists()


def test_the_order_of_engines_changes_from_round_to_round(tmp_path: Path) -> None:
    _, _, work = measured(tmp_path, {"float/sleeper-float32": {}, "int8/sleeper-int8": {}})
    rows = list(csv.DictReader((work / "raw/int8__sleeper-int8.csv").open()))
    assert {row["place"] for row in rows} == {"0", "1", "2"}


def test_a_worker_that_dies_is_a_result_and_the_others_go_on(tmp_path: Path) -> None:
    values, report, _ = measured(tmp_path, {"float/sleeper-float32": {}, "int8/sleeper-int8": {"dies_after": 20}})
    assert set(report["engines"]) == {"float/sleeper-float32"}
    assert "int8/sleeper-int8: its worker was ended by signal 9" in values["failures"]["int8/sleeper-int8"]


def test_without_a_float_engine_the_ratios_are_null_and_the_control_says_why(tmp_path: Path) -> None:
    _, report, _ = measured(tmp_path, {"int8/sleeper-int8": {}})
    assert report["ratio_to_float"] == {"int8/sleeper-int8": None}
    assert report["aa_control"]["verdict"] == "not measured"
    assert "float32" in report["aa_control"]["reason"]


def test_another_machine_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here = profile.fingerprint(SECTION)
    facts = local.facts()
    monkeypatch.setattr(local, "facts", lambda: {**facts, "cpu": "another"})
    assert profile.fingerprint(SECTION) != here


def test_where_no_engine_runs_the_tool_is_blamed_by_name(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"Not one engine could be measured: int8/sleeper-int8: no such kernel"):
        measured(tmp_path, {"int8/sleeper-int8": {"refuse": "no such kernel"}})


def test_the_coordinator_brings_no_second_thread_pool_with_it() -> None:
    program = "import sys, medge.stages.profile; print([m for m in ('torch', 'nncf', 'openvino') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_other_scenarios_stand_beside_steady_with_their_raw_values(tmp_path: Path) -> None:
    more = {"scenarios": ("steady", "cold", "sporadic", "soak"), "cold": {"starts": 3}, "soak": {"seconds": 0.3}}
    section = ProfileSection(**{**SECTION.model_dump(), **more, "sporadic": {"queries": 5, "interval_seconds": 0.0}})
    engines = {"float/sleeper-float32": {"milliseconds": 4}, "int8/sleeper-int8": {"milliseconds": 1}}
    _, report, work = measured(tmp_path, engines, section)
    assert list(report["scenarios"]) == ["sporadic", "cold", "soak"]
    assert set(report["scenarios"]["cold"]["engines"]) == set(report["engines"]) == set(engines)
    assert list(report["scenarios"]["soak"]["engines"]) == ["int8/sleeper-int8"]  # the fastest
    raw = read_json(work / "raw/sporadic.json")
    assert [len(wall) for wall in raw["wall_ns"].values()] == [5, 5]
    assert report["stability"]["verdict"] in ("stable", "unstable")
    assert report["estimates"] is None


def test_the_options_of_the_command_are_settings_of_the_recipe() -> None:
    changes = profile_options.settings_of(
        scenarios=["soak", "cold"], power_mode="0", lock_clocks=True, estimate=["jetson-orin-nano"]
    )
    section = recipe.parse(recipe.with_settings({}, changes), origin="test").profile
    assert section.scenarios == ("steady", "soak", "cold")
    assert (section.power_mode, section.lock_clocks, section.estimate) == ("0", True, ("jetson-orin-nano",))
    nothing = profile_options.settings_of(scenarios=None, power_mode=None, lock_clocks=False, estimate=None)
    assert nothing == []
