"""What makes a graph static and short without changing a value: constants computed, paddings moved into convolutions.

torch writes `same` padding of TensorFlow's models as a Pad whose amounts are computed from shapes at run time. A
backend that sees that as dynamic neither fuses it nor knows its own output's shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medge.lowering.net import Array, Net, Node, attribute, to_model

__all__ = ["fold_constants", "merge_pads", "normalise_by_rows"]

_KEPT = ("DequantizeLinear", "QuantizeLinear")  # what is quantised stays small and stays visible to the backend


def fold_constants(net: Net) -> None:
    """Nodes of constants, and shapes that are known, become constants, until nothing changes."""
    while True:
        shapes = _static_shapes(net)
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


def normalise_by_rows(net: Net) -> None:
    """Normalisation per colour is done on rows of the NHWC input, before the transposition: the same values.

    A backend that keeps NHWC inside would otherwise broadcast three numbers over each pixel, which takes longer
    than a convolution (measured: a fifth of EfficientNet-Lite0's time in ONNX Runtime).
    """
    chain = _normalisation(net)
    if not chain:
        return
    source, transpose = net.inputs[0], chain[0]
    _, height, width, colours = _static_shapes(net)[source]
    current = net.add("Cast", [source], "rows/float", to=1)
    current = net.add("Reshape", [current, net.constant("rows/shape", np.array([1, height, width * colours]))], "rows")
    for node in chain[2:]:
        values = np.broadcast_to(net.constants[node.input[1]].reshape(-1), (colours,))
        row = net.constant("rows/constant", np.tile(values, width))
        current = net.add(node.op_type, [current, row], "rows/normalised")
    shape = net.constant("rows/image_shape", np.array([1, height, width, colours]))
    current = net.add("Reshape", [current, shape], "rows/image")
    current = net.add("Transpose", [current], "rows/planes", perm=list(attribute(transpose, "perm", [])))
    net.redirect(chain[-1].output[0], current)


def _normalisation(net: Net) -> list[Node]:
    """Transpose to NCHW, Cast to float and arithmetic per colour, as the input's only readers; else nothing."""
    chain: list[Node] = []
    tensor = net.inputs[0]
    while len(net.consumers(tensor)) == 1 and tensor not in net.outputs:
        node = net.consumers(tensor)[0]
        expected = ("Transpose", "Cast")[len(chain)] if len(chain) < 2 else node.op_type
        constant = net.value(node.input[1]) if len(chain) >= 2 and len(node.input) == 2 else None
        if node.op_type != expected or (len(chain) >= 2 and node.op_type not in ("Sub", "Div", "Mul", "Add")):
            break
        if len(chain) >= 2 and (constant is None or constant.shape not in ((), (1, 3, 1, 1), (3, 1, 1))):
            break
        chain.append(node)
        tensor = node.output[0]
    is_float_planes = (
        len(chain) > 2 and attribute(chain[0], "perm", []) == [0, 3, 1, 2] and attribute(chain[1], "to", 0) == 1
    )
    return chain if is_float_planes else []


def _static_shapes(net: Net) -> dict[str, tuple[int, ...]]:
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
