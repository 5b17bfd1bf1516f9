"""Fewer layers: which blocks can go, which one goes first, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medge import chains
from medge.compressors import Context, prune, ptq, shorten
from medge.data import dataset
from medge.errors import RecipeError, ToolError
from medge.model import Classifier, predict
from medge.onnx_export import is_quantised
from tests.teachers import context_of, teacher_of

LITE_RESIDUALS = ["1.1", "2.1", "3.1", "3.2", "4.1", "4.2", "5.1", "5.2", "5.3"]  # stride 1, as many channels out as in


def _image(data: dataset.DataSet) -> torch.Tensor:
    return torch.from_numpy(data.read([0]))


def _gone(model: nn.Module) -> list[str]:
    blocks = [f"backbone.blocks.{k}" for k in LITE_RESIDUALS]
    return [name for name in blocks if isinstance(model.get_submodule(name), nn.Identity)]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("tf_efficientnet_lite0", [f"backbone.blocks.{k}" for k in LITE_RESIDUALS]),
        ("resnet18", [f"backbone.layer{k}" for k in ("1.0", "1.1", "2.1", "3.1", "4.1")]),
        ("vgg16_bn", []),
    ],
)
def test_a_block_can_go_where_its_output_has_the_shape_of_its_input(
    name: str, blocks: list[str], data: dataset.DataSet
) -> None:
    assert shorten.removable(teacher_of(name, data), _image(data)) == blocks


def test_squeezes_are_no_blocks(data: dataset.DataSet, small: Classifier) -> None:
    found = shorten.removable(small, _image(data))
    assert found
    assert not [name for name in found if ".se" in name]


def _without_effect(model: Classifier, *names: str) -> Classifier:
    """A copy whose blocks add nothing to what they are given: their last BatchNorms' scales and shifts are 0."""
    changed = copy.deepcopy(model)
    for name in names:
        norm: Any = [m for m in changed.get_submodule(name).modules() if isinstance(m, nn.BatchNorm2d)][-1]
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    return changed


def test_the_blocks_that_do_nothing_go_first_and_nothing_changes(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    idle = ["backbone.blocks.3.1", "backbone.blocks.5.2"]
    teacher = _without_effect(lite, *idle)
    context = context_of(data, teacher, tmp_path)
    shorter = shorten.apply(teacher, shorten.Options(blocks=2, epochs=0), context)
    assert _gone(shorter) == idle
    assert [line.split()[1] for line in context.log] == idle  # of equals the earlier one
    assert sum(p.numel() for p in shorter.parameters()) < sum(p.numel() for p in teacher.parameters())
    assert _gone(teacher) == []
    # The BatchNorms gathered statistics of three images; with those of before, every answer is the same.
    shorter.load_state_dict({k: v for k, v in teacher.state_dict().items() if k in shorter.state_dict()})
    rows = data.indices("validation")
    torch.testing.assert_close(
        predict(shorter, data, rows, description=""), predict(teacher, data, rows, description=""), rtol=0, atol=1e-5
    )


def test_weights_stay_and_batch_norms_gather_statistics_of_what_the_shorter_network_sees(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    context = context_of(data, lite, tmp_path)
    shorter = shorten.apply(lite, shorten.Options(blocks=9, epochs=0), context)
    before = lite.state_dict()
    assert all(torch.equal(before[name], weight) for name, weight in shorter.named_parameters())
    again = copy.deepcopy(shorter).train()
    norms = {n: m for n, m in again.backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.momentum = 1.0  # the last batch's statistics alone, and there is one
    with torch.no_grad():
        again(torch.from_numpy(data.read(context.calibration)))
    found = shorter.state_dict()
    for name, norm in norms.items():
        torch.testing.assert_close(found[f"backbone.{name}.running_mean"], norm.running_mean)
        torch.testing.assert_close(found[f"backbone.{name}.running_var"], norm.running_var)


def test_an_interrupted_run_takes_the_blocks_that_it_had_chosen_and_goes_on_training(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = shorten.Options(blocks=1, epochs=2, images_per_epoch=4, batch_size=2)
    at_once = shorten.apply(lite, options, context_of(data, lite, tmp_path / "at-once"))
    real = shorten.recover

    def killed(student: Any, job: Any, context: Context) -> Any:
        monkeypatch.setattr(shorten, "recover", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(shorten, "recover", killed)
    context = context_of(data, lite, tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        shorten.apply(lite, options, context)
    monkeypatch.setattr(shorten, "_greedy", None)
    again = context_of(data, lite, tmp_path / "killed")
    continued = shorten.apply(lite, options, again)
    assert again.log[0] == context.log[0]
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name])


def test_where_all_go_none_is_asked_first(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shorten, "_greedy", None)
    context = context_of(data, lite, tmp_path)
    shorter = shorten.apply(lite, shorten.Options(blocks=9, epochs=0), context)
    assert _gone(shorter) == [f"backbone.blocks.{k}" for k in LITE_RESIDUALS]
    assert context.log[0].startswith("shorten: all 9 blocks that can go do: backbone.blocks.1.1, backbone.blocks.2.1,")


def test_pruning_and_quantising_follow_it(data: dataset.DataSet, lite: Classifier, tmp_path: Path) -> None:
    assert chains.problem(["resolution", "shorten", "prune", "ptq"]) is None
    assert "shorten cannot change a model that ptq has quantised" in str(chains.problem(["ptq", "shorten"]))
    shorter = shorten.apply(lite, shorten.Options(blocks=9, epochs=0), context_of(data, lite, tmp_path / "0"))
    narrower = prune.apply(shorter, prune.Options(ratio=0.5, epochs=0), context_of(data, lite, tmp_path / "1"))
    assert len(_gone(narrower)) == 9
    quantised = ptq.apply(narrower, ptq.Options(subset_size=2), context_of(data, lite, tmp_path / "2"))
    assert is_quantised(quantised)
    with torch.no_grad():
        answers = [model(_image(data))[0] for model in (narrower, quantised)]
    assert [answer.shape for answer in answers] == [(1, 2), (1, 2)]
    assert not torch.equal(*answers)


def test_what_is_ignored_stays_and_more_than_there_are_is_refused(
    data: dataset.DataSet, lite: Classifier, tmp_path: Path
) -> None:
    options = shorten.Options(blocks=1, ignored=("backbone.blocks.[1-4]", "backbone.blocks.5.[12]"), epochs=0)
    shorter = shorten.apply(lite, options, context_of(data, lite, tmp_path / "0"))
    assert _gone(shorter) == ["backbone.blocks.5.3"]
    few = shorten.Options(blocks=4, ignored=("backbone.blocks.[1-4]",), epochs=0)
    with pytest.raises(RecipeError, match=r"4 blocks are to go, and 3 can: backbone.blocks.5.1, .*5.2, .*5.3\."):
        shorten.apply(lite, few, context_of(data, lite, tmp_path / "1"))
    with pytest.raises(RecipeError, match="4 blocks are to go"):  # and before any chain is followed
        shorten.check(lite, few, context_of(data, lite, tmp_path / "1"))
    with pytest.raises(RecipeError, match=r"no layer 'backbone\.block'"):
        shorten.apply(lite, shorten.Options(ignored=("backbone.block",)), context_of(data, lite, tmp_path / "2"))
    with pytest.raises(RecipeError, match=r"no layer 'backbone\.block'"):
        shorten.check(lite, shorten.Options(ignored=("backbone.block",)), context_of(data, lite, tmp_path / "2"))
    with pytest.raises(ToolError, match="takes a classifier of medge"):
        shorten.apply(nn.Identity(), shorten.Options(), context_of(data, lite, tmp_path / "3"))


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_a_number_of_blocks_that_makes_no_sense_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="blocks is a whole number of at least 1"):
        shorten.Options(blocks=value)
