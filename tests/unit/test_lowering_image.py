"""What is done to the image on rows is what was done to it on planes, and what is not understood stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from medge.lowering import image
from medge.lowering.net import load, save

quick = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
sides = st.integers(1, 40)


def _write(path: Path, shape: tuple[int, int], wanted: tuple[int, int] | None, **resize: Any) -> Path:
    """uint8 [1, *shape, 3] to planes, normalised, and reduced where `wanted` says so; then a 1x1 convolution."""
    constants = {
        "mean": np.array([120, 110, 100], np.float32).reshape(1, 3, 1, 1),
        "scale": np.array([0.02, 0.03, 0.01], np.float32).reshape(1, 3, 1, 1),
        "sizes": np.array([1, 3, *(wanted or shape)], np.int64),
        "weight": np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -1, 2]], np.float32).reshape(4, 3, 1, 1),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["normalised"]),
    ]
    last = "normalised"
    if wanted is not None:
        how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"} | resize
        nodes.append(helper.make_node("Resize", [last, "", "", "sizes"], ["reduced"], **how))
        last = "reduced"
    nodes.append(helper.make_node("Conv", [last, "weight"], ["logits"]))
    graph = helper.make_graph(
        nodes, "image",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, *shape, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, *(wanted or shape)])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def _by_rows(path: Path) -> Path:
    net = load(path)
    image.cast_first(net)
    image.by_rows(net)
    target = path.with_name("rows.onnx")
    save(net, target)
    return target


def _run(path: Path, pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {"images": pictures})]


def _operations(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def _picture(shape: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, *shape, 3), dtype=np.uint8)


@quick
@given(shape=st.tuples(sides, sides), wanted=st.none() | st.tuples(sides, sides), seed=st.integers(0, 99))
def test_rows_hold_the_same_values(
    tmp_path: Path, shape: tuple[int, int], wanted: tuple[int, int] | None, seed: int
) -> None:
    source = _write(tmp_path / "source.onnx", shape, wanted)
    target = _by_rows(source)
    kinds = _operations(target)
    assert "Resize" not in kinds
    assert kinds.index("Reshape") < kinds.index("Transpose")
    picture = _picture(shape, seed)
    np.testing.assert_allclose(_run(target, picture)[0], _run(source, picture)[0], rtol=0, atol=2e-3)  # values up to 14


def test_the_rows_of_a_reduction_are_gathered_as_bytes(tmp_path: Path) -> None:
    kinds = _operations(_by_rows(_write(tmp_path / "source.onnx", (32, 32), (20, 20))))
    assert kinds.index("Gather") < kinds.index("Cast")
    assert kinds.count("Gather") == 4


@pytest.mark.parametrize(
    "resize",
    [
        {"mode": "nearest"},
        {"coordinate_transformation_mode": "align_corners"},
        {"antialias": 1},
    ],
)
def test_another_reduction_stays_and_so_do_its_values(tmp_path: Path, resize: dict[str, Any]) -> None:
    source = _write(tmp_path / "source.onnx", (12, 16), (8, 10), **resize)
    target = _by_rows(source)
    assert "Resize" in _operations(target)
    assert "Reshape" in _operations(target)  # its normalisation is done on rows all the same
    picture = _picture((12, 16), 0)
    np.testing.assert_allclose(_run(target, picture)[0], _run(source, picture)[0], rtol=0, atol=1e-5)


def test_what_comes_after_a_tensor_that_is_read_twice_stays_on_planes(tmp_path: Path) -> None:
    model = onnx.load(str(_write(tmp_path / "source.onnx", (8, 8), (6, 6))))
    model.graph.node.append(helper.make_node("GlobalAveragePool", ["centred"], ["features"]))
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 3, 1, 1]))
    onnx.save(model, tmp_path / "twice.onnx")
    target = _by_rows(tmp_path / "twice.onnx")
    kinds = _operations(target)
    assert kinds.index("Sub") < kinds.index("Transpose") < kinds.index("Mul") < kinds.index("Resize")
    picture = _picture((8, 8), 0)
    for one, other in zip(*(_run(path, picture) for path in (target, tmp_path / "twice.onnx")), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
