"""Rewrites an explicitly quantised ONNX graph (Q/DQ, as NNCF writes it) to what a backend declares as data.

One Q/DQ graph is not right for every engine: ONNX Runtime fuses integer kernels only for uint8 activations, int32
biases and a pair at every convolution's output; TensorRT reads int8 with zero point 0 only; OpenVINO takes NNCF's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medge.errors import ToolError
from medge.lowering import convolutions, image, outputs, quantisers, simplify
from medge.lowering.net import Net, load, save
from medge.protocols import QuantRules

__all__ = ["lower"]


def lower(
    source: Path, target: Path, rules: QuantRules, *, calibration_images: Iterable[NDArray[Any]] | None = None
) -> None:
    """Writes `source`, an ONNX file, to `target` as `rules` want it. A float graph is made static, and the steps before
    its first convolution become those of `rules.rows`; nothing else of it changes.

    calibration_images: uint8 [height, width, 3], of training images; needed where `rules` want ranges that the graph
    does not hold. The file is written aside and renamed, and the same input gives the same bytes. Raises ToolError
    for a graph that cannot be written so, DataError where images are needed and missing.
    """
    net = load(source)
    simplify.fold_constants(net)
    simplify.merge_pads(net)
    quantised = bool(net.of_type("QuantizeLinear"))
    if rules.rows not in ("never", "quantised", "always"):
        raise ToolError(f"No rows '{rules.rows}'.", fix="Choose one of: never, quantised, always.")
    if rules.rows == "always" or (rules.rows == "quantised" and quantised):
        image.cast_first(net)
        image.by_rows(net)
    if rules.activations == "uint8" and quantised:
        _for_uint8_kernels(net, rules, calibration_images)
    elif rules.activations == "int8":
        _for_signed_int8(net)
    elif rules.activations not in ("as-is", "uint8"):
        raise ToolError(f"No activations '{rules.activations}'.", fix="Choose one of: as-is, uint8, int8.")
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save(net, aside)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def _for_uint8_kernels(net: Net, rules: QuantRules, images: Iterable[NDArray[Any]] | None) -> None:
    """What ONNX Runtime fuses to QLinearConv and its like."""
    outputs.repeat_pairs(net)
    quantisers.to_uint8(net)
    if rules.quantize_conv_outputs:
        outputs.quantise_outputs(net, images)
    if rules.quantize_bias:
        convolutions.quantise_biases(net)


def _for_signed_int8(net: Net) -> None:
    """What TensorRT 8.6, 10 and 11 read alike."""
    image.cast_first(net)
    quantisers.to_int8(net)
    convolutions.weights_for_tensorrt(net)
    convolutions.float_biases(net)
