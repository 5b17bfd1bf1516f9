"""The only way out of torch: a classifier becomes an ONNX file, the same bytes every time.

Opset 17, batch 1, input `images` uint8 [1, height, width, 3], outputs `logits` float32 [1, classes] and `features`
float32 [1, dimensions]. Quantised models carry explicit QuantizeLinear/DequantizeLinear pairs; quantised weights are
int8 initialisers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from medge.errors import ToolError
from medge.fake_quantize import imported_nncf
from medge.fold import fold_batch_norms
from medge.quiet import quiet

__all__ = ["OPSET", "is_quantised", "onnx_from_torch"]

OPSET = 17  # the newest that TensorRT 8.6, 10 and 11 all read


def onnx_from_torch(model: nn.Module, path: Path, *, size: tuple[int, int]) -> None:
    """Writes `model` (uint8 NHWC -> logits, features) for images of `size` (height, width); it is not changed.

    Raises ToolError where the exporter or the checker refuses the model. The file is written aside and renamed.
    """
    example = torch.zeros(1, *size, 3, dtype=torch.uint8)
    plain = _stripped(model, example) if is_quantised(model) else fold_batch_norms(model, example)[0]
    # The exporter prints the whole graph from C++ where it refuses an operator, whatever its verbosity.
    silent = mock.patch.object(torch._C, "_jit_onnx_log", return_value=None)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), quiet(), silent:
        exported = Path(folder) / "exported.onnx"
        try:
            torch.onnx.export(
                plain.eval(),
                (example,),
                exported,
                opset_version=OPSET,
                dynamo=False,  # the dynamo exporter refuses fake-quantize
                input_names=["images"],
                output_names=["logits", "features"],
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise ToolError(
                f"torch cannot write this model as ONNX: {str(error).strip().splitlines()[0]}",
                fix="Choose another architecture, or report the operator that it names.",
            ) from error
        data = _finished(exported.read_bytes())
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def is_quantised(model: nn.Module) -> bool:
    """Whether NNCF's quantisers sit in the model."""
    return any(type(module).__module__.startswith("nncf.torch.quantization") for module in model.modules())


def _stripped(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy with torch's own fake-quantize in place of NNCF's quantisers, which the exporter knows."""
    nncf = imported_nncf()
    with quiet():
        stripped: nn.Module = nncf.strip(model.eval(), do_copy=True, example_input=example)
    return stripped


def _finished(exported: bytes) -> bytes:
    """The exporter's graph with int8 weights, each constant once, checked, and without traces of how it was made."""
    import onnx

    from medge import onnx_constants

    graph = onnx.load_model_from_string(exported)
    onnx_constants.to_initialisers(graph.graph)
    onnx_constants.fold_weight_quantisers(graph.graph)
    onnx_constants.deduplicate(graph.graph)
    graph.producer_name, graph.producer_version = "medge", ""
    for node in graph.graph.node:
        node.ClearField("doc_string")
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ToolError(
            f"The exported graph is not valid ONNX: {str(error).splitlines()[0]}", fix="Report this model to medge."
        ) from error
    data: bytes = graph.SerializeToString(deterministic=True)
    return data
