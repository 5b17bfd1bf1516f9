"""Pruning: widths, what stays, what is refused, and a killed run that ends like one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medge import channels, imitation, recovery
from medge.compressors import prune, ptq, qat
from medge.data import dataset
from medge.errors import RecipeError, ToolError
from medge.model import Classifier, create, specify
from medge.onnx_export import onnx_from_torch
from tests.synthetic_run import write_data
from tests.teachers import SIZE, context_of, teacher_of

FAMILIES = ("efficientnet_b0", "tf_efficientnet_lite0", "resnet18", "vgg16_bn", "mobilenetv3_small_100")


def _widths(model: nn.Module) -> dict[str, int]:
    return {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("scope", "importance"), [("uniform", "magnitude"), ("global", "taylor")])
def test_widths_become_multiples_of_eight_or_stay(
    name: str, scope: str, importance: str, data: dataset.DataSet, tmp_path: Path
) -> None:
    teacher = teacher_of(name, data)
    options = prune.Options(ratio=0.4, scope=scope, importance=importance, epochs=0)
    pruned = prune.apply(teacher, options, context_of(data, teacher, tmp_path))
    before, after = _widths(teacher), _widths(pruned)
    changed = {n: (before[n], after[n]) for n in before if before[n] != after[n]}
    assert len(changed) >= 2
    assert all(now < was and now % 8 == 0 for was, now in changed.values())
    assert all(m.groups == m.out_channels for m in pruned.modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    weights = [sum(p.numel() for p in m.parameters()) for m in (teacher, pruned)]
    assert weights[1] < 0.85 * weights[0]
    assert pruned.head[-1].out_features == 2
    images = torch.from_numpy(data.read(data.indices("test")[:3]))
    with torch.no_grad():
        logits, features = pruned(images)
    assert logits.shape == (3, 2)
    assert features.shape == (3, pruned.dimensions)
    if pruned.dimensions < teacher.dimensions:
        assert pruned.kept is not None
        assert len(pruned.kept) == pruned.dimensions


def test_each_step_takes_the_same_share_of_the_first_widths_and_recovers(
    data: dataset.DataSet, small: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, dict[str, int]]] = []
    recover = prune.recover
    monkeypatch.setattr(
        prune, "recover", lambda m, job, c: (seen.append((job.name, _widths(m))), recover(m, job, c))[1]
    )
    options = prune.Options(ratio=0.6, steps=3, epochs=0, round_to=1)
    pruned = prune.apply(small, options, context_of(data, small, tmp_path))
    assert [name for name, _ in seen] == [f"prune step {step} of 3" for step in (1, 2, 3)]
    assert seen[-1][1] == _widths(pruned)
    for step, (_, widths) in enumerate(seen, start=1):
        for name, before in _widths(small).items():
            assert widths[name] == pytest.approx((1 - 0.2 * step) * before, abs=0.5), (step, name)


@settings(max_examples=12)
@given(
    ratio=st.floats(0.05, 0.95),
    round_to=st.sampled_from([1, 4, 8, 16]),
    scope=st.sampled_from(["uniform", "global"]),
    seed=st.integers(0, 99),
)
def test_what_is_left_computes_what_the_model_computes_with_the_rest_silent(
    ratio: float, round_to: int, scope: str, seed: int, data: dataset.DataSet, small: Classifier
) -> None:
    import copy

    model = copy.deepcopy(small)
    image = torch.from_numpy(data.read(data.indices("train")[:1]))
    graph = channels.trace(model, image)
    random = np.random.default_rng(seed)
    ranked = channels.rank(model, graph, "magnitude", [])
    ranked = [channels.Ranked(r.root, random.random(len(r.scores)).astype(np.float32)) for r in ranked]
    initial = {r.root: len(r.scores) for r in ranked}
    left = channels.widths_left(ranked, initial, ratio, scope=scope, round_to=round_to)
    assert all(0 < w <= initial[r.root] for r, w in zip(ranked, left, strict=True))
    channels.remove(model, graph, channels.choose(ranked, left), image)  # raises where the two differ
    for group, width in zip(ranked, left, strict=True):
        assert _widths(model)[group.root] == width


def test_a_graph_that_is_not_the_models_is_refused(data: dataset.DataSet, small: Classifier) -> None:
    import copy

    class Swapped(nn.Module):
        """Flips the channels: the dependency graph takes it for element-wise."""

        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values.flip(1)

    model = copy.deepcopy(small)
    model.backbone.blocks[0] = nn.Sequential(Swapped(), model.backbone.blocks[0])
    image = torch.from_numpy(data.read(data.indices("train")[:1]))
    graph = channels.trace(model, image)
    with pytest.raises(ToolError, match="cannot be followed") as caught:
        channels.remove(model, graph, [("backbone.conv_stem", [0, 1, 2, 3])], image)
    assert caught.value.exit_code == 4


def test_a_transformer_is_refused_as_a_tools_refusal(data: dataset.DataSet, tmp_path: Path) -> None:
    vit = create(specify("vit_tiny_patch16_224", classes=2, head="plain", dropout=0.0, size=SIZE)).eval()
    with pytest.raises(ToolError, match="vit_tiny_patch16_224 cannot be followed") as caught:
        prune.apply(vit, prune.Options(epochs=0), context_of(data, vit, tmp_path))
    assert caught.value.exit_code == 4


def test_ignored_layers_keep_their_width(data: dataset.DataSet, small: Classifier, tmp_path: Path) -> None:
    options = prune.Options(epochs=0, ignored=("backbone.conv_head", "backbone.blocks.2.*"))
    pruned = prune.apply(small, options, context_of(data, small, tmp_path))
    before, after = _widths(small), _widths(pruned)
    kept = [n for n in before if n == "backbone.conv_head" or n.startswith("backbone.blocks.2.")]
    assert len(kept) > 3
    assert [after[n] for n in kept] == [before[n] for n in kept]
    assert after["backbone.blocks.1.0.conv_pw"] < before["backbone.blocks.1.0.conv_pw"]
    assert pruned.kept is None


def test_ignored_names_that_match_nothing_are_refused_with_the_nearest(
    data: dataset.DataSet, small: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        prune.apply(small, prune.Options(ignored=("backbone.conv_haed",)), context_of(data, small, tmp_path))
    assert "'backbone.conv_head'" in caught.value.fix


def test_a_function_cannot_be_ignored_and_its_layer_is_offered(
    data: dataset.DataSet, small: Classifier, tmp_path: Path
) -> None:
    options = prune.Options(epochs=0, ignored=("backbone.blocks.3.1:add",))
    with pytest.raises(RecipeError, match=r"no function 'backbone\.blocks\.9:add'") as unknown:
        prune.apply(small, prune.Options(ignored=("backbone.blocks.9:add",)), context_of(data, small, tmp_path))
    assert "backbone.blocks" in unknown.value.fix
    with pytest.raises(RecipeError, match=r"'backbone\.blocks\.3\.1:add' is a function") as caught:
        prune.apply(small, options, context_of(data, small, tmp_path))
    assert "'backbone.blocks.3.1'" in caught.value.fix


def test_a_ratio_that_removes_nothing_is_refused(data: dataset.DataSet, small: Classifier, tmp_path: Path) -> None:
    options = prune.Options(ratio=0.0001, epochs=0, round_to=1)
    with pytest.raises(RecipeError, match="no width changes at ratio"):
        prune.apply(small, options, context_of(data, small, tmp_path))


@pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, -0.5, 1.5, float("nan"), "half", True])
def test_a_ratio_that_is_no_share_is_refused(ratio: Any) -> None:
    with pytest.raises(ValueError, match="ratio is"):
        prune.Options(ratio=ratio)


def test_a_pruned_model_is_quantised_and_trained_as_int8(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    context = context_of(data, lite, tmp_path)
    pruned = prune.apply(lite, prune.Options(epochs=0), context)
    quantised = ptq.apply(pruned, ptq.Options(subset_size=2), context)
    onnx_from_torch(quantised, tmp_path / "int8.onnx", size=(SIZE, SIZE))
    onnx_from_torch(lite, tmp_path / "float.onnx", size=(SIZE, SIZE))
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "float.onnx").stat().st_size / 8
    options = qat.Options(epochs=1, batch_size=4, images_per_epoch=4, subset_size=2)
    trained = qat.apply(quantised, options, context)
    images = torch.from_numpy(data.read(data.indices("test")[:1]))
    features = trained(images)[1]
    aimed = imitation.counterparts(trained, features, lite(images)[1])
    assert aimed is not None
    assert aimed.shape == features.shape


SCRIPT = """
import os, signal, sys
from pathlib import Path
from medge import recovery
from tests.teachers import context_of, teacher_of
from tests.unit.compressors.test_prune import STEPS
from medge.compressors import prune
from medge.data import dataset
data = dataset.load(Path(sys.argv[1]))
teacher = teacher_of("mobilenetv3_small_100", data)
train = recovery._train
def dies(run, context, epoch):
    if run.job.first_epoch + epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(run, context, epoch)
recovery._train = dies
prune.apply(teacher, STEPS, context_of(data, teacher, Path(sys.argv[2])))
"""
STEPS = prune.Options(steps=2, epochs=2, batch_size=4, images_per_epoch=8, learning_rate=1e-4)


def test_a_run_killed_in_its_second_step_ends_with_the_weights_of_one_that_was_not(
    data: dataset.DataSet, small: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = context_of(data, small, tmp_path / "whole")
    expected = prune.apply(small, STEPS, whole)
    folder = tmp_path / "1-data"
    write_data(folder, images=40, size=SIZE)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "killed")], env=environment, check=False
    )
    assert killed.returncode == -9
    trained: list[int] = []
    train = recovery._train
    monkeypatch.setattr(recovery, "_train", lambda *a: (trained.append(a[0].job.first_epoch + a[2]), train(*a))[1])
    context = context_of(data, small, tmp_path / "killed")
    found = prune.apply(small, STEPS, context)
    assert trained == [3]
    assert _widths(found) == _widths(expected)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    assert context.log == whole.log
