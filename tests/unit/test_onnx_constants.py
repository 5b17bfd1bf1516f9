"""Constants of an ONNX graph: quantised weights become int8, equal ones are kept once, results stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from medge import onnx_constants


def _weight_graph(weight: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], axis: int) -> Any:
    """y = x + dequantise(quantise(weight)), the weight's constants as Constant nodes."""
    constants = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, f"{name}_value"))
        for name, array in (("weight", weight), ("scale", scale), ("zero", zero_point))
    ]
    nodes = [
        *constants,
        helper.make_node("QuantizeLinear", ["weight", "scale", "zero"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], axis=axis),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, weight.shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _run(model: Any, x: NDArray[Any]) -> NDArray[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, {"x": x})[0]
    return result


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
    axis=st.integers(0, 2),
    per_channel=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_folded_weights_are_what_the_runtime_would_have_quantised(
    shape: tuple[int, int, int], axis: int, per_channel: bool, signed: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # Some fall on ties and some saturate.
    weight = (random.integers(-300, 300, shape) / 2).astype(np.float32)
    count = (shape[axis],) if per_channel else ()
    scale = np.asarray(random.choice([0.5, 1.0, 2.0], count), dtype=np.float32)
    kind = np.int8 if signed else np.uint8
    zero_point = np.asarray(random.integers(0, 100, count), dtype=kind)
    model = _weight_graph(weight, scale, zero_point, axis)
    x = random.normal(size=shape).astype(np.float32)
    expected = _run(model, x)
    onnx_constants.to_initialisers(model.graph)
    assert onnx_constants.fold_weight_quantisers(model.graph) == 1
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Add"]
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored["q"] == (TensorProto.INT8 if signed else TensorProto.UINT8)
    assert "weight" not in stored
    np.testing.assert_array_equal(_run(model, x), expected)


def test_equal_constants_are_kept_once_and_others_are_not_merged() -> None:
    arrays = {
        "a": np.float32([1, 2]),
        "b": np.float32([1, 2]),
        "c": np.float32([[1, 2]]),  # another shape
        "d": np.int64([1, 2]),  # another type
        "unread": np.float32([7]),
    }
    nodes = [
        helper.make_node("Add", ["x", "a"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["t"]),
        helper.make_node("Reshape", ["t", "d"], ["u"]),
        helper.make_node("Add", ["u", "c"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    onnx_constants.deduplicate(graph)
    assert [tensor.name for tensor in graph.initializer] == ["a", "c", "d"]
    assert list(graph.node[1].input) == ["s", "a"]


def test_a_quantised_activation_is_not_taken_for_a_weight() -> None:
    scale, zero = (numpy_helper.from_array(np.asarray(v), n) for n, v in (("s", np.float32(0.1)), ("z", np.int8(0))))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [scale, zero])
    assert onnx_constants.fold_weight_quantisers(graph) == 0
    assert len(graph.node) == 2
