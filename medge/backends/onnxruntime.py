"""ONNX Runtime on the CPU. The engine file is the ONNX itself, lowered: it stays portable between machines, and the
graph is optimised for the processor at hand when it is loaded.

A quantised graph is fused into integer kernels (QLinearConv) only where activations are uint8, biases are quantised
and every convolution's output has its own Q/DQ pair; without that it runs slower than float.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type

from medge.backends import OUTPUTS, check_image, check_ports, check_precision, present
from medge.errors import MissingError, ToolError
from medge.protocols import QuantRules, Session

__all__ = ["PACKAGE", "PRECISIONS", "QUANT", "build", "missing", "start", "versions"]

PACKAGE = "onnxruntime"
PRECISIONS = ("float32",)
QUANT = QuantRules(activations="uint8", quantize_bias=True, quantize_conv_outputs=True)

_PROVIDERS = ["CPUExecutionProvider"]
_INSTALL = "Install it: pip install onnxruntime."

Array = Any


def missing(precision: str) -> Optional[str]:
    """None where onnxruntime can be imported; its CPU provider is part of every build."""
    check_precision("onnxruntime", precision, PRECISIONS)
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error}). {_INSTALL}"
    return None


def versions() -> Dict[str, str]:
    """The version of onnxruntime. Raises MissingError."""
    return {"onnxruntime": _package().__version__}


def build(onnx: Path, folder: Path, *, precision: str) -> List[str]:
    """Copies the ONNX to `folder/model.onnx` once ONNX Runtime has taken it. Raises MissingError, ToolError."""
    check_precision("onnxruntime", precision, PRECISIONS)
    _session(onnx, threads=1)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx, folder / "model.onnx")
    return ["model.onnx"]


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Session:
    """A session on the CPU with `threads` threads. Raises MissingError, and ToolError where another provider than
    the one asked for would run the graph."""
    check_precision("onnxruntime", precision, PRECISIONS)
    (path,) = present(folder, files, [".onnx"])
    return _Running(_session(path, threads=threads))


class _Running:
    """A loaded engine; every run returns arrays of its own."""

    def __init__(self, session: Any) -> None:
        inputs = [(p.name, _DTYPES.get(p.type, p.type), p.shape) for p in session.get_inputs()]
        self._input, self._shape = check_ports(inputs, [p.name for p in session.get_outputs()])
        self._run = session.run

    def run(self, images: Array) -> Tuple[Array, Array]:
        """uint8 [1, height, width, 3] -> logits float32 [1, classes], features float32 [1, dimensions]."""
        check_image(images, self._shape)
        logits, features = self._run(OUTPUTS, {self._input: images})
        return logits, features


_DTYPES = {"tensor(uint8)": "uint8"}


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"onnxruntime cannot be imported ({error}).", fix=_INSTALL) from error
    return onnxruntime


def _session(onnx: Path, *, threads: int) -> Any:
    ort = _package()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the cores from whatever else runs: measured, twice the latency on a busy
    # machine for at most a tenth less on an idle one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: they come as exceptions too
    try:
        session = ort.InferenceSession(str(onnx), options, providers=_PROVIDERS)
    except _refusals() as error:
        raise ToolError(
            f"ONNX Runtime refused {onnx.name}: {error}", fix="Check the model with medge's lint."
        ) from error
    if session.get_providers() != _PROVIDERS:
        raise ToolError(
            f"ONNX Runtime would run on {session.get_providers()}, not {_PROVIDERS}.",
            fix="Install the plain onnxruntime package, or report this.",
        )
    return session


def _refusals() -> Tuple[Type[Exception], ...]:
    """What ONNX Runtime raises: classes of its own (Fail, InvalidGraph, ...) with no common base but Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, ValueError, *own)
