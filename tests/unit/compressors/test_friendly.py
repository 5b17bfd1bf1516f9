"""The quantisation-friendly twin: which activations go, that training follows, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medge import chains
from medge.compressors import Context, friendly
from medge.data import dataset
from medge.model import Classifier, create, predict, specify
from tests.tiny_data import data_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    return data_of(tmp_path_factory, size=32)


def _teacher(name: str) -> Classifier:
    torch.manual_seed(0)
    return create(specify(name, classes=2, head="plain", dropout=0.0, size=32)).eval().requires_grad_(False)


@pytest.mark.parametrize(("activation", "kind"), [("relu6", nn.ReLU6), ("hardswish", nn.Hardswish)])
def test_no_silu_is_left_and_the_teacher_keeps_its_own(
    activation: str, kind: type, data: dataset.DataSet, tmp_path: Path
) -> None:
    teacher = _teacher("efficientnet_b0")
    silus = sum(isinstance(m, nn.SiLU) for m in teacher.modules())
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    options = friendly.Options(activation=activation, gates=True, epochs=0)
    twin = friendly.apply(teacher, options, context)
    assert sum(isinstance(m, nn.SiLU) for m in twin.modules()) == 0
    assert sum(isinstance(m, kind) for m in twin.modules()) == silus
    assert sum(isinstance(m, nn.Hardsigmoid) for m in twin.modules()) == 16
    assert sum(isinstance(m, nn.SiLU) for m in teacher.modules()) == silus > 0
    assert not twin.training


def test_a_model_without_silu_is_left_as_it_is_and_the_log_says_so(data: dataset.DataSet, tmp_path: Path) -> None:
    teacher = _teacher("resnet10t")
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    twin = friendly.apply(teacher, friendly.Options(), context)
    assert "no activation to replace" in context.log[0]
    image = torch.from_numpy(data.read([0]))
    with torch.no_grad():
        assert torch.equal(twin(image)[0], teacher(image)[0])


def test_training_brings_the_twin_nearer_to_the_float_model(data: dataset.DataSet, tmp_path: Path) -> None:
    teacher = _teacher("efficientnet_b0")
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    rows = data.indices("validation")
    aim = predict(teacher, data, rows, description="")
    gaps = []
    for epochs in (0, 1):
        options = friendly.Options(activation="relu6", epochs=epochs, batch_size=4, images_per_epoch=16)
        twin = friendly.apply(teacher, options, context)
        gaps.append(float(np.linalg.norm(predict(twin, data, rows, description="") - aim)))
    assert gaps[1] < gaps[0]
    assert "epoch 1 is kept" in context.log[-1]


def test_it_comes_before_quantising() -> None:
    assert chains.problem(["prune", "friendly", "ptq", "qat"]) is None
    assert "friendly cannot change a model that ptq has quantised" in str(chains.problem(["ptq", "friendly"]))


def test_another_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation is one of relu6, hardswish"):
        friendly.Options(activation="gelu")
