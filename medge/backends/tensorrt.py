"""NVIDIA TensorRT 8.6, 10 and 11. The engine is a plan: native code for one GPU and one version, built where it runs.

Precision is in the graph (explicit Q/DQ), never in builder flags, which 11 no longer has. Written by looking for
names, not versions; TensorRT's builder and first load run in a child process, because they can end a process.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from medge.backends import OUTPUTS, QUANTISED, _cuda, check_image, check_ports, check_precision, present
from medge.backends._tensorrt_child import DROPPED, ask
from medge.errors import MissingError, ToolError
from medge.protocols import QuantRules, Session

__all__ = [
    "BUILD_CACHE", "GRAPH_CHECK", "PACKAGE", "PRECISIONS", "QUANT", "build", "cache_pin", "missing", "start",
    "versions",
]  # fmt: skip

PACKAGE = "tensorrt"
PRECISIONS = ("float32",)
QUANT = QuantRules(activations="int8")
BUILD_CACHE = "timing.cache"  # beside the graph: read where it is there, and written
GRAPH_CHECK = "medge.trt_check"  # the host module that proves a graph where there is no GPU

_GET = (
    "On a Jetson TensorRT comes with JetPack, for the system's python3; elsewhere: pip install tensorrt, beside an "
    "NVIDIA driver. The graph is kept: build it there."
)
_BUILD_SECONDS = 3600.0

Array = Any


def missing(precision: str) -> Optional[str]:
    """None where there are a driver, a GPU and TensorRT, else everything that is missing and how to get it."""
    check_precision("tensorrt", precision, PRECISIONS)
    lacks = [_cuda.lack(), None if find_spec("tensorrt") is not None else "no Python package tensorrt"]
    found = [lack for lack in lacks if lack is not None]
    return f"Missing: {'; '.join(found)}. {_GET}" if found else None


def versions() -> Dict[str, str]:
    """Versions of TensorRT and the GPU's name and compute capability, all of which a plan depends on."""
    _refuse_missing(QUANTISED)
    device = _cuda.Device()
    major, minor = device.capability
    return {"tensorrt": _package().__version__, "gpu": device.name, "compute_capability": f"{major}.{minor}"}


def cache_pin() -> Dict[str, str]:
    """What a timing cache holds for: measured times of kernels of this version on this GPU with this driver."""
    _refuse_missing(QUANTISED)
    device = _cuda.Device()
    return {"tensorrt": _package().__version__, "gpu": device.name, "driver": device.driver}


def build(onnx: Path, folder: Path, *, precision: str) -> List[str]:
    """Builds `folder/engine.plan` and `plan.json` (what it was built with), and loads it once to prove it. A timing
    cache beside the graph is used and written again; one that TensorRT does not take is dropped.
    Raises MissingError, and ToolError with TensorRT's own words."""
    _refuse_missing(precision)
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "engine.plan"
    request = {
        "module": "tensorrt", "onnx": str(onnx), "plan": str(plan), "precision": precision,
        "timing_cache": str(onnx.with_name(BUILD_CACHE)),
    }  # fmt: skip
    for question in (request, {"module": "tensorrt", "load": str(plan)}):
        answer = ask(question, seconds=_BUILD_SECONDS)
        _note_dropped(onnx, answer.messages)
        if answer.failure:
            if plan.exists():
                plan.unlink()
            raise ToolError(
                f"{onnx.name}: {answer.failure}.", fix="Check the graph: medge's lint and the extra trt-check."
            )
    (folder / "plan.json").write_text(json.dumps(versions(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return ["engine.plan", "plan.json"]


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Session:
    """A session on GPU 0; `threads` means nothing there. Raises MissingError, and ToolError for a plan that was built
    by another TensorRT or for another GPU: such a plan is not even tried."""
    _refuse_missing(precision)
    plan, built = present(folder, files, [".plan", ".json"])
    made_with, here = json.loads(built.read_text(encoding="utf-8")), versions()
    if made_with != here:
        raise ToolError(
            f"The plan was built with {_facts(made_with)}, this machine has {_facts(here)}.",
            fix="Build it here from the graph: plans are not portable.",
        )
    return _Running(_package(), plan.read_bytes(), _cuda.Device())


def _note_dropped(onnx: Path, messages: Sequence[str]) -> None:
    """What TensorRT said of a timing cache that it did not take, in a file beside it, for whoever laid it there."""
    said = [text for text in messages if DROPPED in text]
    if said:
        onnx.with_name(BUILD_CACHE + ".dropped").write_text(said[0].partition(": ")[2], encoding="utf-8")


class _Running:
    """A loaded plan with its buffers and one stream; every run returns arrays of its own."""

    def __init__(self, trt: Any, plan: bytes, device: Any) -> None:
        self._device = device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        engine: Any = self._runtime.deserialize_cuda_engine(plan) if self._runtime is not None else None
        context: Any = engine.create_execution_context() if engine is not None else None
        if context is None:
            raise ToolError("TensorRT cannot load the plan.", fix="Build it again on this machine.")
        self._engine, self._context = engine, context
        names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        ports = [(n, np.dtype(trt.nptype(engine.get_tensor_dtype(n))).name, self._shape_of(n)) for n in inputs]
        self._name, self._shape = check_ports(ports, [name for name in names if name not in inputs])
        self._image = self._bind(self._name, np.uint8)
        self._outputs = [self._bind(name, np.float32) for name in OUTPUTS]

    def run(self, images: Array) -> Tuple[Array, Array]:
        """uint8 [1, height, width, 3] -> logits float32 [1, classes], features float32 [1, dimensions]."""
        check_image(images, self._shape)
        np.copyto(self._image.host, images)
        self._device.to_device(self._image)
        if not self._context.execute_async_v3(self._device.stream):
            raise ToolError("TensorRT could not run the plan.", fix="Build it again on this machine.")
        for output in self._outputs:
            self._device.to_host(output)
        self._device.synchronize()
        logits, features = (output.host.copy() for output in self._outputs)
        return logits, features

    def _shape_of(self, name: str) -> Tuple[int, ...]:
        return tuple(int(size) for size in self._engine.get_tensor_shape(name))

    def _bind(self, name: str, dtype: Any) -> Any:
        buffer = self._device.allocate(self._shape_of(name), dtype)
        if not self._context.set_tensor_address(name, buffer.device):
            raise ToolError(f"TensorRT refused a buffer for '{name}'.", fix="Build it again on this machine.")
        return buffer


def _package() -> Any:
    import tensorrt

    return tensorrt


def _refuse_missing(precision: str) -> None:
    lack = missing(precision)
    if lack is not None:
        raise MissingError(lack, fix="Build and run it on the machine that has the GPU.")


def _facts(values: Dict[str, Any]) -> str:
    return ", ".join(f"{key} {values[key]}" for key in sorted(values))
