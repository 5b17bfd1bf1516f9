"""OpenVINO on the CPU. The engine is OpenVINO's own pair of files, model.xml and model.bin.

The precision in which a float graph runs is a choice at start, not in the files, and OpenVINO falls back in silence
(float16 asked, bfloat16 used): so it is always set, read back and compared.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from medge.backends import QUANTISED, check_image, check_ports, check_precision, present, refuse_batch
from medge.errors import MissingError, ToolError
from medge.protocols import QuantRules, Session

__all__ = [
    "MIXED",
    "PACKAGE",
    "PRECISIONS",
    "QUANT",
    "START_CACHE",
    "build",
    "cache_pin",
    "missing",
    "start",
    "start_batch",
    "versions",
]

PACKAGE = "openvino"
PRECISIONS = ("float32", "bfloat16", "float16")
MIXED = ("int8_bfloat16", "int8_float16")
QUANT = QuantRules(activations="as-is", rows="always")
START_CACHE = (
    "cache"  # a folder beside the engine's files: where it is there, compiled blobs are read and written there
)

# What a quantised graph leaves in float runs in float32 unless asked for: with bfloat16 an EfficientNet-Lite0 took 1.04
# of the time on an AMD EPYC, and less on an Intel Xeon with AMX (docs/measured.md); B0's logits moved by a third.
_FLOATS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", QUANTISED: "INT8"}
_INSTALL = "Install it: pip install openvino."
_KNOWN = (*PRECISIONS, *MIXED)

Array = Any


def missing(precision: str) -> Optional[str]:
    """None where openvino can be imported and the processor has the precision in hardware."""
    check_precision("openvino", precision, _KNOWN)
    try:
        core = _package().Core()
    except MissingError as error:
        return f"{error.message} {error.fix}"
    has = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    lacking = [part for part in precision.split("_") if _CAPABILITIES[part] not in has]
    if not lacking:
        return None
    seen = ", ".join(has)
    return f"This processor has no {lacking[-1]} (OpenVINO sees {seen}). Build on a machine that has, or drop it."


def versions() -> Dict[str, str]:
    """The version of openvino. Raises MissingError."""
    return {"openvino": _package().__version__}


def cache_pin() -> Dict[str, str]:
    """What a compiled blob holds for, besides its engine and the processor. Raises MissingError."""
    return versions()


def build(onnx: Path, folder: Path, *, precision: str) -> List[str]:
    """Converts the ONNX to `folder/model.xml` and `model.bin`, the same bytes every time. Weights are stored in
    float16 only for the precision float16. Raises MissingError, ToolError."""
    check_precision("openvino", precision, _KNOWN)
    ov = _package()
    from openvino.tools.ovc.error import Error as refusal

    try:
        # convert_model, not Core.read_model: only it fuses Minimum/Maximum to ReLU6 (0.45 against 0.59 of float32).
        model = ov.convert_model(str(onnx))
        _make_reproducible(model)
        folder.mkdir(parents=True, exist_ok=True)
        ov.save_model(model, str(folder / "model.xml"), compress_to_fp16=precision == "float16")
    except (RuntimeError, refusal) as error:
        raise ToolError(f"OpenVINO refused {onnx.name}: {error}", fix="Check the model with medge's lint.") from error
    return ["model.xml", "model.bin"]


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Session:
    """A session on the CPU with `threads` threads. Raises MissingError where a file, the package or the precision is
    missing, ToolError where OpenVINO would run in another precision than the one asked for."""
    return _start(folder, files, precision=precision, threads=threads, batch_size=1)


def start_batch(folder: Path, files: Sequence[str], *, precision: str, threads: int, batch_size: int) -> Session:
    """As `start`, for `batch_size` images at once: the same model, reshaped. Raises ToolError too where the model is
    made for one image inside."""
    running = _start(folder, files, precision=precision, threads=threads, batch_size=batch_size)
    logits, features = running.run(np.zeros(running.shape, np.uint8))
    if (logits.shape[0], features.shape[0]) != (batch_size, batch_size):
        raise refuse_batch(batch_size, f"it answers with {logits.shape[0]} rows")
    return running


def _start(folder: Path, files: Sequence[str], *, precision: str, threads: int, batch_size: int) -> _Running:
    check_precision("openvino", precision, _KNOWN)
    xml, weights = present(folder, files, [".xml", ".bin"])
    ov = _package()
    wanted: Dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _hint(precision),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "PERFORMANCE",
    }
    if (folder / START_CACHE).is_dir():  # OpenVINO drops by itself what it cannot read there
        wanted["CACHE_DIR"] = str(folder / START_CACHE)
    try:
        core = ov.Core()
        model = core.read_model(str(xml), str(weights))
        if batch_size != 1:
            model.reshape([batch_size, *(int(size) for size in model.inputs[0].shape[1:])])
        compiled = core.compile_model(model, "CPU", wanted)
    except RuntimeError as error:
        if batch_size != 1:
            raise refuse_batch(batch_size, _last_words(error)) from error
        raise ToolError(f"OpenVINO refused {xml.name}: {error}", fix="Compile it again: medge compile.") from error
    _refuse_fallback(compiled, precision)
    return _Running(compiled, batch_size=batch_size)


class _Running:
    """A loaded engine: one request, its tensors allocated once; every run returns arrays of its own."""

    def __init__(self, compiled: Any, *, batch_size: int = 1) -> None:
        inputs = [(p.get_any_name(), p.element_type.to_string(), tuple(p.shape)) for p in compiled.inputs]
        inputs = [(name, _DTYPES.get(dtype, dtype), shape) for name, dtype, shape in inputs]
        outputs = [p.get_any_name() for p in compiled.outputs]
        _, self.shape = check_ports(inputs, outputs, batch_size=batch_size)
        self._request = compiled.create_infer_request()
        self._image = self._request.get_input_tensor().data
        self._logits = self._request.get_tensor("logits").data
        self._features = self._request.get_tensor("features").data
        # start_async and wait, because infer() builds a dictionary of outputs at every call.
        self._start, self._wait = self._request.start_async, self._request.wait

    def run(self, images: Array) -> Tuple[Array, Array]:
        """uint8 [batch size, height, width, 3] -> logits float32 [batch size, classes], features float32 [batch size,
        dimensions]; the batch size is 1 but for `start_batch`."""
        check_image(images, self.shape)
        np.copyto(self._image, images)
        self._start()
        self._wait()
        return self._logits.copy(), self._features.copy()


_DTYPES = {"u8": "uint8"}


def _last_words(error: RuntimeError) -> str:
    """OpenVINO's errors begin with the place in its source; what is wrong comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "OpenVINO gives no reason"


def _package() -> Any:
    """openvino, without `openvino_telemetry`: importing openvino sends an event where that package is found."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingError(f"openvino cannot be imported ({error}).", fix=_INSTALL) from error
    return openvino


def _make_reproducible(model: Any) -> None:
    """Drops what differs between two builds of one graph: paths, versions and names made of a running counter."""
    notes = model.get_rt_info()
    for key in list(notes.keys()):
        del notes[key]
    for number, op in enumerate(model.get_ordered_ops()):
        if re.fullmatch(r"[A-Za-z]\w*_\d+", op.get_friendly_name()):
            op.set_friendly_name(f"{op.get_type_name()}_{number}")


def _hint(precision: str) -> str:
    """In what everything runs that is not quantised."""
    return _FLOATS["float32" if precision == QUANTISED else precision.split("_")[-1]]


def _refuse_fallback(compiled: Any, precision: str) -> None:
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    devices = list(compiled.get_property("EXECUTION_DEVICES"))
    if used != _hint(precision):
        raise MissingError(
            f"OpenVINO would run this {precision} engine in {used}: the processor has no {precision.split('_')[-1]}.",
            fix="Use another precision on this machine.",
        )
    if devices != ["CPU"]:
        raise ToolError(f"OpenVINO would run on {', '.join(devices)}, not on the CPU.", fix="Report this.")
