"""Where an engine stands: the two comparisons that benchmarks/quantise_side_by_side.py ends with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[3] / "benchmarks" / "side_by_side_standing.py"


@pytest.fixture(scope="module")
def standing() -> Any:
    spec = importlib.util.spec_from_file_location("side_by_side_standing", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.standing


def row(flipped: str, ratio: float, *, own: bool = False, quantised: bool = True) -> dict[str, Any]:
    bounds = {"ratio": ratio, "lower": ratio - 0.01, "upper": ratio + 0.01}
    return {
        "own": own, "quantised": quantised, "flips": {"count": len(flipped)}, "flipped": list(flipped),
        "latency_ratio": bounds,
    }  # fmt: skip


def test_an_engine_with_fewer_flips_and_less_latency_is_ahead_on_both(standing: Any) -> None:
    found = standing({"a": row("x", 0.4, own=True), "b": row("pqrstuvwy", 0.4), "c": row("x", 0.5)})["a"]
    assert found["at_equal_latency"] == {"engine": "b", "ahead": "yes", "flips": 9, "p": pytest.approx(22 / 2**10)}
    assert found["at_equal_flips"]["engine"] == "c"
    assert found["at_equal_flips"]["ahead"] == "yes"


def test_an_engine_that_another_beats_on_both_is_ahead_on_neither(standing: Any) -> None:
    found = standing({"a": row("pqrstuvwx", 0.5, own=True), "b": row("x", 0.4)})["a"]
    assert found["at_equal_latency"]["ahead"] == "no"
    assert found["at_equal_flips"]["ahead"] == "no"


def test_a_few_flips_fewer_are_level(standing: Any) -> None:
    """Four against nine of other images: such luck has one pair of equal engines in four."""
    found = standing({"a": row("abcd", 0.4, own=True), "b": row("pqrstuvwx", 0.4)})["a"]["at_equal_latency"]
    assert (found["ahead"], round(found["p"], 2)) == ("level", 0.27)


def test_overlapping_intervals_of_latency_are_level(standing: Any) -> None:
    assert standing({"a": row("x", 0.41, own=True), "b": row("y", 0.4)})["a"]["at_equal_flips"]["ahead"] == "level"


def test_engines_alone_at_their_place_are_ahead_of_nobody_by_name(standing: Any) -> None:
    found = standing({"a": row("", 0.4, own=True), "b": row("xyz", 0.5)})["a"]
    assert found["at_equal_latency"] == {"engine": None, "ahead": "yes"}
    assert found["at_equal_flips"] == {"engine": None, "ahead": "yes"}


def test_float_engines_and_those_that_died_are_not_compared(standing: Any) -> None:
    dead = {**row("", 0.1), "latency_ratio": None}
    table = {"a": row("x", 0.4, own=True), "float": row("", 0.3, quantised=False), "dead": dead}
    assert standing(table)["a"]["at_equal_latency"]["engine"] is None


def test_p_counts_images_that_only_one_of_the_two_flips(standing: Any) -> None:
    found = standing({"a": row("xy", 0.4, own=True), "b": row("xyabcdefgh", 0.4)})["a"]
    assert found["at_equal_latency"]["p"] == pytest.approx(2 / 2**8)
