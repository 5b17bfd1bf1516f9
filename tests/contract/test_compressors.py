"""What every compressor keeps to, on every first-class family of backbones."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from medge import plugins
from medge.compressors import Context
from medge.data import dataset
from medge.model import Classifier
from medge.onnx_export import onnx_from_torch
from tests import nets
from tests.synthetic_run import write_data
from tests.teachers import SIZE, teacher_of

FAMILIES = ("efficientnet_b0", "tf_efficientnet_lite0", "resnet18", "vgg16_bn", "mobilenetv3_small_100")
CHEAP = {"epochs": 1, "images_per_epoch": 2, "batch_size": 2, "subset_size": 2}


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


@pytest.mark.parametrize("name", plugins.names("compressors"))
def test_a_compressed_model_is_a_classifier_and_exports(
    name: str, teacher: Classifier, data: dataset.DataSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = plugins.load("compressors", name)
    before = copy.deepcopy(teacher.state_dict())
    context = Context(data, data.indices("train")[:2], teacher, 0, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compressed = module.apply(teacher, _cheapest(module.Options), context)
        onnx_from_torch(compressed, tmp_path / "model.onnx", size=(SIZE, SIZE))
    assert capfd.readouterr().out == ""
    assert all(torch.equal(before[key], tensor) for key, tensor in teacher.state_dict().items())
    assert not compressed.training
    kept = getattr(compressed, "kept", None)  # the features that pruning left
    dimensions = teacher.dimensions if kept is None else len(kept)
    images = data.read(data.indices("test")[:2])
    with torch.no_grad():
        logits, features = compressed(torch.from_numpy(images))
        aim = teacher(torch.from_numpy(images))
    assert (logits.shape, features.shape) == ((2, 2), (2, dimensions))
    assert logits.dtype == features.dtype == torch.float32
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("images", "tensor(uint8)", [1, SIZE, SIZE, 3])
    ]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [
        ("logits", [1, 2]), ("features", [1, dimensions])
    ]  # fmt: skip
    # A value on a rounding tie falls to either side in two runtimes, and the layers after it spread the difference:
    # the graph is the same model, though not to the last digit (test_onnx_export looks at every layer).
    # As it is written: on x86 without VNNI the integer kernels that it would be fused to saturate.
    _, found = nets.run_plainly(tmp_path / "model.onnx", images)
    between_runtimes = np.linalg.norm(found - features.numpy())
    same = aim[1] if kept is None else aim[1][:, kept]
    of_compression = np.linalg.norm(same.numpy() - features.numpy())
    assert between_runtimes < max(of_compression, 1e-3 * np.linalg.norm(found))
