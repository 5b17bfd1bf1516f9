"""Which layers learn, at which rate; scores; early stopping; a loss that is not a number."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medge import epochs, phases, training
from medge import model as models
from medge.errors import DataError, ToolError
from medge.training import Scores


def make(name: str) -> models.Classifier:
    return models.create(models.specify(name, classes=2, head="batchnorm", dropout=0.0, size=32))


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_resnet", "test_vit", "test_convnext", "mobilenetv3_small_100", "vgg11_bn"]
)
def test_blocks_hold_every_parameter_once_and_end_with_the_last_layer(name: str) -> None:
    backbone = make(name).backbone
    names = [name for block in training.blocks(backbone) for name in block]
    expected = [name for name, _ in backbone.named_parameters()]
    assert sorted(names) == sorted(expected)
    assert expected[-1] in training.blocks(backbone)[-1]


def test_normalisation_is_not_a_block_of_its_own() -> None:
    assert len(training.blocks(make("vgg11_bn").backbone)) == 8  # its convolutions


def test_a_model_without_timm_groups_has_its_children_as_blocks() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    assert training.blocks(backbone) == [["0.weight", "0.bias", "1.weight", "1.bias"], ["2.weight", "2.bias"]]


def test_frozen_blocks_keep_weights_and_statistics_and_learning_ones_move_both() -> None:
    model = make("test_efficientnet")
    names = training.blocks(model.backbone)
    training.set_learning(model, 2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = training.optimizer_for(model, learning_rate=0.1, block_decay=0.5, weight_decay=0.1)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    batches = [(images, torch.arange(8) % 2)]
    training.train_epoch(
        lambda x: model(x)[0], batches, optimizer,
        loss=nn.CrossEntropyLoss(), factors=lambda _: 1.0, device=torch.device("cpu"),
    )  # fmt: skip
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    learning = {f"backbone.{name}" for block in names[-2:] for name in block}
    frozen = {f"backbone.{name}" for block in names[:-2] for name in block}
    modules = {name.rpartition(".")[0] for name in frozen}
    assert learning <= moved
    assert not {k for k in moved if k.rpartition(".")[0] in modules}
    assert "head.0.running_mean" in moved
    assert any("running_mean" in k and k.rpartition(".")[0] in {n.rpartition(".")[0] for n in learning} for k in moved)


def test_learning_rates_fall_block_by_block_and_vectors_do_not_decay() -> None:
    model = make("test_resnet")
    optimizer = training.optimizer_for(model, learning_rate=1.0, block_decay=0.5, weight_decay=0.1)
    rate = {id(p): g["peak"] for g in optimizer.param_groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    parameters = dict(model.backbone.named_parameters())
    assert [rate[id(p)] for p in model.head.parameters()] == [1.0] * 4
    for depth, block in enumerate(reversed(training.blocks(model.backbone))):
        assert {rate[id(parameters[name])] for name in block} == {0.5**depth}
    assert all(decay[id(p)] == (0.1 if p.ndim > 1 else 0.0) for p in model.parameters())
    assert len(rate) == len(list(model.parameters()))


@given(steps=st.integers(1, 500), warmup=st.floats(0, 0.99))
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(steps: int, warmup: float) -> None:
    factors = [training.rate_factor(k, steps, warmup) for k in range(steps)]
    peak = factors.index(max(factors))
    assert all(0 < f <= 1 for f in factors)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


def test_class_weights_balance_the_classes() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    weights = training.class_weights(labels, 2)
    assert float(weights[0] * 30) == pytest.approx(float(weights[1] * 10))
    with pytest.raises(DataError, match="Class 2 has no training images"):
        training.class_weights(labels, 3)


def test_scores_of_two_classes() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
    found = training.score(logits, np.array([0, 1, 1, 1]))
    assert (found.auc, found.accuracy) == (1.0, 0.75)
    assert found.loss == pytest.approx(np.mean([np.log(1 + np.exp(-v)) for v in (2, 1, -1, 2)]))


def test_a_class_without_validation_images_is_left_out_of_the_auc() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(60, 4)), random.integers(0, 3, 60)
    logits[np.arange(60), labels] += 9
    assert training.score(logits, labels).auc == pytest.approx(1.0, abs=0.01)


def test_validation_images_of_one_class_are_refused() -> None:
    with pytest.raises(DataError, match="all of one class"):
        training.score(np.zeros((4, 2)), np.array([1, 1, 1, 1]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_a_number_stops_training_and_says_so(value: float) -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW([{"params": list(layer.parameters()), "peak": 1.0}])
    with pytest.raises(ToolError, match=r"loss is (nan|inf) at batch 1") as caught:
        training.train_epoch(
            layer, [(torch.full((2, 2), value), torch.tensor([0, 1]))], optimizer,
            loss=nn.CrossEntropyLoss(), factors=lambda _: 1.0, device=torch.device("cpu"),
        )  # fmt: skip
    assert caught.value.exit_code == 4
    assert "learning_rate" in caught.value.fix


def phase(folder: Path, aucs: list[float], layer: nn.Linear, *, patience: int = 2, stop: int = 99) -> epochs.Phase:
    def train(epoch: int) -> tuple[float, int]:
        if epoch == stop:
            raise KeyboardInterrupt
        with torch.no_grad():
            layer.bias.fill_(epoch + 1)
        return 1.0, 0

    def validate() -> Scores:
        return Scores(aucs[int(layer.bias.item()) - 1], 0.5, 0.5)

    return epochs.Phase("head", len(aucs), patience, folder, train, validate)


def adam(layer: nn.Linear) -> torch.optim.AdamW:
    return torch.optim.AdamW(layer.parameters())


def test_the_best_epoch_is_restored_and_patience_stops(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    history = epochs.fit(layer, adam(layer), phase(tmp_path, [0.6, 0.9, 0.8, 0.7, 0.99], layer))
    assert [e.epoch for e in history] == [1, 2, 3, 4]
    assert layer.bias.item() == 2


def test_a_phase_that_never_beats_its_baseline_ends_as_it_began(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    start = layer.bias.item()
    epochs.fit(layer, adam(layer), phase(tmp_path, [0.6, 0.7], layer), baseline=Scores(0.8, 0.5, 0.5))
    assert layer.bias.item() == start


def test_an_interrupted_phase_continues_and_ends_alike(tmp_path: Path) -> None:
    aucs = [0.6, 0.9, 0.8, 0.95]
    layer = nn.Linear(1, 1)
    with pytest.raises(KeyboardInterrupt):
        epochs.fit(layer, adam(layer), phase(tmp_path, aucs, layer, stop=2))
    again = nn.Linear(1, 1)
    continued = phase(tmp_path, aucs, again)
    trained: list[int] = []

    def train(number: int) -> tuple[float, int]:
        trained.append(number)
        return continued.train(number)

    history = epochs.fit(again, adam(again), dataclasses.replace(continued, train=train))
    assert trained == [2, 3]  # the two finished epochs are not trained again
    assert [e.validation_auc for e in history] == aucs
    assert again.bias.item() == 4


def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    models.write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        models.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [path] == list(tmp_path.iterdir())


def test_an_epoch_is_judged_in_float32_however_it_is_trained() -> None:
    model = make("test_efficientnet").eval()
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    here = SimpleNamespace(num_processes=1, process_index=0, device=torch.device("cpu"))
    data = SimpleNamespace(read=lambda rows: images[rows])
    job: Any = SimpleNamespace(model=model, data=data, accelerator=here, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected = np.concatenate([model(torch.from_numpy(part))[0].numpy() for part in (images[:64], images[64:])])
    assert np.array_equal(phases._logits(job, np.arange(70)), expected)
