"""Quantisation: what stays in float, what is refused, and training that continues where it was interrupted."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medge import quantised, recovery
from medge.compressors import Context, ptq, qat
from medge.compressors._options import part
from medge.data import dataset
from medge.errors import RecipeError
from medge.model import Classifier, create, specify
from medge.quantised import range_parameters
from medge.recovery_run import Run

SIZE = 32


@pytest.fixture(scope="module")
def teacher(data: dataset.DataSet) -> Classifier:
    torch.manual_seed(0)
    model = create(specify("mobilenetv3_small_100", classes=2, head="batchnorm", dropout=0.2, size=SIZE))
    with torch.no_grad():
        model.train()(torch.from_numpy(data.read(data.indices("train")[:8])))
    return model.eval().requires_grad_(False)


def _context(data: dataset.DataSet, teacher: Classifier, work: Path) -> Context:
    return Context(data, data.indices("train")[:3], teacher, 0, work)


def _quantised_weights(model: nn.Module) -> set[str]:
    """Names of the layers whose weights NNCF quantises: a hook `backbone/conv_stem/conv2d/0__1.0` is before input 1."""
    found = ptq.quantisers(model)
    hooks = [name.rpartition("pre_hooks.")[2] for name, module in model.named_modules() if module in found]
    return {".".join(hook.split("/")[:-2]) for hook in hooks if "__1." in hook}


def test_the_head_and_ignored_layers_stay_in_float(data: dataset.DataSet, teacher: Classifier, tmp_path: Path) -> None:
    everything = ptq.apply(teacher, ptq.Options(subset_size=2), _context(data, teacher, tmp_path))
    weighted = [n for n, m in teacher.backbone.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    # NNCF itself leaves squeeze-and-excitation in float.
    layers = {f"backbone.{name}" for name in weighted if ".se." not in name}
    assert _quantised_weights(everything) == layers
    options = ptq.Options(subset_size=2, ignored=("backbone.conv_stem", "backbone.blocks.0"))
    some = ptq.apply(teacher, options, _context(data, teacher, tmp_path))
    kept = {n for n in layers if n.startswith(("backbone.conv_stem", "backbone.blocks.0."))}
    assert len(kept) > 2
    assert _quantised_weights(some) == layers - kept


def test_a_name_that_matches_no_layer_is_refused_with_the_nearest(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        ptq.apply(teacher, ptq.Options(ignored=("backbone.conv_sten",)), _context(data, teacher, tmp_path))
    assert "'backbone.conv_sten'" in caught.value.message
    assert "'backbone.conv_stem'" in caught.value.fix


def _layers(model: nn.Module, data: dataset.DataSet) -> list[str]:
    """Names of what computes with quantised values, as a rollback has them."""
    return [layer.name for layer in quantised.layers(model, torch.from_numpy(data.read([0])))[0]]


def test_functions_stay_in_float_by_their_names(data: dataset.DataSet, teacher: Classifier, tmp_path: Path) -> None:
    names = ("backbone.blocks.3.1:a?d", "backbone.blocks.4.1:add/0")
    everything, some = (
        _layers(ptq.apply(teacher, ptq.Options(subset_size=2, ignored=n), _context(data, teacher, tmp_path)), data)
        for n in ((), names)
    )
    assert set(everything) - set(some) == {"backbone.blocks.3.1:add", "backbone.blocks.4.1:add"}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("backbone.blocks.3.1:nosuch", "'backbone.blocks.3.1:add'"),
        ("backbone.blocks.3.1:add/1", "'backbone.blocks.3.1:add'"),
        ("backbone.block.3.1:add", "'backbone.blocks.3.1:add'"),
        ("backbone.blocks.0.*:add", ":add'"),  # no residual in it
    ],
)
def test_a_function_that_the_model_does_not_call_is_refused_with_the_nearest(
    name: str, nearest: str, data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        ptq.apply(teacher, ptq.Options(subset_size=2, ignored=(name,)), _context(data, teacher, tmp_path))
    assert f"no function '{name}'" in caught.value.message
    assert nearest in caught.value.fix


def test_every_layer_that_a_rollback_finds_can_be_named(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    found = _layers(ptq.apply(teacher, ptq.Options(subset_size=2), _context(data, teacher, tmp_path)), data)
    assert len([name for name in found if ":" in name]) > 5
    options = ptq.Options(subset_size=2, ignored=tuple(found))
    assert _layers(ptq.apply(teacher, options, _context(data, teacher, tmp_path)), data) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "fast"}, "preset is one of performance, mixed"),
        ({"overflow_fix": "no"}, "overflow_fix is one of"),
        ({"bias_correction": 1}, "true or false"),
        ({"subset_size": 0}, "at least 1"),
        ({"subset_size": 1.5}, "a whole number"),
        ({"ignored": "backbone"}, "a list of names"),
        ({"signed": True, "preset": "mixed"}, "signed needs"),
    ],
)
def test_nonsense_options_are_refused(options: dict[str, Any], words: str) -> None:
    for kind in (ptq.Options, qat.Options):
        with pytest.raises(ValueError, match=words):
            kind(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": -1},
        {"learning_rate": "fast"},
        {"temperature": 0},
        {"distillation": 1.1},
        {"images_per_epoch": 0},
        {"augment": 0},
        {"ranges": "fixed"},
    ],
)
def test_nonsense_options_of_training_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        qat.Options(**options)


OPTIONS = qat.Options(epochs=2, batch_size=4, images_per_epoch=8, subset_size=2, learning_rate=1e-4)


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = _context(data, teacher, tmp_path / "whole")
    expected = qat.apply(teacher, OPTIONS, whole)
    train = recovery._train

    def killed(run: Any, context: Context, epoch: int) -> int:
        if epoch == 1:
            raise KeyboardInterrupt
        return train(run, context, epoch)

    context = _context(data, teacher, tmp_path / "killed")
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_train", killed)
        with pytest.raises(KeyboardInterrupt):
            qat.apply(teacher, OPTIONS, context)
    trained: list[int] = []
    monkeypatch.setattr(recovery, "_train", lambda *a: (trained.append(a[2]), train(*a))[1])
    found = qat.apply(teacher, OPTIONS, context)
    assert trained == [1]
    assert found.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, msg=lambda text, name=name: f"{name}: {text}")
    assert context.log == whole.log
    assert "by epoch: " in context.log[0]


def test_the_state_nearest_to_the_float_model_is_kept_even_if_it_is_the_start(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    wild = qat.Options(epochs=1, batch_size=4, images_per_epoch=8, subset_size=2, learning_rate=1.0)
    context = _context(data, teacher, tmp_path)
    start = ptq.apply(teacher, wild.initial, context)
    kept = qat.apply(start, wild, context)
    assert "epoch 0 is kept (the model before training)" in context.log[-1]
    for name, tensor in start.state_dict().items():
        torch.testing.assert_close(kept.state_dict()[name], tensor)


@pytest.mark.parametrize("ranges", ["learned", "frozen"])
def test_ranges_are_trained_unless_they_are_frozen(
    ranges: str, data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    options = qat.Options(epochs=1, batch_size=4, images_per_epoch=8, subset_size=2, learning_rate=1e-3, ranges=ranges)
    context = _context(data, teacher, tmp_path)
    start = ptq.apply(teacher, options.initial, context)
    before = {name: tensor.detach().clone() for name, tensor in start.named_parameters()}
    student = copy.deepcopy(start)
    job = recovery.Job(
        "qat", tmp_path / "qat.pt", "", part(options, recovery.Training),
        frozen=range_parameters(student) if ranges == "frozen" else frozenset(),
    )  # fmt: skip
    run = Run(student, job)
    recovery._train(run, context, 0)  # what training does, whether or not `recover` keeps it
    moved = {name for name, tensor in student.named_parameters() if not torch.equal(tensor, before[name])}
    of_ranges = {name for name in range_parameters(student) if before[name].is_floating_point()}
    assert len(of_ranges) > 50
    assert moved & of_ranges if ranges == "learned" else not moved & of_ranges
    assert moved - of_ranges


def test_the_option_reaches_the_training(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[recovery.Job] = []
    monkeypatch.setattr(qat, "recover", lambda student, job, context: (jobs.append(job), student)[1])
    for ranges in ("learned", "frozen"):
        qat.apply(teacher, qat.Options(subset_size=2, ranges=ranges), _context(data, teacher, tmp_path))
    assert not jobs[0].frozen
    assert len(jobs[1].frozen) > 50
