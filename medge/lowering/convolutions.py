"""Convolutions and linear layers whose input and weight are both quantised: their weights and biases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medge.errors import ToolError
from medge.lowering.net import Array, Net, Node, attribute

__all__ = ["Layer", "float_biases", "quantise_biases", "quantised_layers", "weights_for_tensorrt"]

_INT32_ROOM = 2.0**30  # half of int32: what is left is for the sum of products


@dataclass(frozen=True)
class Layer:
    """A Conv or Gemm that reads its input through `data` and its weight through `weight`, both DequantizeLinear."""

    node: Node
    data: Node
    weight: Node
    axis: int  # of the weight's output channels


def quantised_layers(net: Net) -> list[Layer]:
    """Every Conv and Gemm whose data and weight are both dequantised."""
    found = []
    for node in net.of_type("Conv", "Gemm"):
        data, weight = net.producer(node.input[0]), net.producer(node.input[1])
        if not all(n is not None and n.op_type == "DequantizeLinear" for n in (data, weight)):
            continue
        if weight is not None and data is not None and weight.input[0] in net.constants:
            transposed = node.op_type == "Conv" or attribute(node, "transB", 0) == 1
            found.append(Layer(node, data, weight, 0 if transposed else 1))
    return found


def quantise_biases(net: Net) -> None:
    """Float biases of quantised layers become int32 with scale = input scale x weight scale, zero point 0.

    A channel whose weights are so small that its bias would not fit gets a coarser weight scale.
    """
    for layer in quantised_layers(net):
        bias = net.value(layer.node.input[2]) if len(layer.node.input) > 2 and layer.node.input[2] else None
        if bias is None:
            continue
        data_scale = float(net.constants[layer.data.input[1]].reshape(()))
        weight_scale = _widened(net, layer, np.abs(bias).astype(np.float64) / (data_scale * _INT32_ROOM))
        scale = (data_scale * weight_scale.astype(np.float64)).astype(np.float32)
        integers = np.rint(bias / scale.astype(np.float64)).astype(np.int32)
        name = layer.node.input[2]
        inputs = [
            net.constant(f"{name}/integers", integers),
            net.constant(f"{name}/scale", scale),
            net.constant(f"{name}/zero", np.zeros(scale.shape, dtype=np.int32)),
        ]
        layer.node.input[2] = net.add("DequantizeLinear", inputs, f"{name}/dequantized", axis=0)


def float_biases(net: Net) -> None:
    """Biases that are quantised constants become float constants."""
    for node in net.of_type("Conv", "Gemm", "ConvTranspose"):
        source = net.producer(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in net.constants:
            continue
        values = [net.constants[name].astype(np.float64) for name in source.input]
        integers, scale = values[0], values[1]
        zero_point = values[2] if len(values) > 2 else np.zeros(())
        node.input[2] = net.constant(f"{node.input[2]}/float", ((integers - zero_point) * scale).astype(np.float32))


def weights_for_tensorrt(net: Net) -> None:
    """Weights of quantised layers: int8 within [-127, 127], zero point 0, one scale a channel of axis 0.

    Raises ToolError for weights that cannot be written so without changing what was learned.
    """
    for node in net.of_type("DequantizeLinear"):
        integers = net.value(node.input[0])
        if integers is None or integers.ndim < 2:
            continue
        scale, zero_point = net.constants[node.input[1]], net.value(node.input[2]) if len(node.input) > 2 else None
        if integers.dtype != np.int8 or (zero_point is not None and np.any(zero_point != 0)):
            raise ToolError(
                f"{node.name}: TensorRT takes weights as int8 with zero point 0, found {integers.dtype}.",
                fix="Quantise weights symmetrically (NNCF: preset performance).",
            )
        axis = attribute(node, "axis", 1)
        if scale.size > 1 and axis != 0:
            raise ToolError(
                f"{node.name}: TensorRT takes weight scales along axis 0, found axis {axis}.",
                fix="Quantise weights per output channel.",
            )
        channels = integers.shape[0]
        _rewrite_weight(net, node, np.maximum(integers, -127), np.broadcast_to(scale.reshape(-1), (channels,)))


def _widened(net: Net, layer: Layer, least: Array) -> Array:
    """The layer's weight scales [channels], none below `least`; the integers follow where a scale grows."""
    integers, scale = net.constants[layer.weight.input[0]], net.constants[layer.weight.input[1]].reshape(-1)
    channels = integers.shape[layer.axis]
    if scale.size == 1 and channels > 1 and not np.any(least > scale):
        return scale
    old = np.broadcast_to(scale, (channels,)).astype(np.float64)
    new = np.maximum(old, least).astype(np.float32)
    if np.array_equal(new, np.broadcast_to(scale, (channels,))):
        return new
    shape = [-1 if k == layer.axis else 1 for k in range(integers.ndim)]
    requantised = np.rint(integers * (old / new).reshape(shape)).astype(integers.dtype)
    _rewrite_weight(net, layer.weight, requantised, new)
    return new


def _rewrite_weight(net: Net, node: Node, integers: Array, scale: Array) -> None:
    from onnx import helper

    name = node.input[0]
    inputs = [
        net.constant(f"{name}/integers", integers),
        net.constant(f"{name}/scale", np.array(scale, dtype=np.float32)),
        net.constant(f"{name}/zero", np.zeros(scale.shape, dtype=np.int8)),
    ]
    kept = [a for a in node.attribute if a.name != "axis"]
    node.ClearField("attribute")
    node.attribute.extend([*kept, helper.make_attribute("axis", 0)])
    node.ClearField("input")
    node.input.extend(inputs)
