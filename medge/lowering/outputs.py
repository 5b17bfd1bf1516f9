"""Pairs where NNCF put none but an engine needs one to stay in integers; their ranges are measured on images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medge.errors import DataError
from medge.lowering.convolutions import quantised_layers
from medge.lowering.net import Array, Net, Node, attribute, to_model
from medge.lowering.quantisers import insert_pair, wrap

__all__ = ["quantise_outputs", "repeat_pairs"]

_PASSING = ("MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def repeat_pairs(net: Net) -> None:
    """What only moves or selects dequantised values gets their pair again, so that the layer behind it sees one.

    The values are on the pair's grid already: nothing changes.
    """
    for node in net.of_type(*_PASSING):
        source = net.producer(node.input[0])
        readers = net.consumers(node.output[0])
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] in net.constants:
            continue
        if any(reader.op_type in ("Conv", "Gemm") for reader in readers):
            wrap(net, node.output[0], list(source.input[1:]))


def quantise_outputs(net: Net, images: Iterable[Array] | None) -> None:
    """A uint8 pair at the output of every quantised convolution (behind its ReLU) that has none, and of the sigmoids
    and squeeze poolings that then read quantised values. Ranges are those on `images`, uint8 [height, width, 3].

    A convolution whose output is a graph output's only source stays as it is, and so does one that a layer in float
    reads: somebody left that layer in float, mostly for the sake of its input, and eight bits there would undo it; the
    convolution runs in float then. Raises DataError where images are needed and there are none.
    """
    layers = [layer.node for layer in quantised_layers(net)]
    in_integers = {node.name for node in layers}
    outputs = [_fused_output(net, node) for node in layers if node.op_type == "Conv"]
    bare = [name for name in outputs if not _is_quantised(net, name) and not _feeds_float(net, name, in_integers)]
    pooled = [node.output[0] for node in _squeezes(net)]
    for name, (low, high) in _ranges(net, [*bare, *pooled], images).items():
        insert_pair(net, name, low=low, high=high)
    for node in net.of_type("Sigmoid"):
        source = net.producer(node.input[0])
        if source is not None and source.op_type == "DequantizeLinear" and not _is_quantised(net, node.output[0]):
            insert_pair(net, node.output[0], low=0.0, high=1.0)


def _fused_output(net: Net, convolution: Node) -> str:
    """The tensor that a convolution writes once its ReLU is fused into it."""
    name: str = convolution.output[0]
    readers = net.consumers(name)
    if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and name not in net.outputs:
        return str(readers[0].output[0])
    return name


def _feeds_float(net: Net, tensor: str, in_integers: set[str]) -> bool:
    """Whether a layer with weights in float reads a tensor, itself or past what only moves its values."""
    readers = net.consumers(tensor)
    if any(reader.op_type in ("Conv", "Gemm") and reader.name not in in_integers for reader in readers):
        return True
    passing = [reader for reader in readers if reader.op_type in (*_PASSING, "Pad", "Clip", "Relu")]
    return any(_feeds_float(net, reader.output[0], in_integers) for reader in passing)


def _is_quantised(net: Net, tensor: str) -> bool:
    """Whether everything that reads a tensor is a QuantizeLinear, or nothing does."""
    return all(reader.op_type == "QuantizeLinear" for reader in net.consumers(tensor))


def _squeezes(net: Net) -> list[Node]:
    """Means over height and width of quantised values that only convolutions read (squeeze and excitation), written
    as GlobalAveragePool, for which there is an integer kernel. The pooling in front of the head stays in float."""
    found = []
    for node in net.of_type("ReduceMean", "GlobalAveragePool"):
        source = net.producer(node.input[0])
        readers = net.consumers(node.output[0])
        if source is None or source.op_type != "DequantizeLinear" or not readers:
            continue
        if any(reader.op_type != "Conv" for reader in readers) or not _is_global(node):
            continue
        node.op_type = "GlobalAveragePool"
        node.ClearField("attribute")
        found.append(node)
    return found


def _is_global(node: Node) -> bool:
    if node.op_type == "GlobalAveragePool":
        return True
    return sorted(attribute(node, "axes", ())) in ([2, 3], [-2, -1]) and attribute(node, "keepdims", 1) == 1


def _ranges(net: Net, tensors: list[str], images: Iterable[Array] | None) -> dict[str, tuple[float, float]]:
    """Least and largest value of each tensor over the images."""
    import onnx
    import onnxruntime

    if not tensors:
        return {}
    model = to_model(net)
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors]
    model.graph.output.extend(outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    low, high = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    for image in images if images is not None else ():
        values = session.run(tensors, {net.inputs[0]: image[None]})
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
    if not np.isfinite([low, high]).all():
        raise DataError(
            f"{len(tensors)} tensors (first {tensors[0]}) need a range, and no image gave them a finite one.",
            fix="Give calibration images.",
        )
    return {name: (float(a), float(b)) for name, a, b in zip(tensors, low, high, strict=True)}
