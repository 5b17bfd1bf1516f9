"""ONNX Runtime on the CPU. The engine file is the ONNX itself, lowered: it stays portable between machines, and the
graph is optimised for the processor at hand when it is loaded.

A quantised graph is fused into integer kernels (QLinearConv) only where activations are uint8, biases are quantised
and every convolution's output has its own Q/DQ pair; without that it runs slower than float.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Type, Union

import numpy as np

from medge.backends import OUTPUTS, QUANTISED, check_image, check_ports, check_precision, present, refuse_batch
from medge.backends._onnx_batch import with_batch_size
from medge.errors import MissingError, ToolError
from medge.protocols import QuantRules, Session

__all__ = ["PACKAGE", "PRECISIONS", "QUANT", "build", "missing", "start", "start_batch", "versions"]

PACKAGE = "onnxruntime"
PRECISIONS = ("float32",)
QUANT = QuantRules(activations="uint8", quantize_bias=True, quantize_conv_outputs=True, rows="quantised")

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


def start_batch(folder: Path, files: Sequence[str], *, precision: str, threads: int, batch_size: int) -> Session:
    """As `start`, for `batch_size` images at once: the same graph with another first dimension. Raises ToolError too
    where the graph is made for one image inside."""
    check_precision("onnxruntime", precision, PRECISIONS)
    (path,) = present(folder, files, [".onnx"])
    _package()
    refusals: Tuple[Type[Exception], ...] = (ToolError, *_refusals())
    try:
        session = _session(with_batch_size(path.read_bytes(), batch_size), threads=threads, name=path.name)
        running = _Running(session, batch_size=batch_size)
        logits, features = running.run(np.zeros(running.shape, np.uint8))
    except refusals as error:
        advice = _AGAIN if precision == QUANTISED else ""
        raise refuse_batch(batch_size, str(getattr(error, "message", error)).splitlines()[0], advice=advice) from error
    if (logits.shape[0], features.shape[0]) != (batch_size, batch_size):
        raise refuse_batch(batch_size, f"it answers with {logits.shape[0]} rows")
    return running


class _Running:
    """A loaded engine; every run returns arrays of its own."""

    def __init__(self, session: Any, *, batch_size: int = 1) -> None:
        inputs = [(p.name, _DTYPES.get(p.type, p.type), p.shape) for p in session.get_inputs()]
        outputs = [p.name for p in session.get_outputs()]
        self._input, self.shape = check_ports(inputs, outputs, batch_size=batch_size)
        self._run = session.run

    def run(self, images: Array) -> Tuple[Array, Array]:
        """uint8 [batch size, height, width, 3] -> logits float32 [batch size, classes], features float32 [batch size,
        dimensions]; the batch size is 1 but for `start_batch`."""
        check_image(images, self.shape)
        logits, features = self._run(OUTPUTS, {self._input: images})
        return logits, features


_DTYPES = {"tensor(uint8)": "uint8"}
_AGAIN = "if an earlier medge compiled it, compile it again (medge compile)"


def _package() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError(f"onnxruntime cannot be imported ({error}).", fix=_INSTALL) from error
    return onnxruntime


def _session(onnx: Union[Path, bytes], *, threads: int, name: str = "") -> Any:
    name = onnx.name if isinstance(onnx, Path) else name
    ort = _package()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the cores from whatever else runs: measured, twice the latency on a busy
    # machine for at most a tenth less on an idle one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors only: they come as exceptions too
    try:
        session = ort.InferenceSession(str(onnx) if isinstance(onnx, Path) else onnx, options, providers=_PROVIDERS)
    except _refusals() as error:
        raise ToolError(f"ONNX Runtime refused {name}: {error}", fix="Check the model with medge's lint.") from error
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
