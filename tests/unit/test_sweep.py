"""Batch sizes and threads: a row for each, and a reason where there can be none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import profile_options, recipe, scenario_results, scenarios
from medge.errors import RecipeError
from medge.runtime import bench
from medge.stages import profile
from medge.sweep import sweep
from tests import remote_run
from tests.unit.test_scenarios import made, shared


@pytest.fixture(autouse=True)
def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    remote_run.use_sleeper(monkeypatch)


def swept(tmp_path: Path, engines: dict[str, dict[str, Any]], **settings: Any) -> list[dict[str, Any]]:
    keys = {**shared(tmp_path), "threads": [1], "batch_sizes": [1, 4], "blocks": 3, "cores": 2, **settings}
    raw = sweep(made(tmp_path, engines), seed=0, **keys)
    assert json.loads(json.dumps(raw)) == raw
    rows: list[dict[str, Any]] = scenario_results.summarise({"sweep": {"settings": {}, **raw}}, {}, seed=0)["sweep"][
        "rows"
    ]
    return rows


def test_every_engine_has_a_row_for_each_batch_size_and_threads(tmp_path: Path) -> None:
    engines = {name: {"milliseconds": 2, "largest_batch": 8} for name in ("float/sleeper-float32", "int8/sleeper-int8")}
    rows = swept(tmp_path, engines, threads=[1, 2])
    assert [(row["engine"], row["batch_size"], row["threads"]) for row in rows] == [
        (name, size, threads) for name in engines for threads in (1, 2) for size in (1, 4)
    ]
    assert all((row["calls"], row["refused"]) == (15, None) for row in rows)


def test_the_latency_is_of_a_batch_and_the_rate_of_images(tmp_path: Path) -> None:
    raw = {"rows": [{"engine": "a", "batch_size": 4, "threads": 1, "wall_ns": [10_000_000] * 70, "refused": None}]}
    row = scenario_results.summarise({"sweep": {"settings": {}, **raw, "failures": {}}}, {}, seed=0)["sweep"]["rows"][0]
    assert (row["p50_ms"], row["p90_ms"], row["images_per_second"]) == (10.0, 10.0, 400.0)


def test_an_engine_of_fixed_batch_1_says_so_in_its_row_and_the_others_go_on(tmp_path: Path) -> None:
    engines = {"float/sleeper-float32": {}, "int8/sleeper-int8": {"largest_batch": 4}}
    rows = {(row["engine"], row["batch_size"]): row for row in swept(tmp_path, engines)}
    refused = rows["float/sleeper-float32", 4]
    assert refused["refused"].startswith("it cannot take 4 images at once")
    assert (refused["p50_ms"], refused["images_per_second"], refused["calls"]) == (None, None, 0)
    assert [row["refused"] for key, row in rows.items() if row is not refused] == [None] * 3


def test_a_backend_that_takes_no_batches_has_a_reason_too(tmp_path: Path) -> None:
    class OneAtATime:
        @staticmethod
        def start(*_: Any, **__: Any) -> Any:
            raise AssertionError("it was started as if for one image")

    worker = bench._Worker()
    np.save(tmp_path / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    request = {"command": "load", "backend": "x", "folder": ".", "files": [], "precision": "int8", "threads": 1,
               "batch_size": 2, "images": str(tmp_path / "images.npy")}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench.plugins, "load", lambda *_: OneAtATime)
        with pytest.raises(bench.ToolError, match="fixed batch of 1"):
            worker.answer(request)


def test_more_threads_than_the_machine_gives_are_a_row_with_the_reason(tmp_path: Path) -> None:
    rows = swept(tmp_path, {"float/sleeper-float32": {}}, batch_sizes=[1], threads=[2, 3])
    assert [row["refused"] for row in rows] == [None, "this machine gives 2 cores"]


def test_an_engine_that_dies_in_a_batch_loses_that_row_only(tmp_path: Path) -> None:
    rows = swept(
        tmp_path, {"float/sleeper-float32": {"dies_after": 300, "milliseconds": 1}}, batch_sizes=[1], blocks=80
    )
    assert "signal 9" in rows[0]["refused"]
    assert rows[0]["p50_ms"] is None


def test_a_batch_holds_images_in_turn_from_the_first_again() -> None:
    images = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 2, 2, 3), np.uint8)
    batches = bench._batches(images, 2)
    assert [batch[:, 0, 0, 0].tolist() for batch in batches] == [[0, 1], [2, 0]]
    assert [len(batch) for batch in bench._batches(images, 7)] == [7]


def test_a_sweep_stands_in_the_record_of_this_machine(tmp_path: Path) -> None:
    inputs = remote_run.write_inputs(tmp_path / "run", {"float/sleeper-float32": {"largest_batch": 2}})
    section = remote_run.SECTION.model_copy(update={"device": "local", "scenarios": ("steady", "sweep"), "threads": 1})
    section = section.model_copy(
        update={"sweep": section.sweep.model_copy(update={"batch_sizes": (1, 2, 4), "blocks": 3})}
    )
    (tmp_path / "work").mkdir()
    profile.run(section, inputs, tmp_path / "work", 0)
    report = json.loads((tmp_path / "work/latency.json").read_text())
    assert [row["batch_size"] for row in report["scenarios"]["sweep"]["rows"]] == [1, 2, 4]
    assert {row["threads"] for row in report["scenarios"]["sweep"]["rows"]} == {1}
    assert set(report["engines"]) == {"float/sleeper-float32"}  # what select chooses by is steady, batch 1, as ever
    assert (tmp_path / "work/raw/sweep.json").is_file()
    assert os.listdir(tmp_path / "work/receipts") == ["float__sleeper-float32.json"]


def test_the_options_name_a_sweep() -> None:
    options: dict[str, Any] = {"power_mode": None, "lock_clocks": False, "estimate": None}
    changes = profile_options.settings_of(**options, scenarios=None, batch_sizes=["1,8"], threads=["2"])
    section = recipe.parse(recipe.with_settings({}, changes), origin="test").profile
    assert section.scenarios == ("steady", "sweep")
    assert (section.sweep.batch_sizes, section.sweep.threads) == ((1, 8), (2,))
    assert section.threads is None  # steady keeps its own
    both = profile_options.settings_of(**options, scenarios=["cold", "sweep"], batch_sizes=["2"], threads=None)
    assert recipe.parse(recipe.with_settings({}, both), origin="test").profile.scenarios == ("steady", "cold", "sweep")


@pytest.mark.parametrize(
    ("sizes", "words"),
    [([], "one batch size at least"), ([2, 2], "each number once"), ([0], "greater than or equal to 1"),
     ([65], "less than or equal to 64"), (list(range(1, 18)), "16 pairs")],
)  # fmt: skip
def test_batch_sizes_that_cannot_be_are_refused(sizes: list[int], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe.parse({"profile": {"sweep": {"batch_sizes": sizes}}}, origin="x")


def test_every_scenario_has_its_section() -> None:
    assert set(profile.conditions_of(remote_run.SECTION).settings) == set(scenarios.SCENARIOS)


def test_more_threads_than_the_machine_has_are_refused_before_anything_is_measured() -> None:
    sweep_of = remote_run.SECTION.sweep.model_copy(update={"threads": (1, 99)})
    section = remote_run.SECTION.model_copy(update={"scenarios": ("steady", "sweep"), "sweep": sweep_of})
    with pytest.raises(RecipeError, match=r"--threads 99 .*cart7 has 6 cores") as caught:
        profile.refuse_threads(section, 6, "cart7")
    assert caught.value.fix == "At most 6: --threads 6"
    profile.refuse_threads(section, None, "cart7")  # nobody knows: the device says so in the sweep's rows


def test_numbers_may_be_given_one_by_one_or_with_commas() -> None:
    options: dict[str, Any] = {"power_mode": None, "lock_clocks": False, "estimate": None}
    both = profile_options.settings_of(**options, scenarios=None, batch_sizes=["1, 4", "8"])
    assert "profile.sweep.batch_sizes=[1, 4, 8]" in both
    with pytest.raises(RecipeError, match="--batch-size '1x' is not a whole number") as caught:
        profile_options.settings_of(**options, scenarios=None, batch_sizes=["1x"])
    assert "--batch-size 1 --batch-size 4" in caught.value.fix
