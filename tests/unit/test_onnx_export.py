"""ONNX export: one graph, the same bytes every time, which computes what torch computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from medge.compressors import ptq
from medge.errors import ToolError
from medge.fold import fold_batch_norms
from medge.model import create, specify
from medge.onnx_export import is_quantised, onnx_from_torch

SIZE = 32
OPTIONS = onnxruntime.SessionOptions()
OPTIONS.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


class Small(nn.Module):
    """A classifier with what the real ones have: normalisation, a depthwise convolution, an addition, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16), nn.Hardswish(),
            nn.Conv2d(16, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone((images.permute(0, 3, 1, 2).float() - 127) / 64)
        return self.head(features), features


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (12, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def small(images: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = Small()
    with torch.no_grad():
        model(images)  # BatchNorm statistics that differ from 0 and 1
    return model.eval()


@pytest.fixture(scope="module")
def quantised(small: nn.Module, images: Tensor) -> nn.Module:
    folded, _ = fold_batch_norms(small, images[:1])
    return ptq.quantise(folded, iter(images[:8].split(1)), ptq.Options())


def _outputs(path: Path | bytes, images: Tensor) -> Iterator[list[Any]]:
    source = path if isinstance(path, bytes) else str(path)
    session = onnxruntime.InferenceSession(source, OPTIONS, providers=["CPUExecutionProvider"])
    for image in images:
        yield session.run(None, {"images": image[None].numpy()})


def test_a_float_graph_agrees_with_torch_to_1e_5(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    onnx_from_torch(small, tmp_path / "m.onnx", size=(SIZE, SIZE))
    with torch.no_grad():
        logits, features = small(images)
    for k, found in enumerate(_outputs(tmp_path / "m.onnx", images)):
        np.testing.assert_allclose(found[0][0], logits[k].numpy(), atol=1e-5)
        np.testing.assert_allclose(found[1][0], features[k].numpy(), atol=1e-5)


def test_a_quantised_graph_agrees_with_torch_to_1e_4(quantised: nn.Module, images: Tensor, tmp_path: Path) -> None:
    onnx_from_torch(quantised, tmp_path / "m.onnx", size=(SIZE, SIZE))
    with torch.no_grad():
        logits, features = quantised(images)
    for k, found in enumerate(_outputs(tmp_path / "m.onnx", images)):
        np.testing.assert_allclose(found[0][0], logits[k].numpy(), atol=1e-4)
        np.testing.assert_allclose(found[1][0], features[k].numpy(), atol=1e-4)


def test_a_deep_quantised_graph_differs_from_torch_only_where_a_value_lies_on_a_rounding_tie(tmp_path: Path) -> None:
    """Layer by layer: the first difference is one step in a few values, and the layers after it spread it."""
    torch.manual_seed(0)
    model = create(specify("tf_efficientnet_lite0", classes=2, head="plain", dropout=0.0, size=64)).eval()
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    folded, _ = fold_batch_norms(model, images[:1])
    deep = ptq.quantise(folded, iter(images[:2].split(1)), ptq.Options())
    onnx_from_torch(deep, tmp_path / "m.onnx", size=(64, 64))
    expected: list[tuple[Any, float]] = []
    for quantiser in ptq.quantisers(deep):
        quantiser.register_forward_hook(
            lambda module, inputs, output: expected.append((output.detach().numpy(), float(module.scale.max()) / 127))
        )
    with torch.no_grad():
        deep(images[2:])
    graph = onnx.load(tmp_path / "m.onnx")
    weights = {tensor.name for tensor in graph.graph.initializer}
    names = [n.output[0] for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in weights]
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    found = next(_outputs(graph.SerializeToString(), images[2:]))
    activations = [(value, step) for value, step in expected if value.shape[0] == 1]
    assert len(activations) == len(found) > 40
    for value, (aim, step) in zip(found, activations, strict=True):
        apart = np.abs(value - aim)
        if apart.max() > step / 100:
            assert apart.max() < 1.01 * step
            assert (apart > step / 100).mean() < 2e-3
            return


def test_the_same_model_gives_the_same_bytes(quantised: nn.Module, small: nn.Module, tmp_path: Path) -> None:
    for model in (small, quantised):
        for name in ("a", "b"):
            onnx_from_torch(model, tmp_path / name, size=(SIZE, SIZE))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_nothing_is_printed_and_the_model_is_not_changed(
    quantised: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: tensor.clone() for name, tensor in quantised.state_dict().items()}
    onnx_from_torch(quantised, tmp_path / "m.onnx", size=(SIZE, SIZE))
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(before[name], tensor) for name, tensor in quantised.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_graphs_form_is_the_one_that_engines_are_given(quantised: nn.Module, tmp_path: Path) -> None:
    onnx_from_torch(quantised, tmp_path / "m.onnx", size=(SIZE, SIZE))
    graph = onnx.load(tmp_path / "m.onnx")
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    shape = [d.dim_value for d in graph.graph.input[0].type.tensor_type.shape.dim]
    assert (graph.graph.input[0].name, graph.graph.input[0].type.tensor_type.elem_type) == (
        "images",
        onnx.TensorProto.UINT8,
    )
    assert shape == [1, SIZE, SIZE, 3]
    assert [o.name for o in graph.graph.output] == ["logits", "features"]
    operators = [node.op_type for node in graph.graph.node]
    assert "BatchNormalization" not in operators
    assert "Constant" not in operators
    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    weights = [
        tensors[n.input[0]] for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in tensors
    ]
    assert [w.data_type for w in weights] == [onnx.TensorProto.INT8] * 3
    for node in graph.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] not in tensors:
            assert onnx.numpy_helper.to_array(tensors[node.input[1]]).ndim == 0  # per tensor
    head = next(node for node in graph.graph.node if "logits" in node.output)
    assert (head.op_type, tensors[head.input[1]].data_type) == ("Gemm", onnx.TensorProto.FLOAT)


def test_signed_activations_are_int8_with_zero_point_0(small: nn.Module, images: Tensor, tmp_path: Path) -> None:
    folded, _ = fold_batch_norms(small, images[:1])
    calibrated = iter(images[:8].split(1))
    onnx_from_torch(ptq.quantise(folded, calibrated, ptq.Options(signed=True)), tmp_path / "m.onnx", size=(SIZE, SIZE))
    graph = onnx.load(tmp_path / "m.onnx").graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    zero_points = [tensors[n.input[2]] for n in graph.node if n.op_type == "QuantizeLinear"]
    assert zero_points
    assert all(z.dtype == np.int8 and not z.any() for z in zero_points)


def test_quantised_and_float_models_are_told_apart(small: nn.Module, quantised: nn.Module) -> None:
    assert not is_quantised(small)
    assert is_quantised(quantised)


class Refused(Small):
    """Pools to a size that does not divide the input's: ONNX has no such operator."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), 7)
        return super().forward(x.permute(0, 2, 3, 1))


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToolError, match="adaptive_avg_pool2d"):
        onnx_from_torch(Refused().eval(), tmp_path / "m.onnx", size=(SIZE, SIZE))
    assert capfd.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
