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

__all__ = [
    "Backend",
    "BatchStart",
    "Compressor",
    "DeviceKind",
    "KeepsCaches",
    "LooksAhead",
    "MixesPrecisions",
    "PowerControl",
    "QuantRules",
    "Run",
    "Session",
    "Source",
]

Array = Any


@dataclass(frozen=True)
class QuantRules:
    """How a backend wants an explicitly quantised (Q/DQ) ONNX graph; `onnx_lowering.lower` rewrites it to this.

    activations: `as-is` (as NNCF wrote them), `uint8` (zero points allowed), `int8` (symmetric, zero point 0).
    quantize_bias: biases as int32 with scale = input scale x weight scale.
    quantize_conv_outputs: Q/DQ at every convolution's (or its fused activation's) output.
    rows: where the image is reduced and normalised as rows of NHWC (lowering.image.by_rows): `never`, in `quantised`
    graphs, or `always`.
    """

    activations: str = "as-is"
    quantize_bias: bool = False
    quantize_conv_outputs: bool = False
    rows: str = "never"


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


class MixesPrecisions(Protocol):
    """What a backend offers besides where the layers that a quantised variant leaves in float may run in less than
    float32. An engine of it is built where the recipe names it, beside that of int8, and judged like any other."""

    MIXED: Tuple[str, ...]  # such as ("int8_bfloat16",): `int8_` and a float precision


class BatchStart(Protocol):
    """What a backend offers besides where its engines may be asked for several images at once; for measuring only."""

    def start_batch(
        self, folder: Path, files: Sequence[str], *, precision: str, threads: int, batch_size: int
    ) -> Session:
        """As `start`, for uint8 [batch_size, height, width, 3]. Raises ToolError where this engine cannot take it."""
        ...


class KeepsCaches(Protocol):
    """What a backend offers besides where its builds or starts get quicker by what earlier ones left: `cache_pin`, and
    BUILD_CACHE (a file beside the ONNX, which `build` reads where it is there and writes; a refused one is explained in
    `<name>.dropped`), or START_CACHE (a folder beside the engine's files, which `start` uses where it is there)."""

    def cache_pin(self) -> Dict[str, str]:
        """Everything here that such a cache holds for: versions, the GPU, the driver. Raises MissingError."""
        ...


class Compressor(Protocol):
    """compressors/NAME.py: one method, torch in, torch out. Host ring."""

    Options: type  # a frozen dataclass whose fields all have defaults

    def apply(self, model: torch.nn.Module, options: Any, context: Any) -> torch.nn.Module:
        """The compressed model; `model` is not changed. `context` is a medge.compressors.Context."""
        ...


class LooksAhead(Protocol):
    """What a compressor offers besides where it can tell before anything is trained what it would refuse."""

    def check(self, model: Any, options: Any, context: Any) -> Any:
        """Raises what `apply` would raise for a medge.model.Classifier with these layers, whatever its weights. Returns
        one with the layers of the result, for the checks of what follows in the chain: `model` itself, which is not
        changed, or another. Takes seconds; reaches no network and leaves nothing in `context.work`."""
        ...


class Source(Protocol):
    """data/sources/NAME.py: where images come from. Host ring."""

    def rows(self, section: Any, *, seed: int, work: Path) -> Any:
        """A medge.data.table.SourceTable; `work/scratch/` is free to use. Raises DataError, MissingError."""
        ...

    def files(self, section: Any) -> Iterable[Path]:
        """The files that `rows` depends on; their sizes and times tell whether the stage must be repeated."""
        ...


Run = Callable[[Sequence[str]], str]  # a command's standard output; raises MissingError, ToolError


class DeviceKind(Protocol):
    """devices/NAME.py: one kind of machine. Everything is asked by commands, so that it may be elsewhere."""

    def facts(self, run: Run) -> Dict[str, Any]:
        """What the machine is: processor, cores, memory ...; what it does not show is None, and `missing` says why."""
        ...

    def state(self, run: Run) -> Dict[str, Any]:
        """How it is just now, asked before and after a measurement; None and `missing` as in `facts`."""
        ...

    def sample(self, run: Run) -> Dict[str, Any]:
        """A cheap reading, every second or so while measuring: temperature_c, frequency_mhz, power_mw or energy_uj
        (which counts up to energy_range_uj) with power_of (what it is the power of), throttled (names of what holds it
        back just now), throttle_counts ({name: how often so far}). What it does not show is None, or empty."""
        ...


class PowerControl(Protocol):
    """What a kind offers besides where power modes and clocks can be set: nothing is, unless it is asked for."""

    def power_modes(self, run: Run) -> List[Dict[str, Any]]:
        """Every mode: `id` and `name`. Raises MissingError, ToolError."""
        ...

    def power_mode(self, run: Run) -> Dict[str, Any]:
        """The mode that is set: `id` and `name`. Raises MissingError, ToolError."""
        ...

    def set_power_mode(self, run: Run, mode: str) -> Dict[str, Any]:
        """Sets a mode, named or by its id, and returns it. Raises RecipeError for an unknown one, MissingError where
        this user may not, ToolError where the machine refuses (a reboot would be needed)."""
        ...

    def clocks(self, run: Run) -> Dict[str, Any]:
        """Limits of the clocks, {name: (lowest, highest)}, and `locked`. Raises MissingError, ToolError."""
        ...

    def store_clocks(self, run: Run) -> str:
        """Notes the clocks on the machine; returns where."""
        ...

    def lock_clocks(self, run: Run) -> None:
        """Every clock to its highest, and kept there."""
        ...

    def restore_clocks(self, run: Run, stored: str) -> None:
        """Puts back what `store_clocks` noted, and removes the note."""
        ...
