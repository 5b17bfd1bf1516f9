"""An out-of-tree backend in one file: the ONNX evaluated as it is written, by ONNX Runtime with no optimisation.

Slow and plain, so that other engines can be compared with it. Used by `MEDGE_PLUGIN_PATH=tests/plugins`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medge.errors import DataError, MissingError, RecipeError, ToolError
from medge.protocols import QuantRules, Session

PACKAGE = "onnxruntime"
PRECISIONS = ("float32",)
QUANT = QuantRules(activations="as-is")


def missing(precision: str) -> str | None:
    """None where onnxruntime can be imported."""
    if precision not in (*PRECISIONS, "int8"):
        raise RecipeError(f"Backend 'reference' has no precision '{precision}'.", fix="Choose one of: float32, int8.")
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return "onnxruntime is not installed. Install it: pip install onnxruntime."
    return None


def versions() -> dict[str, str]:
    """The version of onnxruntime."""
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}


def build(onnx: Path, folder: Path, *, precision: str) -> list[str]:
    """Copies the graph, once it has been loaded."""
    missing(precision)
    _session(onnx)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx, folder / "reference.onnx")
    return ["reference.onnx"]


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Session:
    """A session; `threads` is not used."""
    missing(precision)
    (name,) = files
    if not (folder / name).is_file():
        raise MissingError(f"{folder / name} is not there.", fix="Compile it again.")
    return _Plain(_session(folder / name))


class _Plain:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0]

    def run(self, images: Any) -> tuple[Any, Any]:
        """uint8 [1, height, width, 3] -> logits float32 [1, classes], features float32 [1, dimensions]."""
        if str(images.dtype) != "uint8" or list(images.shape) != self._input.shape:
            raise DataError(f"Takes uint8 {self._input.shape}.", fix="Prepare the image.")
        logits, features = self._session.run(["logits", "features"], {self._input.name: images})
        return logits, features


def _session(path: Path) -> Any:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented) as error:
        raise ToolError(f"ONNX Runtime refused {path.name}: {error}", fix="Check the graph.") from error
