"""Rollback finds the layer that was spoilt, says why, keeps to its budget and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medge import quantised, rollback
from medge.compressors import ptq
from medge.data import dataset
from medge.model import predict
from medge.rollback_trials import Asked
from medge.sections import Rollback
from tests.tiny_data import data_stage

INCONCLUSIVE = "the gate would be inconclusive, as for the float model itself"


class Net(nn.Module):
    """Three convolutions, the third added to what it reads; a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone((images.permute(0, 3, 1, 2).float() - 100.0) * 0.02)
        return self.head(features), features


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return (x + self.third(x)).relu().mean((2, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    folder = tmp_path_factory.mktemp("data") / "1-data"
    data_stage(folder, size=16)
    return dataset.load(folder)


def _net(data: dataset.DataSet) -> Net:
    """Its log odds on the images have mean 0 and deviation 2."""
    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)
    net.backbone.third.weight[:4].abs_()  # else what it adds hardly counts
    images = torch.from_numpy(data.read(data.indices("train")))
    odds = net(images)[0].diff(dim=1)
    net.head.weight *= 2 / odds.std()
    net.head.bias[1] -= net(images)[0].diff(dim=1).mean()
    return net


def _quantised(net: nn.Module, data: dataset.DataSet, **options: Any) -> nn.Module:
    images = (torch.from_numpy(data.read([row])) for row in data.indices("train")[:8])
    return ptq.quantise(net, images, ptq.Options(**options))


def _error(net: nn.Module, model: nn.Module, data: dataset.DataSet) -> float:
    rows = data.indices("validation")
    return float(np.abs(predict(model, data, rows, description="") - predict(net, data, rows, description="")).mean())


@pytest.fixture(scope="module")
def two_spoilt(data: dataset.DataSet) -> Asked:
    """Two layers of too wide a range, `first` the wider, and a gate that only exact logits pass."""
    net = _net(data)
    model = _quantised(net, data, bias_correction=False)
    for name, times in (("first", 24), ("third", 16)):
        _widen(model, name, times)
    return _asked(net, model, data, near=0.0)


def _widen(model: nn.Module, name: str, times: float) -> None:
    quantiser: Any = model.get_submodule(f"__nncf_hooks.pre_hooks.backbone/{name}/conv2d/0__1.0")
    quantiser.scale.data.mul_(times)


def _asked(net: nn.Module, model: nn.Module, data: dataset.DataSet, *, near: float = 0.05) -> Asked:
    """The gate here is passed where the logits' mean error is below `near`."""
    rows = data.indices("validation")
    aim = predict(net, data, rows, description="").astype(np.float64)
    cut = float(np.median(aim[:, 1] - aim[:, 0]))

    def gate(logits: Any) -> dict[str, Any]:
        flips = float(((logits[:, 1] - logits[:, 0] > cut) != (aim[:, 1] - aim[:, 0] > cut)).mean())
        passes = np.abs(logits - aim).mean() < near
        return {"verdict": "pass" if passes else "fail", "flips": {"rate": flips, "limit": 1.0}}

    logits = predict(model, data, rows, description="").astype(np.float64)
    return Asked(model, data, rows, aim, gate, logits, gate(logits), "pass", 0, "key")


def test_the_layers_are_found_with_the_quantisers_that_serve_them(data: dataset.DataSet) -> None:
    layers, served = quantised.layers(_quantised(_net(data), data), torch.from_numpy(data.read([0])))
    names = [layer.name for layer in layers]
    assert names[:3] == ["backbone.first", "backbone.second", "backbone.third"]
    assert "backbone:add" in names
    by_name = dict(zip(names, layers, strict=True))
    # What `third` reads is also added, so that it stays quantised where only `third` is in float.
    assert len(quantised.serving(served, [by_name["backbone.third"]])) == 1
    assert len(quantised.serving(served, [by_name["backbone.first"]])) == 2
    assert quantised.serving(served, layers) == tuple(sorted(one.name for one in served))


def test_without_any_quantiser_the_model_is_the_float_one_and_switching_off_is_undone(data: dataset.DataSet) -> None:
    net = _net(data)
    model = _quantised(net, data, bias_correction=False)
    rows = data.indices("validation")
    before = predict(model, data, rows, description="")
    layers, served = quantised.layers(model, torch.from_numpy(data.read([0])))
    with quantised.switched_off(model, quantised.serving(served, layers)):
        np.testing.assert_allclose(
            predict(model, data, rows, description=""), predict(net, data, rows, description=""), atol=1e-5
        )
    assert np.array_equal(before, predict(model, data, rows, description=""))
    assert not np.array_equal(before, predict(net, data, rows, description=""))


def test_taking_quantisers_out_gives_what_switching_them_off_gives(data: dataset.DataSet) -> None:
    model = _quantised(_net(data), data)
    rows = data.indices("validation")
    layers, served = quantised.layers(model, torch.from_numpy(data.read([0])))
    names = quantised.serving(served, layers[:1])
    with quantised.switched_off(model, names):
        expected = predict(model, data, rows, description="")
    quantised.remove(model, names)
    assert np.array_equal(expected, predict(model, data, rows, description=""))


@pytest.mark.parametrize("spoilt", ["first", "second", "third"])
def test_a_layer_of_too_wide_a_range_is_found_alone_and_said_to_be_so(
    spoilt: str, data: dataset.DataSet, tmp_path: Path
) -> None:
    net = _net(data)
    model = _quantised(net, data, bias_correction=False)
    near = 1.1 * _error(net, model, data)
    _widen(model, spoilt, 16)
    found = rollback.search(_asked(net, model, data, near=near), Rollback(trials=30), tmp_path)
    assert (found.layers, found.reached, found.stopped) == ((f"backbone.{spoilt}",), True, "the gate would pass")
    assert f"backbone.{spoilt} in float: flips" in found.log[0]
    assert "8 of 127 steps: their range is 16.0 times what they need" in found.log[0]
    assert "overflow_fix" not in found.log[0]


def test_with_the_worst_layer_in_float_the_others_are_ranked_anew(data: dataset.DataSet, tmp_path: Path) -> None:
    net = _net(data)
    model = _quantised(net, data, bias_correction=False)
    near = 1.1 * _error(net, model, data)
    for name, times in (("first", 24), ("third", 16)):
        _widen(model, name, times)
    found = rollback.search(_asked(net, model, data, near=near), Rollback(), tmp_path)
    assert (found.layers, found.reached) == (("backbone.first", "backbone.third"), True)
    layers, served = quantised.layers(model, torch.from_numpy(data.read([0])))
    by_name = {layer.name: layer for layer in layers}
    tried = [json.loads(line)["off"] for line in (tmp_path / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    for other in ("backbone.second", "backbone.third"):
        assert list(quantised.serving(served, [by_name["backbone.first"], by_name[other]])) in tried


def test_a_weight_that_leaves_the_others_few_steps_is_named(data: dataset.DataSet) -> None:
    net = _net(data)
    net.backbone.second.weight[5, 0, 0, 0] = 60 * net.backbone.second.weight.abs().mean()
    model = _quantised(net, data)
    images = torch.from_numpy(data.read([0]))
    layers, served = quantised.layers(model, images)
    found = {layer.name: quantised.cause(model, layer, served, images) for layer in layers}
    assert "one weight of channel 5 is" in found["backbone.second"]
    assert "times the root mean square of its channel" in found["backbone.second"]
    assert found["backbone.third"] == ""


def test_a_first_convolution_of_halved_range_is_found_and_said_to_be_so(data: dataset.DataSet, tmp_path: Path) -> None:
    net = _net(data)
    model = _quantised(net, data, overflow_fix="first_layer")
    found = rollback.search(_asked(net, model, data), Rollback(trials=30), tmp_path)
    assert found.layers[0] == "backbone.first"
    assert "64 of 127 steps: their range is 2.0 times what they need (overflow_fix halves it" in found.log[0]
    full = _quantised(net, data, overflow_fix="disable")
    layers, served = quantised.layers(full, torch.from_numpy(data.read([0])))
    assert "overflow_fix" not in quantised.cause(full, layers[0], served, torch.from_numpy(data.read([0])))


def test_a_budget_of_trials_stops_it_and_it_says_so(data: dataset.DataSet, tmp_path: Path) -> None:
    net = _net(data)
    found = rollback.search(_asked(net, _quantised(net, data), data), Rollback(trials=2), tmp_path)
    assert (found.trials, found.stopped, found.layers) == (2, "the budget of 2 trials is spent", ())
    assert "2 trials" in found.log[-1]
    assert "the budget of 2 trials is spent; 0 of" in found.log[-1]


def test_a_budget_of_minutes_stops_it_and_it_says_so(data: dataset.DataSet, tmp_path: Path) -> None:
    net = _net(data)
    found = rollback.search(_asked(net, _quantised(net, data), data), Rollback(minutes=1e-9), tmp_path)
    assert (found.trials, found.stopped) == (1, "the budget of 1e-09 minutes is spent")


def test_a_resumed_search_measures_no_trial_twice_and_finds_the_same(
    data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = _net(data)
    asked = _asked(net, _quantised(net, data, overflow_fix="first_layer"), data)
    whole = rollback.search(asked, Rollback(), tmp_path / "whole")
    rollback.search(asked, Rollback(trials=3), tmp_path / "cut")
    path = tmp_path / "cut" / "trials.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"key": "half a li', encoding="utf-8")
    measured = _counted(monkeypatch)
    again = rollback.search(asked, Rollback(), tmp_path / "cut")
    assert (again.layers, again.trials) == (whole.layers, whole.trials)
    assert len(measured) == whole.trials - 3
    rollback.search(asked, Rollback(), tmp_path / "cut")
    assert len(measured) == whole.trials - 3
    rollback.search(replace(asked, key="another"), Rollback(), tmp_path / "cut")
    assert len(measured) == 2 * whole.trials - 3


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    from medge import model

    calls: list[Any] = []
    real: Callable[..., Any] = model.predict

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(named)
        return real(*arguments, **named)

    monkeypatch.setattr(model, "predict", counted)
    return calls


def test_every_trial_is_a_line_of_the_work_folder(data: dataset.DataSet, tmp_path: Path) -> None:
    net = _net(data)
    found = rollback.search(_asked(net, _quantised(net, data), data), Rollback(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == found.trials
    assert all(line["loss"] >= 0 and line["off"] for line in lines)


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


def test_parts_are_split_down_to_single_layers_by_their_modules() -> None:
    names = ["b.stem", "b.blocks.0.a", "b.blocks.0.b", "b.blocks.1.a", "b.blocks.1:add"]
    layers = [quantised.Layer(name, frozenset({name})) for name in names]
    parts = rollback._split(layers)
    assert [[layer.name for layer in part] for part in parts] == [names[:1], names[1:]]
    assert [len(part) for part in rollback._split(parts[1])] == [2, 2]
    many = [quantised.Layer(f"b.{k}", frozenset()) for k in range(30)]
    assert [len(part) for part in rollback._split(many)] == [15, 15]


def test_squeezes_are_whole_layers_and_a_sequence_of_layers_is_none() -> None:
    from medge.model import create, specify

    model = create(specify("mobilenetv3_small_100", classes=2, head="plain", dropout=0.0, size=32))
    names = quantised.squeezes(model)
    assert len(names) == 9
    assert all(name.endswith(".se") for name in names)
