"""Small classifiers as ONNX, made without torch: float, or explicitly quantised the way NNCF writes it.

Uint8 [1, size, size, 3] in; logits [1, 2] and features [1, D] out. Ranges are those of the images given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["BLOCKS", "images", "run_plainly", "write_net"]

BLOCKS = ("linear", "relu", "relu6", "silu", "depthwise", "residual", "residual_relu", "squeeze", "maxpool", "padded")
_OPSET = 17


def images(count: int, *, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth random pictures, uint8 [count, size, size, 3]."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 4, 4, 3))
    fine = np.repeat(np.repeat(coarse, -(-size // 4), axis=1), -(-size // 4), axis=2)[:, :size, :size]
    return np.clip(fine + random.normal(0, 12, fine.shape), 0, 255).astype(np.uint8)


def write_net(
    path: Path,
    blocks: Sequence[str],
    *,
    quantised: bool = False,
    signed: bool = False,
    size: int = 16,
    seed: int = 0,
    colours: Sequence[float] = (0.5, 0.4, 0.3),
) -> Path:
    """Writes the net of `blocks` (see BLOCKS). signed: int8 after ReLU too, as for TensorRT; else uint8 there."""
    net = _Writer(images(4, size=size, seed=seed), quantised=quantised, signed=signed, seed=seed)
    x = net.op("Transpose", ["images"], perm=[0, 3, 1, 2])
    x = net.op("Cast", [x], to=TensorProto.FLOAT)
    x = net.op("Sub", [x, net.constant(np.reshape(colours, (1, 3, 1, 1)) * 255)])
    x = net.op("Div", [x, net.constant(np.reshape([0.5, 0.45, 0.55], (1, 3, 1, 1)) * 255)])
    x = net.activation(x)
    x = net.activation(net.op("Relu", [net.conv(x, 3, 8, kernel=3, stride=2)]))
    for block in blocks:
        x = net.block(block, x)
    x = net.op("Flatten", [net.op("GlobalAveragePool", [x])], output="features")
    weight = net.constant(net.random.normal(0, 0.5, (2, 8)))
    net.op("Gemm", [x, weight, net.constant(net.random.normal(0, 0.1, 2))], output="logits", transB=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(net.model(), str(path))
    return path


def run_plainly(path: Path, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits and features of a graph as it is written: ONNX Runtime with every optimisation off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = [session.run(["logits", "features"], {name: picture[None]}) for picture in pictures]
    return np.concatenate([o[0] for o in outputs]), np.concatenate([o[1] for o in outputs])


class _Writer:
    """Writes nodes and computes their values on the images as it goes, for the ranges."""

    def __init__(self, pictures: NDArray[np.uint8], *, quantised: bool, signed: bool, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._quantised, self._signed = quantised, signed
        self._size = pictures.shape[1]
        self._nodes: list[onnx.NodeProto] = []
        self._values: dict[str, list[NDArray]] = {"images": [picture[None] for picture in pictures]}
        self._constants: dict[str, NDArray] = {}

    def constant(self, value: NDArray, dtype: type = np.float32) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = np.asarray(value, dtype=dtype)
        return name

    def op(self, op_type: str, inputs: list[str], *, output: str = "", **attributes: object) -> str:
        output = output or f"{op_type.lower()}_{len(self._nodes)}"
        node = helper.make_node(op_type, inputs, [output], name=output, **attributes)
        evaluator = ReferenceEvaluator(node, opsets={"": _OPSET})
        self._nodes.append(node)
        self._values[output] = [
            evaluator.run(
                None, {n: self._constants[n] if n in self._constants else self._values[n][k] for n in inputs}
            )[0]
            for k in range(len(self._values["images"]))
        ]
        return output

    def activation(self, x: str) -> str:
        """A pair as NNCF writes it: uint8 with zero point 0 for what is never negative, else int8; scalar scale."""
        if not self._quantised:
            return x
        least, most = min(v.min() for v in self._values[x]), max(np.abs(v).max() for v in self._values[x])
        unsigned = least >= 0 and not self._signed
        scale = self.constant(max(most, 1e-3) / (255 if unsigned else 127))
        zero = self.constant(np.zeros(()), np.uint8 if unsigned else np.int8)
        return self.op("DequantizeLinear", [self.op("QuantizeLinear", [x, scale, zero]), scale, zero])

    def conv(self, x: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, group: int = 1) -> str:
        weight = self.random.normal(
            0, (2.0 / (inputs // group * kernel**2)) ** 0.5, (outputs, inputs // group, kernel, kernel)
        )
        bias = self.constant(self.random.normal(0, 0.2, outputs))
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group}
        return self.op("Conv", [x, self.weight(weight), bias], **attributes)

    def weight(self, value: NDArray) -> str:
        if not self._quantised:
            return self.constant(value)
        scale = np.abs(value).reshape(len(value), -1).max(axis=1) / 127
        integers = self.constant(np.rint(value / scale.reshape(-1, 1, 1, 1)), np.int8)
        zero = self.constant(np.zeros(len(value)), np.int8)
        return self.op("DequantizeLinear", [integers, self.constant(scale), zero], axis=0)

    def block(self, kind: str, x: str) -> str:
        if kind == "depthwise":
            return self.activation(self.op("Relu", [self.conv(x, 8, 8, kernel=3, group=8)]))
        if kind == "maxpool":
            return self.op("MaxPool", [x], kernel_shape=[2, 2], strides=[1, 1])
        if kind == "padded":  # as torch writes TensorFlow's `same`: a Pad whose amounts are computed
            amounts = self.op("Concat", [self.constant(np.zeros(4), np.int64), self._ends(x)], axis=0)
            padded = self.op("Pad", [x, amounts, self.constant(np.zeros(()))])
            return self.activation(self.op("Relu", [self.conv(padded, 8, 8, kernel=1)]))
        if kind == "squeeze":
            return self._squeeze(x)
        y = self.conv(x, 8, 8, kernel=3)
        if kind in ("residual", "residual_relu"):
            y = self.op("Add", [self.activation(y), x])
        if kind in ("relu", "residual_relu"):
            y = self.op("Relu", [y])
        if kind == "relu6":
            y = self.op("Clip", [y, self.constant(np.zeros(())), self.constant(np.array(6.0))])
        if kind == "silu":
            y = self.op("Mul", [y, self.op("Sigmoid", [y])])
        return self.activation(y)

    def _ends(self, x: str) -> str:
        """[0, 0, 1, 1], computed from a shape at run time."""
        shape = self.op("Shape", [x])
        ones = self.op("Div", [shape, shape])
        return self.op("Mul", [ones, self.constant(np.array([0, 0, 1, 1]), np.int64)])

    def _squeeze(self, x: str) -> str:
        """Squeeze and excitation, its convolutions in float."""
        pooled = self.op("ReduceMean", [x], axes=[2, 3], keepdims=1)
        weight = self.constant(self.random.normal(0, 0.5, (8, 8, 1, 1)))
        gate = self.op("Sigmoid", [self.op("Conv", [pooled, weight, self.constant(np.zeros(8))])])
        return self.activation(self.op("Mul", [x, self.activation(gate)]))

    def model(self) -> onnx.ModelProto:
        features = self._values["features"][0].shape[1]
        size = [1, self._size, self._size, 3]
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, size)],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2]),
                helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, features]),
            ],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
