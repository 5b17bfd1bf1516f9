"""What compressors refuse before anything is trained, and what they tell the steps after them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medge import model as classifier
from medge import plugins
from medge.compressors import distill, prune, ptq, resolution
from medge.data import dataset
from medge.errors import MissingError, RecipeError, ToolError
from medge.model import Classifier, create, specify
from tests.teachers import SIZE, context_of, teacher_of

UNTRAINED: dict[str, dict[str, Any]] = {
    "distill": {"student": "resnet10t", "weights": "none"},
    "friendly": {"gates": True},
    "prune": {"importance": "batchnorm"},
    "resolution": {"scale": 0.5},
    "sparsify": {"ignored": ["backbone.blocks.1"]},
}


@pytest.fixture(scope="module")
def b0(data: dataset.DataSet) -> Classifier:
    return teacher_of("efficientnet_b0", data)


def _shapes(model: nn.Module) -> dict[str, tuple[type, list[tuple[int, ...]]]]:
    """Of every module by name, with the type of those without weights: what names and activations later steps meet."""
    return {n: (type(m), [tuple(p.shape) for p in m.parameters(recurse=False)]) for n, m in model.named_modules()}


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_check_tells_the_layers_of_the_result_and_changes_nothing(
    name: str, b0: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    module: Any = plugins.load("compressors", name)
    options = module.Options(**UNTRAINED[name], epochs=0)
    before = {key: tensor.clone() for key, tensor in b0.state_dict().items()}
    context = context_of(data, b0, tmp_path / "work")
    told = module.check(b0, options, context)
    assert list(context.work.iterdir()) == []
    assert _shapes(told) == _shapes(module.apply(b0, options, context))
    assert b0.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in b0.state_dict().items())
    assert not any(parameter.requires_grad for parameter in b0.parameters())
    assert b0.side is None


@pytest.mark.parametrize("name", ["ptq", "qat", "prune", "sparsify"])
def test_an_unknown_layer_is_refused_with_the_nearest(
    name: str, small: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    module: Any = plugins.load("compressors", name)
    with pytest.raises(RecipeError, match=r"no layer 'backbone\.conv_haed'") as caught:
        module.check(small, module.Options(ignored=["backbone.conv_haed"]), context_of(data, small, tmp_path))
    assert "'backbone.conv_head'" in caught.value.fix


def test_a_network_whose_channels_cannot_be_followed_is_refused(data: dataset.DataSet, tmp_path: Path) -> None:
    vit = create(specify("vit_tiny_patch16_224", classes=2, head="plain", dropout=0.0, size=SIZE)).eval()
    with pytest.raises(ToolError, match="vit_tiny_patch16_224 cannot be followed"):
        prune.check(vit, prune.Options(), context_of(data, vit, tmp_path))


def test_ctrl_c_while_channels_are_followed_is_no_refusal(
    small: Classifier, data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, signals = type(small).forward, [SystemExit(130)]

    def stopped_once(*given: Any) -> Any:
        if signals:
            raise signals.pop()
        return forward(*given)

    monkeypatch.setattr(type(small), "forward", stopped_once)
    with pytest.raises(SystemExit):
        prune.check(small, prune.Options(), context_of(data, small, tmp_path))


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_ratio_that_removes_nothing_is_refused(
    importance: str, small: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    options = prune.Options(ratio=0.0001, round_to=1, importance=importance)
    with pytest.raises(RecipeError, match="no width changes at ratio"):
        prune.check(small, options, context_of(data, small, tmp_path))


@pytest.mark.parametrize("name", ["ptq", "qat"])
def test_a_chain_that_would_quantise_nothing_is_refused(
    name: str, small: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    module: Any = plugins.load("compressors", name)
    context = context_of(data, small, tmp_path)
    module.check(small, module.Options(ignored=["backbone.blocks.*"]), context)
    with pytest.raises(RecipeError, match="every layer stays in float"):
        module.check(small, module.Options(ignored=["backbone.*"]), context)


def test_a_backend_that_cannot_be_measured_here_is_missed_before_anything_is_pruned(
    small: Classifier, data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, context = prune.Options(latency="openvino"), context_of(data, small, tmp_path)
    prune.check(small, options, context)
    monkeypatch.setattr(plugins.load("backends", "openvino"), "missing", lambda precision: "no processor")
    with pytest.raises(MissingError, match="openvino cannot run float32 here: no processor"):
        prune.check(small, options, context)


def test_a_student_that_does_not_suit_is_refused(small: Classifier, data: dataset.DataSet, tmp_path: Path) -> None:
    context = context_of(data, small, tmp_path / "work")
    classifier.save(create(specify("resnet10t", classes=3, head="plain", dropout=0.0, size=SIZE)), tmp_path)
    for student, weights, words in (
        (str(tmp_path), "timm", "has 3 classes, the float model 2"),
        (str(tmp_path), "none", "weights 'none' are named beside"),
        ("resnet10x", "timm", "no model 'resnet10x'"),
        ("runs/nothing/2-finetune", "timm", "no fine-tuned model in runs/nothing/2-finetune"),
        ("resnet10t", str(tmp_path / "gone.pth"), "gone.pth"),
    ):
        with pytest.raises(RecipeError, match=words):
            distill.check(small, distill.Options(student=student, weights=weights), context)


def test_a_size_that_skips_pixels_is_refused_after_another(
    small: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    context, options = context_of(data, small, tmp_path), resolution.Options(scale=0.6)
    once = resolution.check(small, options, context)
    with pytest.raises(RecipeError, match="less than half"):
        resolution.check(once, options, context)


def test_functions_are_those_of_the_model_without_batch_norms(
    b0: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    """timm's BatchNorms hold their activation, which takes their place: so a rollback names it."""
    context = context_of(data, b0, tmp_path)
    ptq.check(b0, ptq.Options(ignored=("backbone.bn1:silu", "backbone.blocks.2.1:add")), context)
    with pytest.raises(RecipeError, match=r"no function 'backbone\.bn1:hardswish'"):
        ptq.check(b0, ptq.Options(ignored=("backbone.bn1:hardswish",)), context)
