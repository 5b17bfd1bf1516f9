"""Training towards the float model: what a checkpoint holds, and where it runs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medge import pace, plugins, recovery
from medge.data import dataset
from medge.model import Classifier
from medge.recovery import Job, Training, recover
from tests.teachers import context_of

SIZE = 32
CHEAP: dict[str, Any] = {"epochs": 2, "batch_size": 8, "images_per_epoch": 16, "learning_rate": 1e-3}


def _damaged(model: Classifier) -> Classifier:
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.head[-1].bias += torch.tensor([4.0, -4.0])
    return damaged


def _trained(small: Classifier, data: dataset.DataSet, work: Path, **options: Any) -> Classifier:
    job = Job("test", work / "test.pt", repr(options), Training(**{**CHEAP, **options}), batch_norms=True)
    found = recover(_damaged(small), job, context_of(data, small, work))
    assert isinstance(found, Classifier)
    return found


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_finished_training_keeps_no_optimizer_and_is_taken_up_as_it_is(
    small: Classifier, data: dataset.DataSet, tmp_path: Path
) -> None:
    first = _trained(small, data, tmp_path)
    assert torch.load(tmp_path / "test.pt", weights_only=True)["optimizer"] is None
    before = (tmp_path / "test.pt").stat().st_mtime_ns
    assert torch.equal(_weights(_trained(small, data, tmp_path)), _weights(first))
    assert (tmp_path / "test.pt").stat().st_mtime_ns == before


def test_a_training_that_is_not_finished_keeps_its_optimizer(
    small: Classifier, data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = recovery._train

    def stopped(run: Any, context: Any, epoch: int) -> int:
        if epoch == 1:
            raise KeyboardInterrupt
        return train(run, context, epoch)

    monkeypatch.setattr(recovery, "_train", stopped)
    with pytest.raises(KeyboardInterrupt):
        _trained(small, data, tmp_path / "killed")
    assert torch.load(tmp_path / "killed" / "test.pt", weights_only=True)["optimizer"] is not None
    monkeypatch.undo()
    again = _trained(small, data, tmp_path / "killed")
    assert torch.equal(_weights(again), _weights(_trained(small, data, tmp_path / "whole")))


def test_a_training_that_diverged_has_no_epochs_left(
    small: Classifier, data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, math.nan])
    monkeypatch.setattr(recovery, "_validation_loss", lambda *a: next(losses))
    work = tmp_path / "test-key"
    work.mkdir()
    _trained(small, data, work, epochs=8)
    assert pace.left([pace.Planned(8, 16, work)])[0] == 0


@pytest.mark.parametrize("augment", [True, False])
def test_without_augmentation_the_images_are_as_they_will_be_given(
    augment: bool, small: Classifier, data: dataset.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medge import imitation

    seen: list[torch.Tensor] = []
    monkeypatch.setattr(imitation, "blended", lambda images, share, chance: seen.append(images) or images)
    _trained(small, data, tmp_path, augment=augment, epochs=1)
    train = {image.tobytes() for image in data.read(data.indices("train"))}
    same = [image.numpy().tobytes() in train for image in torch.cat(seen)]
    assert len(same) == CHEAP["images_per_epoch"]
    assert all(same) if not augment else not any(same)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("compressor", "options"),
    [
        ("prune", {"ratio": 0.5}),
        ("distill", {"mixup": 0.5}),
        ("qat", {"mixup": 0.5}),
        ("sparsify", {"mode": "regularisation"}),
        ("sparsify", {"ratio": 0.5}),
    ],
)
def test_a_gpu_trains_and_the_processor_gets_the_model_back(
    small: Classifier, data: dataset.DataSet, tmp_path: Path, compressor: str, options: dict[str, Any]
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU and a torch with CUDA")
    torch.cuda.reset_peak_memory_stats()
    module = plugins.load("compressors", compressor)
    context = context_of(data, small, tmp_path)
    found = module.apply(small, module.Options(**{**CHEAP, **options}), context)
    assert torch.cuda.max_memory_allocated() > 1_000_000
    assert {tensor.device.type for tensor in found.state_dict().values()} == {"cpu"}
    assert found(torch.from_numpy(data.read(data.indices("test")[:2])))[0].isfinite().all()
    assert {tensor.device.type for tensor in small.state_dict().values()} == {"cpu"}
