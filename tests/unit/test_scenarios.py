"""Sporadic, cold and soak over a backend that sleeps as told, and the verdict that is made of them."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import scenario_results, scenarios
from medge.records import Engine, File
from medge.runtime.sampling import Sampler, mean_power_mw, throttle_events
from medge.statistics.latency import drift


@pytest.fixture(autouse=True)
def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Path(__file__).parent / "sleeper_plugin"
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(plugin) + os.pathsep + os.environ.get("MEDGE_PLUGIN_PATH", ""))


def made(tmp_path: Path, engines: dict[str, dict[str, Any]]) -> list[tuple[Engine, Path]]:
    found = []
    for name, options in engines.items():
        variant, target = name.split("/")
        backend, precision = target.split("-")
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "options.json").write_text(json.dumps(options))
        files = (File("options.json", "0" * 64, 100),)
        found.append((Engine(variant, backend, precision, files, "0", {}), folder))
    return found


def shared(tmp_path: Path) -> dict[str, Any]:
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    return {"images": tmp_path / "images.npy", "threads": 1, "logs": tmp_path}


def test_sporadic_waits_before_every_single_image(tmp_path: Path) -> None:
    waited: list[float] = []
    engines = made(tmp_path, {"float/sleeper-float32": {"milliseconds": 3}, "int8/sleeper-int8": {"milliseconds": 1}})
    raw = scenarios.sporadic(engines, queries=6, interval_seconds=2.0, seed=0, pause=waited.append, **shared(tmp_path))
    assert waited == [2.0] * 12
    assert {name: len(wall) for name, wall in raw["wall_ns"].items()} == {e.name: 6 for e, _ in engines}
    assert statistics.median(raw["wall_ns"]["float/sleeper-float32"]) >= 3e6


def test_cold_starts_a_process_for_every_value(tmp_path: Path) -> None:
    engines = made(tmp_path, {"float/sleeper-float32": {"milliseconds": 3}})
    raw = scenarios.cold(engines, starts=3, seed=0, **shared(tmp_path))
    one = raw["engines"]["float/sleeper-float32"]
    assert len(one["cold_start_ms"]) == len(one["first_inference_ms"]) == 3
    assert all(cold > first > 3 for cold, first in zip(one["cold_start_ms"], one["first_inference_ms"], strict=True))


def test_soak_runs_one_engine_for_as_long_as_it_was_told_and_samples_beside_it(tmp_path: Path) -> None:
    engines = made(tmp_path, {"float/sleeper-float32": {"milliseconds": 1}})
    reading = {"temperature_c": 50.0, "throttled": [], "throttle_counts": {}}
    raw = scenarios.soak(engines, seconds=0.6, sample=lambda: reading, **shared(tmp_path))
    one = raw["engines"]["float/sleeper-float32"]
    assert one["at_s"][-1] >= 0.6
    assert len(one["at_s"]) == len(one["wall_ns"])
    assert {sample["temperature_c"] for sample in one["samples"]} == {50.0}
    assert len(one["samples"]) >= 2
    assert one["idle_samples"] == []


def test_an_engine_that_dies_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    engines = made(tmp_path, {"float/sleeper-float32": {}, "int8/sleeper-int8": {"dies_after": 3}})
    raw = scenarios.run(
        ("steady", "sporadic", "cold"),
        engines,
        settings={"sporadic": {"queries": 6, "interval_seconds": 0.0}, "cold": {"starts": 3}},
        fastest="float/sleeper-float32",
        seed=0,
        sample=dict,
        **shared(tmp_path),
    )
    assert set(raw) == {"sporadic", "cold"}
    assert set(raw["sporadic"]["wall_ns"]) == {"float/sleeper-float32"}
    assert "signal 9" in raw["sporadic"]["failures"]["int8/sleeper-int8"]
    assert json.loads(json.dumps(raw)) == raw


def test_percentiles_are_given_only_where_the_queries_carry_them() -> None:
    raw = {"sporadic": {"settings": {}, "wall_ns": {"a": [2_000_000] * 20, "b": [2_000_000] * 64}, "failures": {}}}
    found = scenario_results.summarise(raw, {"a": 1.0}, seed=0)["sporadic"]["engines"]
    assert (found["a"]["p50_ms"], found["a"]["p90_ms"], found["a"]["times_steady"]) == (2.0, None, 2.0)
    assert (found["b"]["p90_ms"], found["b"]["p95_ms"], found["b"]["times_steady"]) == (2.0, None, None)


def soaked(milliseconds: Sequence[float], **more: Any) -> dict[str, Any]:
    random = np.random.default_rng(0)
    wall = [[int(m * 1e6 * f) for f in random.normal(1, 0.005, 9)] for m in milliseconds]
    seconds = [0.25 * k for k in range(1, len(wall) + 1)]
    one = {"at_s": seconds, "wall_ns": wall, "samples": [], "idle_samples": [], **more}
    raw = {"soak": {"settings": {}, "engines": {"a": one}, "failures": {}}}
    found: dict[str, Any] = scenario_results.summarise(raw, {}, seed=0)["soak"]["engines"]["a"]
    return found


def test_a_soak_that_stays_is_stable_and_one_that_slows_down_is_not() -> None:
    stays, slows = soaked([5.0] * 200), soaked(np.linspace(5, 6, 200).tolist())
    assert (stays["verdict"], stays["reasons"]) == ("stable", [])
    assert stays["drift"]["lower"] <= 1 <= stays["drift"]["upper"]
    assert slows["verdict"] == "unstable"
    assert 1.15 < slows["drift"]["lower"] < slows["drift"]["upper"] < 1.25
    assert "times as long as the first" in slows["reasons"][0]


def test_a_soak_that_throttles_is_unstable_whatever_its_latency() -> None:
    counts = [
        {"at_s": float(k), "throttle_counts": {"over-current oc3": 7 + k // 2}, "throttled": []} for k in range(5)
    ]
    found = soaked([5.0] * 200, samples=counts)
    assert (found["verdict"], found["reasons"]) == ("unstable", ["over-current oc3: 2 times"])


def test_a_soak_of_few_blocks_has_no_drift_and_is_not_called_stable() -> None:
    found = soaked([5.0] * 20)
    assert (found["drift"], found["verdict"], found["reasons"]) == (None, "not measured", [])
    assert "too few" in found["note"]


def test_the_drift_of_a_known_series_is_its_ratio() -> None:
    random = np.random.default_rng(1)
    series = np.concatenate([np.full(50, 2.0), np.full(400, 2.5), np.full(50, 3.0)]) * random.normal(1, 0.01, 500)
    ratio = drift(series, seed=0)
    assert ratio.lower < 1.5 < ratio.upper
    assert ratio.upper - ratio.lower < 0.05
    with pytest.raises(ValueError, match="10 positive"):
        drift(np.ones(9), seed=0)


def power(milliwatts: float, seconds: int) -> list[dict[str, Any]]:
    return [{"at_s": float(k), "power_mw": milliwatts, "power_of": "VDD_IN"} for k in range(seconds + 1)]


def test_energy_is_the_power_above_idle_times_the_latency() -> None:
    energy = soaked([10.0] * 100, samples=power(9000, 20), idle_samples=power(4000, 11))["energy"]
    assert (energy["of"], energy["reason"]) == ("VDD_IN", None)
    assert energy["millijoules_per_image"] == pytest.approx(5.0 * 10, rel=0.01)


@pytest.mark.parametrize(
    ("samples", "idle", "reason"),
    [
        ([], [], "shows no power"),
        (power(9000, 8), power(4000, 11), "10 s are needed"),
        (power(9000, 20), power(4000, 5), "idle: power was read for 5 s"),
        (power(4000, 20), power(4000, 20), "no more power than when it was idle"),
    ],
)
def test_energy_that_cannot_be_known_is_null_with_the_reason(samples: Any, idle: Any, reason: str) -> None:
    energy = soaked([10.0] * 100, samples=samples, idle_samples=idle)["energy"]
    assert energy["millijoules_per_image"] is None
    assert reason in energy["reason"]


def test_a_counter_of_energy_that_wraps_around_still_gives_the_power() -> None:
    counts = [(0.0, 900_000_000), (10.0, 950_000_000), (20.0, 10_000_000)]
    samples = [{"at_s": at, "energy_uj": value, "energy_range_uj": 1_000_000_000} for at, value in counts]
    assert mean_power_mw(samples) == (pytest.approx(110_000_000 / 20 / 1000), None)


def test_power_that_changes_is_averaged_over_time_and_not_over_readings() -> None:
    samples = [{"at_s": at, "power_mw": mw} for at, mw in [(0, 1000), (18, 1000), (18.5, 9000), (19, 9000), (20, 9000)]]
    assert mean_power_mw(samples)[0] == pytest.approx((18 * 1 + 0.5 * 5 + 1.5 * 9) * 1000 / 20)


def test_what_throttles_is_counted_from_the_first_to_the_last_reading() -> None:
    flags = [{"at_s": 0.0, "throttled": []}, {"at_s": 1.0, "throttled": ["under-voltage"]}]
    assert throttle_events(flags) == ["under-voltage: on in 1 readings"]
    assert throttle_events([{"at_s": 0.0, "throttle_counts": {"thermal, core": 5}}] * 2) == []
    assert throttle_events([]) == []


STABLE = {"verdict": "stable", "ratio": 1.0, "lower": 0.99, "upper": 1.01, "tolerance": 0.02}


@pytest.mark.parametrize(
    ("control", "scenarios_found", "samples", "verdict", "word"),
    [
        (STABLE, {}, [], "stable", None),
        ({**STABLE, "verdict": "unstable", "upper": 1.04}, {}, [], "unstable", "measured twice"),
        (
            STABLE,
            {"soak": {"engines": {"a": {"reasons": ["it drifted"]}}}},
            [],
            "unstable",
            "the soak of a: it drifted",
        ),
        (STABLE, {}, [{"throttled": ["hot"]}], "unstable", "throttled while it was measured"),
        ({"verdict": "not measured", "reason": "no float32"}, {}, [], "not measured", "no float32"),
    ],
)
def test_unstable_is_a_verdict_with_its_reason(
    control: Any, scenarios_found: Any, samples: Any, verdict: str, word: str | None
) -> None:
    found = scenario_results.stability(control, scenarios_found, samples, engines={})
    assert found["verdict"] == verdict
    assert (found["reasons"] == []) if word is None else (word in found["reasons"][0])


@pytest.mark.parametrize(("p90_ms", "verdict"), [(1.9, "stable"), (2.1, "unstable"), (None, "stable")])
def test_a_p90_of_more_than_twice_the_p50_is_unstable_however_well_the_control_agrees(
    p90_ms: float | None, verdict: str
) -> None:
    engines = {"a": {"p50_ms": 1.0, "p90_ms": 1.1}, "b": {"p50_ms": 1.0, "p90_ms": p90_ms}}
    found = scenario_results.stability(STABLE, {}, [], engines=engines)
    assert found["verdict"] == verdict
    assert verdict == "stable" or "2.1 times the median or longer (b; so 1 of 2 engines)" in found["reasons"][0]


def test_the_sampler_goes_on_when_a_reading_fails() -> None:
    from medge.errors import ToolError

    asked: list[int] = []

    def sample() -> dict[str, Any]:
        asked.append(1)
        if len(asked) == 2:
            raise ToolError("Connection reset by peer")
        return {"temperature_c": float(len(asked)), "secret": "not kept"}

    with Sampler(sample, seconds=0.01) as sampler:
        while len(asked) < 4:
            pass
    assert len(sampler.samples) == len(asked) - 1
    assert all(set(one) == {"at_s", "temperature_c"} for one in sampler.samples)
