"""Choosing an engine: limits, the Pareto front, preference within noise, and the sentence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medge.errors import RecipeError
from medge.selection import Candidate, Limits, choose, scaled_threshold
from medge.statistics.latency import Ratio

FLOAT = Candidate("float/ov-float32", "pass", 0.99, 0.98, 0.96, 8.0, 9.0, 14_000_000, 200.0, compressed=False)
BF16 = replace(FLOAT, name="float/ov-bfloat16", p50_ms=4.0, p90_ms=4.5, auc_lower=0.979, compressed=True)
INT8 = replace(
    FLOAT,
    name="int8/ov-int8",
    p50_ms=3.8,
    p90_ms=4.2,
    auc_lower=0.975,
    bytes=4_000_000,
    memory_mb=120.0,
    compressed=True,
)
ALL = [FLOAT, BF16, INT8]


def ratios(**others: Ratio) -> dict[tuple[str, str], Ratio]:
    known = {
        (BF16.name, INT8.name): Ratio(1.05, 1.03, 1.07),
        (FLOAT.name, INT8.name): Ratio(2.1, 2.0, 2.2),
        (FLOAT.name, BF16.name): Ratio(2.0, 1.9, 2.1),
    }
    known |= {(b, a): ratio.inverse() for (a, b), ratio in known.items()}
    return known


def test_the_fastest_is_chosen_where_the_difference_is_beyond_noise() -> None:
    choice = choose(ALL, ratios(), prefer="latency", limits=Limits())
    assert choice.chosen is not None
    assert choice.next_best is not None
    assert (choice.chosen.name, choice.next_best.name) == (INT8.name, BF16.name)
    assert "the fastest of 3 candidates" in choice.sentence
    assert "float/ov-bfloat16, would take 1.05 [1.03, 1.07] times as long, add 10 MB" in choice.sentence


def test_within_noise_of_the_fastest_the_higher_auc_bound_wins() -> None:
    noisy = {**ratios(), (BF16.name, INT8.name): Ratio(1.01, 0.98, 1.04)}
    choice = choose(ALL, noisy, prefer="latency", limits=Limits())
    assert choice.chosen is not None
    assert choice.chosen.name == BF16.name
    assert (
        f"is as fast as {INT8.name}, the fastest, within noise, and the better one otherwise, of 3" in choice.sentence
    )


def test_within_noise_and_with_equal_auc_the_less_compressed_wins() -> None:
    twin = replace(FLOAT, name="float/ort-float32", p50_ms=3.8, auc_lower=INT8.auc_lower)
    noisy = {(twin.name, INT8.name): Ratio(1.0, 0.99, 1.01), (INT8.name, twin.name): Ratio(1.0, 0.99, 1.01)}
    choice = choose([INT8, twin], noisy, prefer="latency", limits=Limits())
    assert choice.chosen is not None
    assert choice.chosen.name == twin.name


@pytest.mark.parametrize(("prefer", "expected"), [("size", INT8.name), ("auc", FLOAT.name)])
def test_other_preferences(prefer: str, expected: str) -> None:
    choice = choose(ALL, ratios(), prefer=prefer, limits=Limits())  # type: ignore[arg-type]
    assert choice.chosen is not None
    assert choice.chosen.name == expected


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        (Limits(p90_ms=4.3), {INT8.name}),
        (Limits(size_mb=5), {INT8.name}),
        (Limits(memory_mb=150), {INT8.name}),
        (Limits(sensitivity=0.97), set()),
    ],
)
def test_a_candidate_over_a_limit_is_dropped(limits: Limits, kept: set[str]) -> None:
    choice = choose(ALL, ratios(), prefer="latency", limits=limits)
    assert {c.name for c in choice.candidates if c.kept} == kept
    assert all(c.problems for c in choice.candidates if not c.kept)


def test_a_limit_on_what_was_not_measured_drops_the_candidate() -> None:
    choice = choose([replace(INT8, p90_ms=None)], {}, prefer="latency", limits=Limits(p90_ms=100))
    assert choice.chosen is None
    assert "p90 was not measured" in choice.sentence


def test_a_failed_verdict_is_dropped_and_never_on_the_front() -> None:
    choice = choose([FLOAT, replace(INT8, verdict="fail")], ratios(), prefer="latency", limits=Limits())
    dropped = next(c for c in choice.candidates if c.name == INT8.name)
    assert (dropped.kept, dropped.pareto) == (False, False)
    assert "the only candidate that fails neither" in choice.sentence


def test_the_front_holds_what_nothing_dominates() -> None:
    slow = replace(FLOAT, name="float/ort-float32", p50_ms=20.0)
    choice = choose([*ALL, slow], ratios(), prefer="latency", limits=Limits())
    assert {c.name for c in choice.candidates if c.pareto} == {FLOAT.name, BF16.name, INT8.name}


def test_where_none_is_left_the_nearest_miss_is_named() -> None:
    choice = choose([FLOAT, replace(INT8, verdict="fail")], ratios(), prefer="latency", limits=Limits(p90_ms=8.0))
    assert choice.chosen is None
    assert "nearest miss is float/ov-float32" in choice.sentence
    assert "p90 9 ms is over the limit of 8 ms" in choice.sentence


def test_an_engine_chosen_by_hand_keeps_its_faults_in_the_sentence() -> None:
    choice = choose(
        [FLOAT, replace(INT8, verdict="fail")], ratios(), prefer="latency", limits=Limits(), engine=INT8.name
    )
    assert choice.chosen is not None
    assert choice.chosen.name == INT8.name
    assert not choice.chosen.kept
    assert "chosen by hand, although it fails the gate on validation" in choice.sentence


def test_an_unknown_engine_by_hand_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'int8/ov-int8'\?"):
        choose(ALL, ratios(), prefer="latency", limits=Limits(), engine="int8/ov-int4")


@given(
    threshold=st.floats(0.001, 0.999),
    temperature=st.floats(0.05, 20),
    difference=st.floats(-30, 30, allow_subnormal=False),
)
def test_a_scaled_threshold_makes_the_same_decision(threshold: float, temperature: float, difference: float) -> None:
    cut = math.log(threshold / (1 - threshold))
    if abs(difference - cut) < 1e-6 or abs(difference / temperature) > 30:
        return
    after = 1 / (1 + math.exp(-difference / temperature))
    assert (after >= scaled_threshold(threshold, temperature)) == (difference >= cut)


def test_thresholds_that_take_all_or_nothing_are_kept() -> None:
    assert [scaled_threshold(t, 2.0) for t in (0.0, 1.0, math.inf)] == [0.0, 1.0, math.inf]
