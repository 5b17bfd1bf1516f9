"""What every compressor keeps to, on every first-class family of backbones."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from medge import plugins
from medge.compressors import Context
from medge.data import dataset
from medge.errors import RecipeError
from medge.model import Classifier
from medge.onnx_export import is_quantised, onnx_from_torch
from tests import nets
from tests.synthetic_run import write_data
from tests.teachers import SIZE, teacher_of

FAMILIES = ("efficientnet_b0", "tf_efficientnet_lite0", "resnet18", "vgg16_bn", "mobilenetv3_small_100")
CHEAP = {"epochs": 1, "images_per_epoch": 2, "batch_size": 2, "subset_size": 2}
NOTHING_TO_DO = {("shorten", "vgg16_bn")}  # no residual block: refused


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dataset.DataSet:
    folder = tmp_path_factory.mktemp("data") / "1-data"
    write_data(folder, images=40, size=SIZE)
    return dataset.load(folder)


@pytest.fixture(scope="module", params=FAMILIES)
def teacher(request: pytest.FixtureRequest, data: dataset.DataSet) -> Classifier:
    """Random weights, with BatchNorm statistics of real activations so that no layer is dead."""
    return teacher_of(request.param, data)


def _cheapest(options: type) -> Any:
    names = {field.name for field in dataclasses.fields(options)}
    return options(**{name: value for name, value in CHEAP.items() if name in names})


@pytest.mark.parametrize("name", plugins.names("compressors"))
def test_options_are_a_frozen_dataclass_with_defaults(name: str) -> None:
    options = plugins.load("compressors", name).Options
    assert dataclasses.is_dataclass(options)
    assert options() == options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options(), dataclasses.fields(options)[0].name, None)


def _narrows(compressed: Any, teacher: Classifier) -> None:
    assert _parameters(compressed) < 0.5 * _parameters(teacher)
    assert len(_of_type(compressed, nn.Conv2d)) == len(_of_type(teacher, nn.Conv2d))


def _shortens(compressed: Any, teacher: Classifier) -> None:
    assert len(_of_type(compressed, nn.Conv2d)) < len(_of_type(teacher, nn.Conv2d))


def _quantises(compressed: Any, teacher: Classifier) -> None:
    assert is_quantised(compressed)


def _reduces(compressed: Any, teacher: Classifier) -> None:
    assert (teacher.side, compressed.side) == (None, 48)  # 0.7 of 64 pixels, as a multiple of 8


def _empties(compressed: Any, teacher: Classifier) -> None:
    layers = [layer for layer in _of_type(compressed.backbone, nn.Conv2d) if layer.groups == 1]
    zero = sum(int((layer.weight == 0).sum()) for layer in layers)
    assert zero / sum(layer.weight.numel() for layer in layers) == pytest.approx(0.5, abs=0.01)


def _replaces(compressed: Any, teacher: Classifier) -> None:
    silus = len(_of_type(teacher, nn.SiLU))
    hardswishes = len(_of_type(teacher, nn.Hardswish)) + silus
    assert (len(_of_type(compressed, nn.SiLU)), len(_of_type(compressed, nn.Hardswish))) == (0, hardswishes)
    if not silus:
        _keeps(compressed, teacher)


def _keeps(compressed: Any, teacher: Classifier) -> None:
    """Every weight: also what a training leaves that began at the float model itself."""
    weights = teacher.state_dict()
    assert compressed.state_dict().keys() == weights.keys()
    assert all(torch.equal(weights[key], tensor) for key, tensor in compressed.state_dict().items())


EFFECTS: dict[str, Callable[[Any, Classifier], None]] = {
    "distill": _keeps, "friendly": _replaces, "prune": _narrows, "ptq": _quantises, "qat": _quantises,
    "resolution": _reduces, "shorten": _shortens, "sparsify": _empties,
}  # fmt: skip


def _assert_trained(name: str, log: list[str], options: Any) -> None:
    """Where it has epochs: a loss before training and one of each epoch are in the log, unless nothing was changed."""
    said = [line for line in log if line.startswith(f"{name}: divergence from the float model on validation images")]
    is_left = any("is left as it is" in line for line in log)
    assert len(said) == int(hasattr(options, "epochs") and not is_left)
    assert all(len(line.partition("by epoch: ")[2].partition(";")[0].split(", ")) == 2 for line in said)


def _parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _of_type(model: nn.Module, kind: type) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", plugins.names("compressors"))
def test_a_compressed_model_is_a_classifier_and_exports(
    name: str, teacher: Classifier, data: dataset.DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module, options = plugins.load("compressors", name), _cheapest(plugins.load("compressors", name).Options)
    before = copy.deepcopy(teacher.state_dict())
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    if (name, teacher.spec.timm_name) in NOTHING_TO_DO:
        with pytest.raises(RecipeError, match=f"{name}: "):
            module.apply(teacher, options, context)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compressed = module.apply(teacher, options, context)
        onnx_from_torch(compressed, tmp_path / "model.onnx", size=(SIZE, SIZE))
    assert capfd.readouterr().out == ""
    assert all(torch.equal(before[key], tensor) for key, tensor in teacher.state_dict().items())
    assert not compressed.training
    assert name in EFFECTS, f"say in EFFECTS what {name} does to a model"
    EFFECTS[name](compressed, teacher)
    _assert_trained(name, context.log, options)
    kept = getattr(compressed, "kept", None)  # the features that pruning left
    dimensions = teacher.dimensions if kept is None else len(kept)
    images = data.read(data.indices("test")[:2])
    with torch.no_grad():
        logits, features = compressed(torch.from_numpy(images))
        aim = teacher(torch.from_numpy(images))
    assert (logits.shape, features.shape) == ((2, 2), (2, dimensions))
    assert logits.dtype == features.dtype == torch.float32
    _assert_signature(tmp_path / "model.onnx", dimensions)
    _assert_same_function(compressed, tmp_path / "model.onnx", images, aim[1] if kept is None else aim[1][:, kept])


def _assert_signature(path: Path, dimensions: int) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", [1, SIZE, SIZE, 3])
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("logits", [1, 2]), ("features", [1, dimensions])
    ]  # fmt: skip


def _assert_same_function(compressed: nn.Module, path: Path, images: np.ndarray, aim: torch.Tensor) -> None:
    """ONNX Runtime gives what torch gives, `aim` being the float model's features.

    Float: to rounding errors, 5e-5 of the outputs' size at most where they were measured. Quantised: a value on a
    rounding tie falls to either side in two runtimes, and the layers after it spread the difference, to a fifth of
    what quantising these random weights does to the features (test_onnx_export looks at every layer).
    """
    with torch.no_grad():
        logits, features = (output.numpy() for output in compressed(torch.from_numpy(images)))
    # As it is written: on x86 without VNNI the integer kernels that it would be fused to saturate.
    found = nets.run_plainly(path, images)
    if is_quantised(compressed):
        of_compression = np.linalg.norm(aim.numpy() - features)
        assert of_compression > 0
        assert np.linalg.norm(found[1] - features) < 0.5 * of_compression
    else:
        assert np.linalg.norm(found[0] - logits) < 1e-3 * np.linalg.norm(logits)
        assert np.linalg.norm(found[1] - features) < 1e-3 * np.linalg.norm(features)
