"""Rollback finds the layer that was spoilt, says why, keeps to its budget and goes on where it was interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medge import quantised, rollback
from medge.data import dataset
from medge.model import predict
from medge.sections import Rollback
from tests.rollbacks import asked_of, net_of, quantised_of, widen
from tests.tiny_data import data_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    return data_of(tmp_path_factory, size=16)


def _error(net: nn.Module, model: nn.Module, data: dataset.DataSet) -> float:
    rows = data.indices("validation")
    return float(np.abs(predict(model, data, rows, description="") - predict(net, data, rows, description="")).mean())


def test_the_layers_are_found_with_the_quantisers_that_serve_them(data: dataset.DataSet) -> None:
    layers, served = quantised.layers(quantised_of(net_of(data), data), torch.from_numpy(data.read([0])))
    names = [layer.name for layer in layers]
    assert names[:3] == ["backbone.first", "backbone.second", "backbone.third"]
    assert "backbone:add" in names
    by_name = dict(zip(names, layers, strict=True))
    # What `third` reads is also added, so that it stays quantised where only `third` is in float.
    assert len(quantised.serving(served, [by_name["backbone.third"]])) == 1
    assert len(quantised.serving(served, [by_name["backbone.first"]])) == 2
    assert quantised.serving(served, layers) == tuple(sorted(one.name for one in served))


def test_without_any_quantiser_the_model_is_the_float_one_and_switching_off_is_undone(data: dataset.DataSet) -> None:
    net = net_of(data)
    model = quantised_of(net, data, bias_correction=False)
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
    model = quantised_of(net_of(data), data)
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
    net = net_of(data)
    model = quantised_of(net, data, bias_correction=False)
    near = 1.1 * _error(net, model, data)
    widen(model, spoilt, 16)
    found = rollback.search(asked_of(net, model, data, near=near), Rollback(trials=30), tmp_path)
    assert (found.layers, found.reached, found.stopped) == ((f"backbone.{spoilt}",), True, "the gate would pass")
    assert f"backbone.{spoilt} in float: flips" in found.log[0]
    assert "8 of 127 steps: their range is 16.0 times what they need" in found.log[0]
    assert "overflow_fix" not in found.log[0]


def test_with_the_worst_layer_in_float_the_others_are_ranked_anew(data: dataset.DataSet, tmp_path: Path) -> None:
    net = net_of(data)
    model = quantised_of(net, data, bias_correction=False)
    near = 1.1 * _error(net, model, data)
    for name, times in (("first", 24), ("third", 16)):
        widen(model, name, times)
    found = rollback.search(asked_of(net, model, data, near=near), Rollback(), tmp_path)
    assert (found.layers, found.reached) == (("backbone.first", "backbone.third"), True)
    layers, served = quantised.layers(model, torch.from_numpy(data.read([0])))
    by_name = {layer.name: layer for layer in layers}
    tried = [json.loads(line)["off"] for line in (tmp_path / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    for other in ("backbone.second", "backbone.third"):
        assert list(quantised.serving(served, [by_name["backbone.first"], by_name[other]])) in tried


def test_a_weight_that_leaves_the_others_few_steps_is_named(data: dataset.DataSet) -> None:
    net = net_of(data)
    net.backbone.second.weight[5, 0, 0, 0] = 60 * net.backbone.second.weight.abs().mean()
    model = quantised_of(net, data)
    images = torch.from_numpy(data.read([0]))
    layers, served = quantised.layers(model, images)
    found = {layer.name: quantised.cause(model, layer, served, images) for layer in layers}
    assert "one weight of channel 5 is" in found["backbone.second"]
    assert "times the root mean square of its channel" in found["backbone.second"]
    assert found["backbone.third"] == ""


def test_a_first_convolution_of_halved_range_is_found_and_said_to_be_so(data: dataset.DataSet, tmp_path: Path) -> None:
    net = net_of(data)
    model = quantised_of(net, data, overflow_fix="first_layer")
    found = rollback.search(asked_of(net, model, data), Rollback(trials=30), tmp_path)
    assert found.layers[0] == "backbone.first"
    assert "64 of 127 steps: their range is 2.0 times what they need (overflow_fix halves it" in found.log[0]
    full = quantised_of(net, data, overflow_fix="disable")
    layers, served = quantised.layers(full, torch.from_numpy(data.read([0])))
    assert "overflow_fix" not in quantised.cause(full, layers[0], served, torch.from_numpy(data.read([0])))


def test_a_budget_of_trials_stops_it_and_it_says_so(data: dataset.DataSet, tmp_path: Path) -> None:
    net = net_of(data)
    found = rollback.search(asked_of(net, quantised_of(net, data), data), Rollback(trials=2), tmp_path)
    assert (found.trials, found.stopped, found.layers) == (2, "the budget of 2 trials is spent", ())
    assert "2 trials" in found.log[-1]
    assert "the budget of 2 trials is spent; 0 of" in found.log[-1]


def test_a_budget_of_minutes_stops_it_and_it_says_so(data: dataset.DataSet, tmp_path: Path) -> None:
    net = net_of(data)
    found = rollback.search(asked_of(net, quantised_of(net, data), data), Rollback(minutes=1e-9), tmp_path)
    assert (found.trials, found.stopped) == (1, "the budget of 1e-09 minutes is spent")


def test_a_resumed_search_measures_no_trial_twice_and_finds_the_same(
    data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = net_of(data)
    asked = asked_of(net, quantised_of(net, data, overflow_fix="first_layer"), data)
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
    net = net_of(data)
    found = rollback.search(asked_of(net, quantised_of(net, data), data), Rollback(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == found.trials
    assert all(line["loss"] >= 0 and line["off"] for line in lines)


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
