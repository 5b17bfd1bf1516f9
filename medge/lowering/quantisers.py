"""QuantizeLinear/DequantizeLinear pairs of activations, read and rewritten to another integer type.

A pair maps x to scale * (saturate(round(x / scale) + zero point) - zero point): ONNX QuantizeLinear, opset 13.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medge.errors import ToolError
from medge.lowering.net import Net, Node

__all__ = ["Pair", "insert_pair", "pairs", "to_int8", "to_uint8", "wrap"]

_NONNEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs")


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear of an activation, the DequantizeLinear nodes that read it, and what they agree on."""

    quantize: Node
    dequantize: tuple[Node, ...]
    scale: np.float32
    zero_point: int
    dtype: np.dtype[np.generic]

    @property
    def low(self) -> float:
        """The least value that survives the pair."""
        return float(self.scale) * (int(np.iinfo(self.dtype.name).min) - self.zero_point)

    @property
    def high(self) -> float:
        """The largest value that survives the pair."""
        return float(self.scale) * (int(np.iinfo(self.dtype.name).max) - self.zero_point)


def pairs(net: Net) -> list[Pair]:
    """Every pair in the graph. Raises ToolError for one that is per channel, or whose halves disagree."""
    return [_pair(net, node) for node in net.of_type("QuantizeLinear")]


def to_uint8(net: Net) -> None:
    """Pairs become uint8. What follows a ReLU gets zero point 0 and makes it redundant, so that the ReLU goes.

    Signed int8 with zero point z becomes uint8 with zero point z + 128, which is the same function, except after
    something that is never negative: there the 128 steps below zero are given to the values that occur.
    """
    for pair in pairs(net):
        if pair.dtype == np.int8 and pair.zero_point == 0 and _is_nonnegative(net, pair.quantize.input[0]):
            pair = _set(net, pair, scale=pair.high / 255, zero_point=0, dtype=np.dtype(np.uint8))
        elif pair.dtype == np.int8:
            pair = _set(net, pair, scale=pair.scale, zero_point=pair.zero_point + 128, dtype=np.dtype(np.uint8))
        _absorb_clip(net, pair)


def to_int8(net: Net) -> None:
    """Pairs become int8 with zero point 0 and a scale that covers the same range: 255/127 of it for unsigned ones."""
    for pair in pairs(net):
        if pair.dtype == np.uint8 and pair.zero_point == 128:
            _set(net, pair, scale=pair.scale, zero_point=0, dtype=np.dtype(np.int8))
        elif pair.dtype != np.int8 or pair.zero_point != 0:
            _set(net, pair, scale=max(-pair.low, pair.high) / 127, zero_point=0, dtype=np.dtype(np.int8))


def insert_pair(net: Net, tensor: str, *, low: float, high: float) -> None:
    """Everything that reads `tensor` reads it through a new uint8 pair for values from `low` to `high`."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255, np.finfo(np.float32).tiny * 255))
    zero_point = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    parameters = [
        net.constant(f"{tensor}/scale", np.array(scale)),
        net.constant(f"{tensor}/zero", np.array(zero_point)),
    ]
    quantize = wrap(net, tensor, parameters)
    _absorb_clip(net, _pair(net, quantize))


def wrap(net: Net, tensor: str, parameters: list[str]) -> Node:
    """Everything that reads `tensor` reads it through a new pair with these constants; returns its QuantizeLinear."""
    readers = net.consumers(tensor)
    quantized = net.add("QuantizeLinear", [tensor, *parameters], f"{tensor}/quantized")
    dequantized = net.add("DequantizeLinear", [quantized, *parameters], f"{tensor}/dequantized")
    for reader in readers:
        reader.input[:] = [dequantized if name == tensor else name for name in reader.input]
    return net.producer(quantized)


def _pair(net: Net, quantize: Node) -> Pair:
    scale, zero_point = _parameters(net, quantize)
    readers = net.consumers(quantize.output[0])
    for reader in readers:
        if reader.op_type != "DequantizeLinear" or _parameters(net, reader) != (scale, zero_point):
            raise ToolError(
                f"{quantize.name}: {reader.op_type} {reader.name} reads the integers that it writes.",
                fix="Quantise with pairs of QuantizeLinear and DequantizeLinear that share scale and zero point.",
            )
    dtype = net.constants[quantize.input[2]].dtype
    return Pair(quantize, tuple(readers), np.float32(scale), zero_point, dtype)


def _parameters(net: Net, node: Node) -> tuple[float, int]:
    scale = net.value(node.input[1])
    zero_point = net.value(node.input[2]) if len(node.input) > 2 else None
    if scale is None or zero_point is None:
        raise ToolError(
            f"{node.name}: its scale or zero point is computed, or left out.",
            fix="Export the model with constant quantisation parameters.",
        )
    if scale.size != 1 or zero_point.size != 1:
        raise ToolError(
            f"{node.name}: an activation is quantised per channel ({scale.size} scales), which only OpenVINO takes.",
            fix="Quantise activations per tensor (NNCF: QuantizationParameters(per_channel=False)).",
        )
    return float(scale.reshape(())), int(zero_point.reshape(()))


def _set(net: Net, pair: Pair, *, scale: float | np.float32, zero_point: int, dtype: np.dtype[np.generic]) -> Pair:
    name = pair.quantize.output[0]
    inputs = [
        net.constant(f"{name}/scale", np.array(scale, dtype=np.float32)),
        net.constant(f"{name}/zero", np.array(zero_point, dtype=dtype)),
    ]
    for node in (pair.quantize, *pair.dequantize):
        node.input[1], node.input[2] = inputs
    return Pair(pair.quantize, pair.dequantize, np.float32(scale), zero_point, dtype)


def _is_nonnegative(net: Net, tensor: str) -> bool:
    node = net.producer(tensor)
    if node is None:
        return False
    if node.op_type in ("MaxPool", "AveragePool", "GlobalAveragePool"):
        return _is_nonnegative(net, node.input[0])
    return node.op_type in _NONNEGATIVE or (node.op_type == "Clip" and _clip_range(net, node)[0] >= 0)


def _absorb_clip(net: Net, pair: Pair) -> None:
    """Removes a ReLU or Clip(0, h) in front of a pair that saturates at 0 and no later than at h: the same values."""
    clip = net.producer(pair.quantize.input[0])
    if clip is None or clip.op_type not in ("Relu", "Clip") or pair.dtype != np.uint8 or pair.zero_point != 0:
        return
    low, high = (0.0, np.inf) if clip.op_type == "Relu" else _clip_range(net, clip)
    if low != 0.0 or high <= 0.0:
        return
    if pair.high > high:
        pair = _set(net, pair, scale=high / 255, zero_point=0, dtype=pair.dtype)
    pair.quantize.input[0] = clip.input[0]


def _clip_range(net: Net, clip: Node) -> tuple[float, float]:
    def bound(position: int, default: float) -> float:
        if len(clip.input) <= position or not clip.input[position]:
            return default
        value = net.value(clip.input[position])
        return default if value is None else float(value.reshape(()))

    return bound(1, -np.inf), bound(2, np.inf)
