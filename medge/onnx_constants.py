"""Constants of an ONNX graph: where they live, quantised weights as int8, equal ones kept once. In place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["deduplicate", "fold_weight_quantisers", "to_initialisers"]

Graph = Any  # onnx.GraphProto; onnx is imported inside functions


def to_initialisers(graph: Graph) -> None:
    """Constant nodes and Identities of initialisers become initialisers, so that one place holds every constant."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
    known = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    copies = [n for n in graph.node if n.op_type == "Identity" and n.input[0] in known and n.output[0] not in outputs]
    for node in copies:
        _rename_inputs(graph, {node.output[0]: node.input[0]})
        graph.node.remove(node)


def fold_weight_quantisers(graph: Graph) -> int:
    """QuantizeLinear of a float initialiser becomes an integer initialiser, which DequantizeLinear then reads.

    Returns how many there were. Without this the file keeps float weights and is no smaller than the float model's.
    """
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    foldable = [n for n in graph.node if n.op_type == "QuantizeLinear" and all(name in tensors for name in n.input)]
    for node in foldable:
        weight, scale, zero_point = (numpy_helper.to_array(tensors[name]) for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        folded = numpy_helper.from_array(_quantised(weight, scale, zero_point, axis), node.output[0])
        graph.initializer.append(folded)
        graph.node.remove(node)
    _drop_unread(graph)
    return len(foldable)


def deduplicate(graph: Graph) -> None:
    """Keeps the first of equal initialisers (type, shape and bytes), in the order of the graph."""
    from onnx import numpy_helper

    first: dict[tuple[Any, ...], str] = {}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        array = numpy_helper.to_array(tensor)
        key = (tensor.data_type, array.shape, array.tobytes())
        if key in first:
            renamed[tensor.name] = first[key]
        else:
            first[key] = tensor.name
    _rename_inputs(graph, renamed)
    _drop_unread(graph)


def _quantised(weight: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], axis: int) -> NDArray[Any]:
    """What QuantizeLinear of opset 13 computes: saturate(round half to even(x / scale) + zero point)."""
    shape = [-1 if k == axis else 1 for k in range(weight.ndim)] if scale.size > 1 else []
    steps = np.rint(weight / scale.reshape(shape)) + zero_point.reshape(shape).astype(np.float64)
    limits = np.iinfo(zero_point.dtype)
    integers: NDArray[Any] = np.clip(steps, limits.min, limits.max).astype(zero_point.dtype)
    return integers


def _rename_inputs(graph: Graph, renamed: dict[str, str]) -> None:
    for node in graph.node:
        for k, name in enumerate(node.input):
            if name in renamed:
                node.input[k] = renamed[name]


def _drop_unread(graph: Graph) -> None:
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
