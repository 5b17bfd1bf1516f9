"""What a plug-in module must offer. A module fulfils a protocol by having these names; nothing is inherited.

Light ring. Types of the host ring (torch) are named for the type checker only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

if TYPE_CHECKING:  # Protocol is in typing since 3.8; kept here so that the device never needs typing_extensions
    import torch

from typing import Protocol

__all__ = ["Backend", "Compressor", "DeviceKind", "QuantRules", "Session", "Source"]

Array = Any


@dataclass(frozen=True)
class QuantRules:
    """How a backend wants an explicitly quantised (Q/DQ) ONNX graph; `onnx_lowering.lower` rewrites it to this.

    activations: `as-is` (as NNCF wrote them), `uint8` (zero points allowed), `int8` (symmetric, zero point 0).
    quantize_bias: biases as int32 with scale = input scale x weight scale.
    quantize_conv_outputs: Q/DQ at every convolution's (or its fused activation's) output.
    """

    activations: str = "as-is"
    quantize_bias: bool = False
    quantize_conv_outputs: bool = False


class Session(Protocol):
    """A loaded engine."""

    def run(self, images: Array) -> Tuple[Array, Array]:
        """uint8 [1, height, width, 3] -> logits float32 [1, classes], features float32 [1, dimensions]."""
        ...


class Backend(Protocol):
    """backends/NAME.py: one engine. Imports the engine's package inside its functions only."""

    PACKAGE: str  # what pip installs on the device, e.g. "onnxruntime"
    PRECISIONS: Tuple[str, ...]  # of a float variant: "float32", "bfloat16", "float16"; a quantised one is "int8"
    QUANT: QuantRules

    def missing(self, precision: str) -> Optional[str]:
        """None where this machine can build and start this precision, else what is missing and how to get it."""
        ...

    def versions(self) -> Dict[str, str]:
        """Versions of what builds and runs the engine, e.g. {"openvino": "2026.4.1"}. Raises MissingError."""
        ...

    def build(self, onnx: Path, folder: Path, *, precision: str) -> List[str]:
        """Compiles `onnx` into files below `folder`; returns their names. Raises MissingError, ToolError."""
        ...

    def start(self, folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Session:
        """Loads an engine that `build` made; never falls back in silence. Raises MissingError, ToolError."""
        ...


class Compressor(Protocol):
    """compressors/NAME.py: one method, torch in, torch out. Host ring."""

    Options: type  # a frozen dataclass whose fields all have defaults

    def apply(self, model: torch.nn.Module, options: Any, context: Any) -> torch.nn.Module:
        """The compressed model; `model` is not changed. `context` is a medge.compressors.Context."""
        ...


class Source(Protocol):
    """data/sources/NAME.py: where images come from. Host ring."""

    def rows(self, section: Any, *, seed: int, work: Path) -> Any:
        """A medge.data.table.SourceTable; `work/scratch/` is free to use. Raises DataError, MissingError."""
        ...

    def files(self, section: Any) -> Iterable[Path]:
        """The files that `rows` depends on; their sizes and times tell whether the stage must be repeated."""
        ...


class DeviceKind(Protocol):
    """devices/NAME.py: one kind of machine."""

    def facts(self, run: Callable[[Sequence[str]], str]) -> Dict[str, Any]:
        """What the machine is: processor, cores, memory, governor ...; what it does not show is None."""
        ...
