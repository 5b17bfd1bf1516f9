"""How long an engine would take at least on a machine that is not here: a roofline from its graph and a table.

For each layer the longer of operations / peak and bytes / bandwidth (Williams, Waterman and Patterson 2009); layers add
up. Elementwise layers are counted as fused into the one before, as every engine here does. It is a lower bound of what
kernels reach, and no measurement: every figure carries ESTIMATE, and nothing is ranked by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge.errors import ToolError

if TYPE_CHECKING:
    from medge.lowering.net import Net

__all__ = ["ESTIMATE", "MACHINES", "Layer", "Machine", "estimate", "layers_of", "report"]

Shapes = Mapping[str, Sequence[int]]

ESTIMATE = "estimate, not measured"
_FLOAT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_WEIGHTED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_MOVING = ("GlobalAveragePool", "AveragePool", "MaxPool", "GlobalMaxPool", "ReduceMean", "Concat")


@dataclass(frozen=True)
class Machine:
    """Dense peaks in operations per second by precision (a multiply-add is two), memory bandwidth in bytes per second.

    launch_seconds: what starting a layer costs; None where nobody has said.
    """

    name: str
    peak: Mapping[str, float]
    bandwidth: float
    source: str
    launch_seconds: float | None = None


@dataclass(frozen=True)
class Layer:
    """One layer of a graph. activations, weights: how many values it reads and writes. quantised: between Q and DQ."""

    name: str
    kind: str
    operations: float
    activations: float
    weights: float
    quantised: bool


_ORIN = "NVIDIA's data sheets: dense rates of the GPU alone, without DLA; memory by its data sheet"
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("jetson-orin-nano", {"int8": 20e12, "float16": 10e12}, 68e9, f"Orin Nano 8 GB. {_ORIN}"),
        Machine("jetson-orin-nano-super", {"int8": 33e12, "float16": 17e12}, 102e9, f"Orin Nano 8 GB Super. {_ORIN}"),
        Machine("jetson-agx-orin-64", {"int8": 85e12, "float16": 43e12}, 205e9, f"AGX Orin 64 GB. {_ORIN}"),
    )
}


def layers_of(onnx_path: Path) -> list[Layer]:
    """What a graph computes and moves for one image, by ONNX's own shape inference after its constants are folded.

    Raises ToolError for a graph whose shapes are not known.
    """
    from medge.lowering import simplify
    from medge.lowering.net import load

    net = load(onnx_path)
    simplify.fold_constants(net)
    simplify.merge_pads(net)
    shapes = {**simplify.static_shapes(net), **{name: array.shape for name, array in net.constants.items()}}
    constant = _constants(net)
    dequantised = {node.output[0] for node in net.of_type("DequantizeLinear")}
    layers = [_layer(node, shapes, constant, dequantised) for node in net.nodes]
    found = [layer for layer in layers if layer is not None]
    if not any(layer.kind in _WEIGHTED for layer in found):
        raise ToolError(f"{onnx_path.name} has no layer with weights to estimate by.", fix="Give a classifier's graph.")
    return found


def _layer(node: Any, shapes: Shapes, constant: set[str], dequantised: set[str]) -> Layer | None:
    """None of a node that costs nothing by itself: it is fused into another, or has only constants."""
    if node.op_type not in (*_WEIGHTED, *_MOVING, "Add") or node.output[0] in constant:
        return None
    unknown = [name for name in (*node.input, node.output[0]) if name and name not in shapes]
    if unknown:
        raise ToolError(f"The shape of '{unknown[0]}' is not known.", fix="Export the graph with a fixed image size.")
    moved = [name for name in node.input if name and name not in constant]
    weights = sum(_count(shapes[name]) for name in node.input if name in constant)
    read, out = sum(_count(shapes[name]) for name in moved), _count(shapes[node.output[0]])
    quantised = any(name in dequantised for name in moved)
    name = node.name or node.output[0]
    if node.op_type in _WEIGHTED:
        return Layer(name, node.op_type, 2.0 * _multiplications(node, shapes), read + out, weights, quantised)
    if node.op_type in _MOVING:
        return Layer(name, node.op_type, float(read), read + out, 0.0, quantised)
    if len(moved) == 2 and shapes[moved[0]] == shapes[moved[1]]:
        # Fused into the layer before it, which then reads the other branch as well.
        return Layer(name, "Add", float(out), float(out), 0.0, quantised)
    return None


def estimate(layers: list[Layer], machine: Machine, precision: str) -> dict[str, Any]:
    """`estimate_ms` on a machine, with the share of it in layers that wait for memory.

    precision: of layers that are not quantised; quantised ones run as int8. Raises KeyError for a precision that the
    machine has no peak for.
    """
    seconds, waiting, operations, moved = 0.0, 0.0, 0.0, 0.0
    for layer in layers:
        kind = "int8" if layer.quantised else precision
        size = 1 if layer.quantised else _FLOAT_BYTES[precision]
        bytes_moved = (layer.activations + layer.weights) * size
        compute, memory = layer.operations / machine.peak[kind], bytes_moved / machine.bandwidth
        seconds += max(compute, memory) + (machine.launch_seconds or 0.0)
        waiting += memory if memory > compute else 0.0
        operations, moved = operations + layer.operations, moved + bytes_moved
    return {
        "what": ESTIMATE,
        "estimate_ms": round(seconds * 1000, 6),
        "memory_bound_share": round(waiting / seconds, 3) if seconds else None,
        "layers": len(layers),
        "operations": operations,
        "bytes": moved,
    }


def report(
    graphs: Mapping[str, Path], names: tuple[str, ...], *, host: Machine | None, measured: Mapping[str, Any]
) -> dict[str, Any]:
    """`estimates` of latency.json. graphs: ONNX by variant. measured: `engines` of latency.json, for the error of the
    same method on this machine, `host`: how many times as long each engine really took here."""
    layers = {variant: layers_of(path) for variant, path in sorted(graphs.items())}
    machines = {}
    for name in names:
        machine = MACHINES[name]
        machines[name] = {
            "what": ESTIMATE,
            "source": machine.source,
            "launch_seconds": machine.launch_seconds,
            "variants": {
                variant: {"precision": _precision(found), **estimate(found, machine, "float16")}
                for variant, found in layers.items()
            },
        }
    return {"what": ESTIMATE, "machines": machines, "error": _error(layers, host, measured)}


def _error(layers: Mapping[str, list[Layer]], host: Machine | None, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Measured over estimated, here, for every engine whose precision this machine's peak was measured in."""
    if host is None:
        return {
            "measured_over_estimate": {},
            "reason": "the engines were measured on another machine, and medge measures peaks only of this one",
        }
    ratios = {}
    for name, one in measured.items():
        variant, target = name.split("/")
        precision = target.rsplit("-", 1)[1]
        known = precision in host.peak and variant in layers
        if known and (precision == "int8") == (_precision(layers[variant]) == "int8"):
            made = estimate(layers[variant], host, "float32")["estimate_ms"]
            ratios[name] = round(one["p50_ms"] / made, 2) if made else None
    return {
        "machine": host.name,
        "peak_gops": {key: round(value / 1e9, 1) for key, value in host.peak.items()},
        "bandwidth_gb_s": round(host.bandwidth / 1e9, 1),
        "source": host.source,
        "measured_over_estimate": ratios,
        "reason": None if ratios else "no measured engine has a precision whose peak was measured",
    }


def _precision(layers: list[Layer]) -> str:
    return "int8" if any(layer.quantised and layer.kind in _WEIGHTED for layer in layers) else "float16"


def _constants(net: Net) -> set[str]:
    """Names of values that do not depend on the image: constants, and what is made of them alone (weights after
    DequantizeLinear)."""
    found = set(net.constants)
    for node in net.nodes:
        if all(name in found or not name for name in node.input):
            found.update(node.output)
    return found


def _multiplications(node: Any, shapes: Shapes) -> float:
    """Multiply-adds: for each output of a convolution, its kernel x input channels of its group; of a product of
    matrices, the inner dimension for each output."""
    out = shapes[node.output[0]]
    if node.op_type in ("Conv", "ConvTranspose"):
        weight = shapes[node.input[1]]
        if node.op_type == "ConvTranspose":
            return float(_count(shapes[node.input[0]]) * _count(weight[1:]))
        return float(_count(out) * _count(weight[1:]))
    inner = shapes[node.input[0]][-1]
    if node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute):
        inner = shapes[node.input[0]][0]
    return float(_count(out) * inner)


def _count(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
