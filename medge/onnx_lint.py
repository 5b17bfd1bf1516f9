"""What is wrong with an ONNX graph before an engine sees it: medge's border, and the rules of explicit int8.

Engines accept much of this in silence and then compute something else (TensorRT reads uint8 as int8 and clips), so
each rule is checked here, in Python, and names the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medge.errors import ToolError
from medge.lowering.net import Array, Net, Node, attribute, load
from medge.protocols import QuantRules

__all__ = ["OPSET", "lint", "refuse"]

OPSET = 17  # the newest that TensorRT 8.6, 10 and 11 all read
_UINT8, _FLOAT = 2, 1  # onnx.TensorProto.DataType


def lint(path: Path, rules: QuantRules | None = None) -> list[str]:
    """Every problem of the graph in a file, in the graph's order; an empty list is a clean graph.

    The border (opset, ports, no external data) is always checked; the rules of signed int8 where `rules` want it, the
    rules of uint8 where they want that. Raises ToolError where the file is not ONNX at all.
    """
    import onnx

    net = load(path)
    outside = [t.name for t in onnx.load(str(path), load_external_data=False).graph.initializer if t.data_location == 1]
    problems = [f"{name}: its data is outside the file" for name in outside]
    problems += _border(net)
    if rules is not None and rules.activations == "int8":
        problems += _signed_int8(net)
    if rules is not None and rules.activations == "uint8":
        problems += _uint8(net)
    return problems


def _border(net: Net) -> Iterator[str]:
    graph = net.model.graph
    opsets = {o.domain: o.version for o in net.model.opset_import}
    if opsets.get("", opsets.get("ai.onnx")) != OPSET:
        yield f"opset {opsets.get('')}: must be {OPSET}"
    for node in net.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield f"{node.name or node.op_type}: operator of the domain '{node.domain}', unknown to other engines"
    yield from _ports(graph)


def _ports(graph: Any) -> Iterator[str]:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        yield f"{len(inputs)} inputs: must be one, uint8 [1, height, width, 3]"
    for value in inputs:
        shape = _shape(value)
        if (
            value.type.tensor_type.elem_type != _UINT8
            or len(shape) != 4
            or shape[0] != 1
            or shape[3] != 3
            or 0 in shape
        ):
            yield f"input {value.name}: must be uint8 [1, height, width, 3] with fixed sizes, found {shape}"
    names = [value.name for value in graph.output]
    if names != ["logits", "features"]:
        yield f"outputs {', '.join(names)}: must be logits, features"
    for value in graph.output:
        shape = _shape(value)
        if value.type.tensor_type.elem_type != _FLOAT or len(shape) != 2 or shape[0] != 1 or shape[1] < 1:
            yield f"output {value.name}: must be float32 [1, n] with a fixed size, found {shape}"


def _shape(value: Any) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def _signed_int8(net: Net) -> Iterator[str]:
    """TensorRT's rules for explicit quantisation: int8 only, zero point 0, per channel along axis 0 for weights."""
    for node in net.consumers(net.inputs[0]):
        if node.op_type != "Cast":
            yield f"{node.name or node.output[0]}: reads the uint8 image; TensorRT wants a Cast there"
    for node in net.of_type("QuantizeLinear", "DequantizeLinear"):
        name = node.name or node.output[0]
        values = net.value(node.input[0])
        yield from _parameter_problems(net, node, name)
        if values is None:
            yield from _activation_problems(net, node, name)
        elif node.op_type == "QuantizeLinear":
            yield f"{name}: quantises a constant at run time; fold it to int8"
        else:
            yield from _weight_problems(net, node, name, values)
    for node in net.of_type("Conv", "Gemm", "ConvTranspose"):
        source = net.producer(node.input[2]) if len(node.input) > 2 else None
        if source is not None and source.op_type in ("DequantizeLinear", "QuantizeLinear"):
            yield f"{node.name or node.output[0]}: its bias is quantised; it must be float"


def _parameter_problems(net: Net, node: Node, name: str) -> Iterator[str]:
    scale = net.value(node.input[1])
    zero_point = net.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), dtype=np.uint8)
    if scale is None or zero_point is None:
        yield f"{name}: its scale or zero point is not a constant"
        return
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        yield f"{name}: its scales must be finite and positive"
    if zero_point.dtype != np.int8 and not _is_bias(net, node):
        yield f"{name}: its integers are {zero_point.dtype}; TensorRT reads them as int8 and clips"
    if np.any(zero_point != 0):
        yield f"{name}: its zero point is not 0"


def _is_bias(net: Net, node: Node) -> bool:
    """A quantised bias has a message of its own."""
    return any(len(r.input) > 2 and r.input[2] == node.output[0] for r in net.consumers(node.output[0]))


def _activation_problems(net: Net, node: Node, name: str) -> Iterator[str]:
    scale = net.value(node.input[1])
    if scale is not None and scale.size != 1:
        yield f"{name}: an activation has {scale.size} scales; it must have one"
    if node.op_type == "DequantizeLinear":
        source = net.producer(node.input[0])
        if source is None or source.op_type != "QuantizeLinear":
            yield f"{name}: dequantises integers that no QuantizeLinear wrote"


def _weight_problems(net: Net, node: Node, name: str, values: Array) -> Iterator[str]:
    if _is_bias(net, node):
        return
    scale = net.value(node.input[1])
    if scale is not None and (scale.ndim != 1 or scale.size != values.shape[0] or attribute(node, "axis", 1) != 0):
        yield f"{name}: weights must have one scale per channel of axis 0"
    if values.dtype == np.int8 and np.any(values == -128):
        yield f"{name}: weights must lie within [-127, 127]"


def _uint8(net: Net) -> Iterator[str]:
    """What ONNX Runtime needs to fuse integer kernels."""
    for node in net.of_type("QuantizeLinear"):
        scale, zero_point = net.value(node.input[1]), net.value(node.input[2]) if len(node.input) > 2 else None
        name = node.name or node.output[0]
        if zero_point is not None and zero_point.dtype != np.uint8:
            yield f"{name}: its integers are {zero_point.dtype}; ONNX Runtime is fast with uint8 only"
        if scale is None or scale.ndim != 0:
            yield f"{name}: its scale is not a scalar, so that no integer kernel is used"


def refuse(path: Path, rules: QuantRules | None = None) -> None:
    """Raises ToolError with every problem of the graph, if it has any."""
    problems = lint(path, rules)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems[:20])
        raise ToolError(f"{path.name} breaks {len(problems)} rules:\n{listed}", fix="Report this model to medge.")
