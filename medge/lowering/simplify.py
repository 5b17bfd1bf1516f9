"""What makes a graph static and short without changing a value: constants computed, paddings moved into convolutions.

torch writes `same` padding of TensorFlow's models as a Pad whose amounts are computed from shapes at run time. A
backend that sees that as dynamic neither fuses it nor knows its own output's shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medge.lowering.net import Array, Net, Node, attribute, to_model

__all__ = ["fold_constants", "merge_pads", "static_shapes"]

_KEPT = ("DequantizeLinear", "QuantizeLinear")  # what is quantised stays small and stays visible to the backend


def fold_constants(net: Net) -> None:
    """Nodes of constants, and shapes that are known, become constants, until nothing changes."""
    while True:
        shapes = static_shapes(net)
        folded = False
        for node in list(net.nodes):
            values = _value_of(net, node, shapes)
            if values is not None:
                net.constants.update(zip(node.output, values, strict=True))
                net.nodes.remove(node)
                folded = True
        if not folded:
            return


def merge_pads(net: Net) -> None:
    """Zero padding of height and width that only convolutions read becomes the convolutions' own `pads`."""
    for node in net.of_type("Pad"):
        readers = net.consumers(node.output[0])
        amounts = _spatial_amounts(net, node)
        if amounts is None or not readers or node.output[0] in net.outputs:
            continue
        if any(r.op_type != "Conv" or attribute(r, "auto_pad", b"NOTSET") != b"NOTSET" for r in readers):
            continue
        for reader in readers:
            _add_pads(reader, amounts)
        net.redirect(node.output[0], node.input[0])
        net.nodes.remove(node)


def static_shapes(net: Net) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors whose every dimension is known."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(to_model(net)).graph
    shapes = {}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        dimensions = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(
            d.HasField("dim_value") and d.dim_value > 0 for d in dimensions
        ):
            shapes[value.name] = tuple(d.dim_value for d in dimensions)
    return shapes


def _value_of(net: Net, node: Node, shapes: dict[str, tuple[int, ...]]) -> list[Array] | None:
    """What a node computes where that is already known, else None."""
    from onnx.reference import ReferenceEvaluator

    if node.op_type in _KEPT or any(a.type in (5, 10) for a in node.attribute):  # 5, 10: with a graph inside
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        shape = shapes[node.input[0]]
        return [np.array(shape[attribute(node, "start", 0) : attribute(node, "end", len(shape))], dtype=np.int64)]
    if not all(name == "" or name in net.constants for name in node.input):
        return None
    feeds = {name: net.constants[name] for name in node.input if name}
    values: list[Array] = ReferenceEvaluator(node, opsets=_opsets(net)).run(None, feeds)
    return [np.asarray(value) for value in values]


def _opsets(net: Net) -> dict[str, int]:
    return {opset.domain: opset.version for opset in net.model.opset_import}


def _spatial_amounts(net: Net, node: Node) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of a constant zero padding of [N, C, H, W], None for any other."""
    pads = net.value(node.input[1])
    filling = net.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(())
    if attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
        return None
    if pads is None or pads.size != 8 or filling is None or np.any(filling != 0):
        return None
    before, after = pads[:4], pads[4:]
    if np.any(pads < 0) or np.any(before[:2] != 0) or np.any(after[:2] != 0):
        return None
    return int(before[2]), int(before[3]), int(after[2]), int(after[3])


def _add_pads(conv: Node, amounts: tuple[int, int, int, int]) -> None:
    from onnx import helper

    old: Any = attribute(conv, "pads", [0, 0, 0, 0])
    kept = [a for a in conv.attribute if a.name != "pads"]
    conv.ClearField("attribute")
    conv.attribute.extend([*kept, helper.make_attribute("pads", [a + b for a, b in zip(old, amounts, strict=True)])])
