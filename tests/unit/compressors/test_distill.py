"""Distillation: who is trained, what it starts from, and which students are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medge import imitation
from medge import model as classifier
from medge.compressors import Context, distill
from medge.data import dataset
from medge.errors import RecipeError
from medge.model import Classifier, create, specify
from medge.recovery import Training

SIZE = 32
CHEAP: dict[str, Any] = {"epochs": 2, "batch_size": 8, "images_per_epoch": 16}


@pytest.fixture(scope="module")
def teacher() -> Classifier:
    return _random("mobilenetv3_small_100", classes=2)


def _random(name: str, *, classes: int) -> Classifier:
    torch.manual_seed(0)
    model = create(specify(name, classes=classes, head="batchnorm", dropout=0.2, size=SIZE))
    return model.eval().requires_grad_(False)


def _context(data: dataset.DataSet, teacher: Classifier, work: Path) -> Context:
    return Context(data, data.indices("train")[:3], teacher, 0, work)


def test_another_network_gets_the_classes_of_the_float_model(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    options = distill.Options(student="resnet10t", weights="none", **CHEAP)
    context = _context(data, teacher, tmp_path)
    student = distill.apply(teacher, options, context)
    logits, features = student(torch.from_numpy(data.read(data.indices("test")[:2])))
    assert (logits.shape, features.shape) == ((2, 2), (2, 512))
    assert context.log[0] == "distill: the student is resnet10t, the teacher mobilenetv3_small_100."
    assert "epoch" in context.log[1]


def test_training_brings_a_damaged_model_nearer_to_the_float_model(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    import copy

    damaged = copy.deepcopy(teacher)
    with torch.no_grad():
        damaged.head[-1].bias += torch.tensor([4.0, -4.0])
    aim = torch.from_numpy(classifier.predict(teacher, data, data.indices("validation"), description=""))
    options = distill.Options(**{**CHEAP, "learning_rate": 0.05, "epochs": 4})
    trained = distill.apply(damaged, options, _context(data, teacher, tmp_path))
    gaps = [
        float((torch.from_numpy(classifier.predict(m, data, data.indices("validation"), description="")) - aim).norm())
        for m in (damaged, trained)
    ]
    assert gaps[1] < gaps[0]


def test_a_student_that_was_given_the_classes_in_another_order_is_refused(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    student = _random("mobilenetv3_small_100", classes=2)
    options, context = distill.Options(student=str(tmp_path), epochs=0), _context(data, teacher, tmp_path)
    for labels in ((), data.labels):
        _save(student, labels, tmp_path)
        distill.check(teacher, options, context)
    _save(student, tuple(reversed(data.labels)), tmp_path)
    with pytest.raises(RecipeError, match=r"tells .* apart, the float model .*, in that order"):
        distill.check(teacher, options, context)


def _save(model: Classifier, labels: tuple[str, ...], folder: Path) -> None:
    model.spec = replace(model.spec, labels=labels)
    classifier.save(model, folder)
    assert classifier.load(folder).spec.labels == labels


def test_a_student_with_other_classes_is_refused(data: dataset.DataSet, teacher: Classifier, tmp_path: Path) -> None:
    classifier.save(_random("mobilenetv3_small_100", classes=3), tmp_path)
    with pytest.raises(RecipeError, match="has 3 classes, the float model 2"):
        distill.apply(teacher, distill.Options(student=str(tmp_path)), _context(data, teacher, tmp_path))


def test_a_student_that_timm_does_not_have_is_refused_with_the_nearest(
    data: dataset.DataSet, teacher: Classifier, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="no model 'resnet10x'") as caught:
        distill.apply(teacher, distill.Options(student="resnet10x"), _context(data, teacher, tmp_path))
    assert "resnet10t" in caught.value.fix


@pytest.mark.parametrize(
    "options", [{"student": ""}, {"student": 3}, {"weights": "none"}, {"batch_size": 1}, {"epochs": -1}]
)
def test_nonsense_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        distill.Options(**options)


def test_mixup_blends_a_share_of_the_images_with_others_of_the_batch_and_leaves_the_rest() -> None:
    images = torch.randint(0, 256, (64, 4, 4, 3), dtype=torch.uint8)
    blended = imitation.blended(images, 0.5, torch.Generator().manual_seed(3))
    changed = [not torch.equal(a.float(), b) for a, b in zip(images, blended, strict=True)]
    assert 16 < sum(changed) < 48
    assert float(blended.min()) >= 0
    assert float(blended.max()) <= 255
    again = imitation.blended(images, 0.5, torch.Generator().manual_seed(3))
    assert torch.equal(blended, again)
    assert imitation.blended(images, 0.0, torch.Generator()) is images


def test_the_loss_is_the_divergence_at_a_temperature_times_its_square_and_its_other_parts() -> None:
    random = np.random.default_rng(0)
    logits, aim, features, aimed = random.normal(0, 2, (4, 5, 3))
    labels = np.array([0, 2, 1, 1, 0])
    training = Training(temperature=2, distillation=0.75, features=0.5)
    found = imitation.loss(
        torch.nn.Identity(),
        (torch.from_numpy(logits), torch.from_numpy(features)),
        (torch.from_numpy(aim), torch.from_numpy(aimed)),
        torch.from_numpy(labels),
        training,
    )
    p, q = _softmax(aim / 2), _softmax(logits / 2)
    divergence = (p * np.log(p / q)).sum(1).mean()
    distance = ((features - aimed) ** 2).mean() / (aimed**2).mean()
    surprise = -np.log(_softmax(logits)[range(5), labels]).mean()
    assert float(found) == pytest.approx(0.75 * 2**2 * divergence + 0.5 * distance + 0.25 * surprise, rel=1e-9)


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_mixup_with_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="no label"):
        distill.Options(mixup=0.5, distillation=0.5)
    distill.Options(mixup=0.5)
