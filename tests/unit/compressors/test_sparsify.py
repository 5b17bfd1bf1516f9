"""Sparsity: how many weights become zero, which, and that they stay zero in whatever follows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from medge import chains, recovery
from medge.compressors import Context, distill, ptq, qat, sparsify
from medge.errors import RecipeError, ToolError
from medge.model import Classifier
from medge.onnx_export import onnx_from_torch
from medge.recovery_run import Run
from tests.teachers import SIZE, context_of

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "images_per_epoch": 8}


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of the convolutions that are concerned."""
    return {
        n: m.weight.detach()
        for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == 1 and n.startswith("backbone.")
    }


def _zeros(model: nn.Module) -> float:
    weights = _weights(model).values()
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def _share(weight: torch.Tensor) -> float:
    return float((weight == 0).float().mean())


def _has_pattern(weight: torch.Tensor) -> bool:
    """At most two of each four neighbouring inputs are not zero."""
    return int((weight != 0).movedim(1, -1).unflatten(-1, (-1, 4)).sum(-1).max()) <= 2


def test_every_layer_loses_the_share_in_the_local_mode(data: Any, small: Classifier, tmp_path: Path) -> None:
    context = context_of(data, small, tmp_path)
    sparse = sparsify.apply(small, sparsify.Options(ratio=0.8, **QUICK), context)
    shares = {n: _share(w) for n, w in _weights(sparse).items()}
    assert len(shares) == 42
    for name, weight in _weights(sparse).items():
        assert shares[name] == pytest.approx(0.8, abs=2 / weight.numel() + 0.01), name
    depthwise = [m.weight for m in sparse.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert depthwise
    assert not any((weight == 0).any() for weight in depthwise)
    assert not (sparse.head[-1].weight == 0).any()
    assert "80.0% of the weights of 42 layers are zero" in context.log[-1]
    assert "only zeros" in context.log[-1]


def test_without_training_the_smallest_weights_go_and_the_rest_stay(
    data: Any, small: Classifier, tmp_path: Path
) -> None:
    sparse = sparsify.apply(small, sparsify.Options(ratio=0.6, epochs=0), context_of(data, small, tmp_path))
    for name, before in _weights(small).items():
        after = _weights(sparse)[name]
        gone = after == 0
        assert torch.equal(after[~gone], before[~gone])
        assert before[gone].abs().max() < before[~gone].abs().min()


def test_the_global_mode_takes_more_where_weights_matter_less(data: Any, small: Classifier, tmp_path: Path) -> None:
    options = sparsify.Options(ratio=0.7, mode="global", steps=2, **QUICK)
    context = context_of(data, small, tmp_path)
    sparse = sparsify.apply(small, options, context)
    shares = [_share(w) for w in _weights(sparse).values()]
    assert _zeros(sparse) == pytest.approx(0.7, abs=0.01)
    assert max(shares) - min(shares) > 0.1
    assert [line.split(":")[0] for line in context.log] == ["sparsify step 1 of 2", "sparsify step 2 of 2", "sparsify"]


def test_learned_masks_come_nearer_to_the_ratio_with_each_epoch_and_the_last_is_kept(
    data: Any, small: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[float] = []
    shares: list[float] = []  # before training, then after each epoch
    judged = recovery._validation_loss

    def noted(run: Any, *more: Any) -> float:
        masks = torch.cat([mask.detach().flatten() for mask in run.job.learned.parameters])
        wanted.append(run.job.learned.loss.target_ratio)
        shares.append(float((masks <= 0).float().mean()))
        return judged(run, *more)

    monkeypatch.setattr(recovery, "_validation_loss", noted)
    options = sparsify.Options(
        ratio=0.7, mode="regularisation", epochs=3, batch_size=2, images_per_epoch=12, mask_learning_rate=2.0
    )
    context = context_of(data, small, tmp_path)
    sparse = sparsify.apply(small, options, context)
    assert wanted[1:] == pytest.approx([1 - 0.3 ** (epoch / 3) for epoch in (1, 2, 3)])
    assert shares[0] == 0
    gaps = [abs(0.7 - share) for share in shares]
    assert gaps == sorted(set(gaps), reverse=True), shares
    assert gaps[3] < 0.3, "it stays at 0.5 where only imitation moves the masks"
    assert _zeros(sparse) == pytest.approx(shares[3], abs=1e-4)
    assert "epoch 3 is kept" in context.log[0]
    assert sorted(sparse.state_dict()) == sorted(small.state_dict())


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([(), (1, 1), (3, 3)]), st.integers(0, 999))
def test_the_mask_keeps_the_two_largest_of_each_four_inputs(
    outputs: int, fours: int, kernel: tuple[int, ...], seed: int
) -> None:
    weight = torch.randn(outputs, 4 * fours, *kernel, generator=torch.Generator().manual_seed(seed))
    mask = sparsify.two_of_four(weight)
    assert mask.shape == weight.shape
    grouped = weight.movedim(1, -1).unflatten(-1, (-1, 4)).abs()
    kept = mask.movedim(1, -1).unflatten(-1, (-1, 4))
    assert bool((kept.sum(-1) == 2).all())
    least_kept = grouped.masked_fill(~kept, float("inf")).amin(-1)
    assert bool((least_kept >= grouped.masked_fill(kept, 0).amax(-1)).all())


@settings(max_examples=6)
@given(rate=st.sampled_from([1e-5, 1e-3, 1e-2]), seed=st.integers(0, 9), quantised=st.booleans())
def test_the_pattern_survives_recovery_whatever_the_rate(
    rate: float, seed: int, quantised: bool, data: Any, lite: Classifier, tmp_path_factory: pytest.TempPathFactory
) -> None:
    context = Context(data, data.indices("train")[:3], lite, seed, tmp_path_factory.mktemp("work"))
    model: nn.Module = sparsify.apply(lite, sparsify.Options(pattern="2:4", epochs=0), context)
    before = {n: w.clone() for n, w in _weights(model).items()}
    if quantised:
        model = qat.apply(model, qat.Options(**QUICK, learning_rate=rate, subset_size=2), context)
    else:
        options = distill.Options(**QUICK, learning_rate=rate)
        model = copy.deepcopy(model)
        run = Run(model, recovery.Job("t", context.work / "t.pt", "", recovery.Training(**QUICK)))
        recovery._train(run, context, 0)
        model = distill.apply(model, options, context)
    after = _weights(model)
    concerned = [n for n, w in before.items() if w.shape[1] % 4 == 0]
    assert len(concerned) > 20
    assert all(_has_pattern(after[n]) for n in concerned)
    assert any(not torch.equal(after[n], before[n]) for n in concerned)


def test_training_moves_what_is_not_zero_and_nothing_else(data: Any, small: Classifier, tmp_path: Path) -> None:
    context = context_of(data, small, tmp_path)
    sparse = sparsify.apply(small, sparsify.Options(ratio=0.5, epochs=0), context)
    before = {n: w.clone() for n, w in _weights(sparse).items()}
    run = Run(sparse, recovery.Job("t", tmp_path / "t.pt", "", recovery.Training(learning_rate=0.01, **QUICK)))
    recovery._train(run, context, 0)
    for name, weight in _weights(sparse).items():
        zero = before[name] == 0
        assert bool((weight[zero] == 0).all())
        assert not torch.equal(weight, before[name])


@pytest.mark.parametrize("preset", ["performance", "mixed"])
def test_zeros_are_zeros_in_the_int8_file(preset: str, data: Any, lite: Classifier, tmp_path: Path) -> None:
    context = context_of(data, lite, tmp_path)
    sparse = sparsify.apply(lite, sparsify.Options(pattern="2:4", epochs=0), context)
    onnx_from_torch(
        ptq.apply(sparse, ptq.Options(subset_size=2, preset=preset), context), tmp_path / "m.onnx", size=(SIZE, SIZE)
    )
    graph = onnx.load(tmp_path / "m.onnx").graph
    weights = [numpy_helper.to_array(i) for i in graph.initializer]
    weights = [w for w in weights if w.dtype == np.int8 and w.ndim == 4 and w.shape[1] > 1 and w.shape[1] % 4 == 0]
    assert len(weights) > 20
    assert all(_has_pattern(torch.tensor(w)) for w in weights)
    assert all(0.5 <= float((w == 0).mean()) < 0.75 for w in weights)


def test_a_sparse_file_is_smaller_only_when_zipped(data: Any, small: Classifier, tmp_path: Path) -> None:
    import gzip

    sparse = sparsify.apply(small, sparsify.Options(ratio=0.8, epochs=0), context_of(data, small, tmp_path))
    for name, model in (("dense", small), ("sparse", sparse)):
        onnx_from_torch(model, tmp_path / f"{name}.onnx", size=(SIZE, SIZE))
    raw = {n: (tmp_path / f"{n}.onnx").read_bytes() for n in ("dense", "sparse")}
    assert abs(len(raw["sparse"]) / len(raw["dense"]) - 1) < 0.01
    assert len(gzip.compress(raw["sparse"])) < 0.5 * len(gzip.compress(raw["dense"]))


def test_ignored_layers_stay_dense_and_unknown_ones_are_refused(data: Any, small: Classifier, tmp_path: Path) -> None:
    context = context_of(data, small, tmp_path)
    options = sparsify.Options(epochs=0, ignored=("backbone.conv_head", "backbone.blocks.2"))
    weights = _weights(sparsify.apply(small, options, context))
    dense = {n for n, w in weights.items() if not (w == 0).any()}
    assert dense == {n for n in weights if n == "backbone.conv_head" or n.startswith("backbone.blocks.2.")}
    with pytest.raises(RecipeError) as caught:
        sparsify.apply(small, sparsify.Options(ignored=("backbone.conv_haed",)), context)
    assert "'backbone.conv_head'" in caught.value.fix
    with pytest.raises(RecipeError, match="is a function") as caught:
        sparsify.apply(small, sparsify.Options(ignored=("backbone.blocks.3.1:add",)), context)
    assert "'backbone.blocks.3.1'" in caught.value.fix
    with pytest.raises(RecipeError, match="no layer is left"):
        sparsify.apply(small, sparsify.Options(ignored=("backbone",)), context)


def test_what_is_no_classifier_is_refused(data: Any, small: Classifier, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="takes a classifier"):
        sparsify.apply(nn.Linear(2, 2), sparsify.Options(), context_of(data, small, tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratio": 0}, "ratio is between"),
        ({"ratio": 1}, "ratio is between"),
        ({"ratio": -0.1}, "ratio is a number from 0 to 1"),
        ({"ratio": float("nan")}, "ratio is a number"),
        ({"pattern": 124}, "in quotation marks"),
        ({"pattern": "2:4", "ratio": 0.8}, "half of the weights"),
        ({"pattern": "2:4", "steps": 2}, "half of the weights"),
        ({"mode": "smallest"}, "mode is one of"),
        ({"mode": "regularisation", "epochs": 0}, "at least one epoch"),
        ({"mode": "regularisation", "steps": 2}, "one step"),
        ({"mask_learning_rate": 0}, "mask_learning_rate"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sparsify.Options(**options)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["sparsify", "ptq"], None),
        (["prune", "sparsify", "distill", "qat"], None),
        (["sparsify", "ptq", "qat"], None),
        (["sparsify", "prune"], "prune after sparsify: it takes channels out"),
        (["sparsify", "distill", "prune", "ptq"], "prune after sparsify"),
        (["ptq", "sparsify"], "sparsify cannot change a model that ptq has quantised"),
    ],
)
def test_sparsity_comes_after_pruning_and_before_quantising(names: list[str], words: str | None) -> None:
    found = chains.problem(names)
    assert (found is None) if words is None else (words in str(found))


def test_an_interrupted_run_ends_with_the_weights_of_one_that_was_not(
    data: Any, small: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = sparsify.Options(ratio=0.7, mode="regularisation", epochs=2, batch_size=4, images_per_epoch=8)
    expected = sparsify.apply(small, options, context_of(data, small, tmp_path / "whole"))
    train = recovery._train

    def stops(run: Any, context: Any, epoch: int) -> int:
        if epoch == 1:
            raise KeyboardInterrupt
        return train(run, context, epoch)

    monkeypatch.setattr(recovery, "_train", stops)
    with pytest.raises(KeyboardInterrupt):
        sparsify.apply(small, options, context_of(data, small, tmp_path / "stopped"))
    monkeypatch.setattr(recovery, "_train", train)
    found = sparsify.apply(small, options, context_of(data, small, tmp_path / "stopped"))
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
