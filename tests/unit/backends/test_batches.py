"""Several images at once through an engine that was built for one: the same answers, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from medge.backends import onnxruntime, openvino, refuse_batch
from medge.backends._onnx_batch import with_batch_size
from medge.errors import ToolError
from medge.onnx_lowering import lower
from tests import nets

BACKENDS = [onnxruntime, openvino]


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_answered_as_its_images_are_one_by_one(tmp_path: Path, backend: Any, quantised: bool) -> None:
    graph = nets.write_net(tmp_path / "net.onnx", list(nets.BLOCKS), quantised=quantised)
    precision = "int8" if quantised else "float32"
    files = backend.build(graph, tmp_path / "engine", precision=precision)
    before = {name: (tmp_path / "engine" / name).read_bytes() for name in files}
    how: dict[str, Any] = {"precision": precision, "threads": 1}
    one = backend.start(tmp_path / "engine", files, **how)
    several = backend.start_batch(tmp_path / "engine", files, **how, batch_size=5)
    images = nets.images(5, size=16, seed=3)
    logits, features = several.run(images)
    singles = [one.run(images[k : k + 1]) for k in range(5)]
    np.testing.assert_allclose(logits, np.concatenate([single[0] for single in singles]), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(features, np.concatenate([single[1] for single in singles]), atol=1e-3, rtol=1e-3)
    assert {name: (tmp_path / "engine" / name).read_bytes() for name in files} == before


def test_an_int8_graph_lowered_for_onnx_runtime_takes_a_batch_too(tmp_path: Path) -> None:
    source = nets.write_net(tmp_path / "net.onnx", ["linear", "relu6"], quantised=True)
    lower(source, tmp_path / "lowered.onnx", onnxruntime.QUANT, calibration_images=nets.images(4, size=16))
    assert any(node.name.startswith("rows") for node in onnx.load(str(tmp_path / "lowered.onnx")).graph.node)
    files = onnxruntime.build(tmp_path / "lowered.onnx", tmp_path / "engine", precision="int8")
    how: dict[str, Any] = {"precision": "int8", "threads": 1}
    images = nets.images(4, size=16, seed=5)
    logits, _ = onnxruntime.start_batch(tmp_path / "engine", files, **how, batch_size=4).run(images)
    one = onnxruntime.start(tmp_path / "engine", files, **how)
    np.testing.assert_allclose(logits, np.concatenate([one.run(images[k : k + 1])[0] for k in range(4)]), atol=1e-4)


def made_for_one(path: Path, op: str) -> Path:
    """A net whose logits come from one row inside: the first (Slice), or all in one (Reshape)."""
    nets.write_net(path, [])
    model = onnx.load(str(path))
    last = next(node for node in model.graph.node if node.output[0] == "logits")
    model.graph.node.remove(last)
    numbers = {"Slice": {"begin": [0], "end": [1], "axis": [0]}, "Reshape": {"shape": [1, 8]}}[op]
    for name, value in numbers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    model.graph.node.append(onnx.helper.make_node(op, [last.input[0], *numbers], ["row"]))
    last.input[0] = "row"
    model.graph.node.append(last)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_engine_that_is_made_for_one_image_inside_is_refused(tmp_path: Path, backend: Any) -> None:
    files = backend.build(made_for_one(tmp_path / "net.onnx", "Slice"), tmp_path / "engine", precision="float32")
    with pytest.raises(ToolError, match=r"it cannot take 3 images at once: it answers with 1 rows"):
        backend.start_batch(tmp_path / "engine", files, precision="float32", threads=1, batch_size=3)


def test_a_reshape_to_one_row_is_refused_by_onnx_runtime_and_understood_by_openvino(tmp_path: Path) -> None:
    graph = made_for_one(tmp_path / "net.onnx", "Reshape")
    how: dict[str, Any] = {"precision": "float32", "threads": 1}
    files = onnxruntime.build(graph, tmp_path / "ort", precision="float32")
    with pytest.raises(ToolError, match=r"it cannot take 3 images at once: .+"):
        onnxruntime.start_batch(tmp_path / "ort", files, **how, batch_size=3)
    files = openvino.build(graph, tmp_path / "ov", precision="float32")
    images = nets.images(3, size=16)
    logits, _ = openvino.start_batch(tmp_path / "ov", files, **how, batch_size=3).run(images)
    one = openvino.start(tmp_path / "ov", files, **how)
    np.testing.assert_allclose(logits, np.concatenate([one.run(images[k : k + 1])[0] for k in range(3)]), atol=1e-3)


def test_only_the_first_sizes_of_inputs_and_outputs_change(tmp_path: Path) -> None:
    content = nets.write_net(tmp_path / "net.onnx", ["residual"]).read_bytes()
    changed = onnx.load_model_from_string(with_batch_size(content, 7))
    ports = [*changed.graph.input, *changed.graph.output]
    assert [port.type.tensor_type.shape.dim[0].dim_value for port in ports] == [7, 7, 7]
    for port in ports:
        port.type.tensor_type.shape.dim[0].dim_value = 1
    assert changed == onnx.load_model_from_string(content)


@pytest.mark.parametrize("size", [0, 128])
def test_a_size_that_does_not_fit_into_a_byte_is_refused(tmp_path: Path, size: int) -> None:
    content = nets.write_net(tmp_path / "net.onnx", []).read_bytes()
    with pytest.raises(ToolError, match="cannot be asked for"):
        with_batch_size(content, size)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_what_is_no_whole_model_is_refused(tmp_path: Path, cut: int) -> None:
    content = nets.write_net(tmp_path / "net.onnx", []).read_bytes()
    with pytest.raises(ToolError, match=r"no whole ONNX model|no ONNX model"):
        with_batch_size(content[:cut], 2)


def test_a_model_of_another_batch_is_refused(tmp_path: Path) -> None:
    content = with_batch_size(nets.write_net(tmp_path / "net.onnx", []).read_bytes(), 2)
    with pytest.raises(ToolError, match="not of fixed batch 1"):
        with_batch_size(content, 4)


def test_a_long_refusal_is_cut_between_words_and_says_what_to_do() -> None:
    why = "Non-zero status code returned while running Reshape node. " * 5 + "the shape does not fit."
    message = refuse_batch(4, why, advice="compile it again").message
    shown = message.partition("... ")[2].partition(";")[0].split()
    assert shown == why.rstrip(".").split()[-len(shown) :]
    assert len(shown) > 15
    assert message.endswith("fit; compile it again")
