"""When a rollback is needed, when it is done, and which of its states is the best: by the gate and by the flips."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medge import quantised, rollback
from medge.data import dataset
from medge.rollback_trials import Asked
from medge.sections import Rollback
from tests.rollbacks import asked_of, net_of, quantised_of, widen
from tests.tiny_data import data_of

INCONCLUSIVE = "the gate would be inconclusive, as for the float model itself"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    return data_of(tmp_path_factory, size=16)


@pytest.fixture(scope="module")
def two_spoilt(data: dataset.DataSet) -> Asked:
    """Two layers of too wide a range, `first` the wider, and a gate that only exact logits pass."""
    net = net_of(data)
    model = quantised_of(net, data, bias_correction=False)
    for name, times in (("first", 24), ("third", 16)):
        widen(model, name, times)
    return asked_of(net, model, data, near=0.0)


def _scripted(asked: Asked, script: Sequence[tuple[str, float, float]], best_verdict: str) -> Asked:
    """The same with a gate that says one after the other, the last for ever: verdict, flips and what the AUC gained.

    To be searched with fewer images than there are: else the gate is asked of every part that is tried by itself.
    """
    said = [
        {"verdict": verdict, "flips": {"rate": flips, "limit": 0.1}, "auc": {"engine": gained, "difference": gained}}
        for verdict, flips, gained in script
    ]
    later = iter(said[1:])
    return replace(asked, gate=lambda logits: next(later, said[-1]), figures=said[0], best_verdict=best_verdict)


@pytest.mark.parametrize(
    ("best", "script", "kept"),
    [
        # What the gate says of no layer in float, of one, of two, of more; how many are kept.
        ("pass", [("fail", 0.5, -0.1), ("fail", 0.3, -0.1), ("fail", 0.2, -0.1), ("fail", 0.3, 0.0)], 2),
        ("pass", [("fail", 0.5, -0.1), ("fail", 0.3, -0.1), ("fail", 0.4, 0.0)], 1),
        ("pass", [("fail", 0.5, -0.1), ("fail", 0.5, -0.2), ("fail", 0.5, -0.05), ("fail", 0.5, -0.07)], 2),
        ("pass", [("fail", 0.5, -0.1), ("fail", 0.5, -0.1)], 0),
        ("pass", [("fail", 0.5, -0.1), ("pass", 0.3, -0.1), ("fail", 0.2, 0.0)], 1),
        ("inconclusive", [("fail", 0.5, -0.1), ("inconclusive", 0.3, -0.1), ("fail", 0.2, 0.0)], 1),
        ("inconclusive", [("fail", 0.5, -0.1), ("inconclusive", 0.3, -0.1), ("pass", 0.2, -0.1), ("fail", 0.1, 0)], 2),
    ],
)
def test_layers_after_the_best_state_are_dropped(
    best: str, script: list[tuple[str, float, float]], kept: int, two_spoilt: Asked, tmp_path: Path
) -> None:
    found = rollback.search(_scripted(two_spoilt, script, best), Rollback(images=12), tmp_path)
    order = ("backbone.first", "backbone.third")
    assert (found.layers, found.stopped) == (order[:kept], "no other layer helps")
    assert [line.split()[0] for line in found.log] == [*order[:kept], "rollback:"]
    assert f"{kept} of 5 layers in float" in found.log[-1]
    layers, served = quantised.layers(two_spoilt.model, torch.from_numpy(two_spoilt.data.read([0])))
    assert found.quantisers == quantised.serving(served, [layer for layer in layers if layer.name in order[:kept]])
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len([line for line in lines if line["figures"]]) > kept


@pytest.mark.parametrize(
    ("script", "reached", "stopped"),
    [
        ([("fail", 0.5, 0), ("inconclusive", 0.05, 0)], True, INCONCLUSIVE),
        ([("fail", 0.5, 0), ("pass", 0.05, 0)], True, "the gate would pass"),
        ([("fail", 0.5, 0), ("inconclusive", 0.09, 0)], True, "no other layer helps"),  # above half of the limit
        ([("fail", 0.5, 0), ("inconclusive", 0.2, 0)], False, "no other layer helps"),
    ],
)
def test_where_no_verdict_is_better_than_inconclusive_it_ends_the_search_and_is_named(
    script: list[tuple[str, float, float]], reached: bool, stopped: str, two_spoilt: Asked, tmp_path: Path
) -> None:
    found = rollback.search(_scripted(two_spoilt, script, "inconclusive"), Rollback(images=12), tmp_path)
    assert (found.layers, found.reached, found.stopped) == (("backbone.first",), reached, stopped)
    assert f"; {stopped}; 1 of 5 layers in float." in found.log[-1]
    assert ("would pass" in found.log[-1]) == (script[-1][0] == "pass")


def test_the_verdict_ranks_before_flips_and_flips_before_the_auc() -> None:
    def figures(verdict: str, flips: float, gained: float) -> dict[str, Any]:
        return {"verdict": verdict, "flips": {"rate": flips}, "auc": {"difference": gained}}

    order = [
        figures("inconclusive", 0.02, 0.01), figures("inconclusive", 0.02, -0.01), figures("inconclusive", 0.03, 0.02),
        figures("fail", 0.01, 0.03), figures("fail", 0.01, 0.02), figures("fail", 0.02, 0.04),
    ]  # fmt: skip
    assert sorted(reversed(order), key=lambda one: rollback.rank(one, "inconclusive", Rollback())) == order
    without = {"verdict": "inconclusive", "flips": {"rate": 0.02}}
    passing = figures("pass", 0.02, 0.0)
    assert rollback.rank(without, "inconclusive", Rollback()) == rollback.rank(passing, "inconclusive", Rollback())


def test_a_model_that_is_good_enough_is_not_searched() -> None:
    figures = {"verdict": "inconclusive", "flips": {"rate": 0.004, "limit": 0.01}}
    assert rollback.is_reached(figures, Rollback(), "inconclusive")
    assert not rollback.is_reached(figures, Rollback(), "pass")
    assert not rollback.is_reached(figures, Rollback(flips=0.001), "inconclusive")


def test_where_the_recipe_names_a_share_of_flips_what_is_expected_counts_too() -> None:
    figures = {"verdict": "pass", "flips": {"rate": 0.0, "expected": 0.006, "limit": 0.02}}
    assert rollback.is_reached(figures, Rollback(flips=0.006), "pass")
    assert not rollback.is_reached(figures, Rollback(flips=0.005), "pass")
    assert rollback.is_reached({**figures, "flips": {"rate": 0.0, "expected": 0.03, "limit": 0.02}}, Rollback(), "pass")
    fewer = {**figures, "flips": {**figures["flips"], "expected": 0.005}}
    assert rollback.rank(fewer, "pass", Rollback(flips=0.004)) < rollback.rank(figures, "pass", Rollback(flips=0.004))
    assert rollback.rank(fewer, "pass", Rollback()) == rollback.rank(figures, "pass", Rollback())
    assert rollback.is_reached(figures, Rollback(flips=0), "pass"), "an expectation is never 0"
    of_classes = {**figures, "flips": {"rate": 0.0, "expected": None, "limit": 0.02}}
    assert rollback.is_reached(of_classes, Rollback(flips=0.005), "pass")
