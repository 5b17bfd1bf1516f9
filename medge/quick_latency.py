"""Latency while compressing: models become engines of one backend here and are measured in interleaved blocks.

Shorter than the stage `profile`, and with the same worker processes: good enough to tell which of two is faster, and
the interval says where it is not. Latency depends on layers, widths and pixels, hardly on weights: a model may be
measured before it is trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medge import engines, interleave, onnx_lowering, plugins
from medge.backends import QUANTISED, is_int8
from medge.bench_worker import BenchWorker
from medge.errors import MissingError, ToolError
from medge.records import Engine, file_record, sha256_of_file
from medge.runtime.machine import cores_allowed
from medge.statistics.latency import Ratio, paired_ratio

if TYPE_CHECKING:
    from torch import nn

    from medge.data.dataset import DataSet

__all__ = ["Built", "QuickBench", "check_backend"]

_IMAGES = 8
_RANGE_IMAGES = 128  # for a backend that wants ranges which the graph does not hold
Built = tuple[Engine, Path]


def check_backend(name: str, precision: str = "float32") -> Any:
    """The backend `name`. Raises MissingError where this machine cannot run its engines."""
    backend: Any = plugins.load("backends", name)
    lack = backend.missing(precision)
    if lack is not None:
        able = [n for n in plugins.names("backends") if plugins.load("backends", n).missing("float32") is None]
        raise MissingError(f"{name} cannot run {precision} here: {lack}", fix=f"Backends that can: {', '.join(able)}.")
    return backend


@dataclass(frozen=True)
class _Length:
    """What interleave.measure wants to know of a measurement."""

    blocks: int
    seconds: float
    warmup_seconds: float


@dataclass(frozen=True)
class QuickBench:
    """Builds engines of one backend in `work` and compares them. start: of a worker process, with its own clock."""

    data: DataSet
    calibration: NDArray[np.int64]
    backend: str
    work: Path
    seed: int = 0
    rounds: int = 40
    seconds: float = 1.0
    warmup_seconds: float = 0.3
    start: Callable[..., BenchWorker] = BenchWorker

    def build(self, name: str, model: nn.Module, *, precision: str) -> Built:
        """The engine of a torch model, in `work`/`name`; one that is there already is taken as it is.

        `precision` is that of a float model; a quantised one becomes int8. Raises MissingError where the backend cannot
        run here, ToolError where it refuses the model.
        """
        from medge.onnx_export import is_quantised, onnx_from_torch

        wanted = self.data.preprocess

        def write(source: Path) -> None:
            onnx_from_torch(model, source, size=(wanted.height, wanted.width))

        return self._build(name, write, precision=precision, quantised=is_quantised(model))

    def build_onnx(self, name: str, path: Path, *, precision: str) -> Built:
        """The same of an ONNX file that compress wrote; int8 where that is the precision."""
        return self._build(
            name, lambda source: shutil.copyfile(path, source), precision=precision, quantised=is_int8(precision)
        )

    def _build(self, name: str, write: Callable[[Path], object], *, precision: str, quantised: bool) -> Built:
        folder = self.work / name
        if (folder / engines.RECORD).is_file():
            return engines.load(folder), folder
        if quantised and not is_int8(precision):
            precision = QUANTISED
        backend = check_backend(self.backend, precision)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        source, graph = folder / "source.onnx", folder / "graph.onnx"
        write(source)
        ranges = quantised and backend.QUANT.quantize_conv_outputs
        images = self.data.read(self.calibration[:_RANGE_IMAGES]) if ranges else None
        onnx_lowering.lower(source, graph, backend.QUANT, calibration_images=images)
        files = tuple(
            file_record(folder, folder / f) for f in sorted(backend.build(graph, folder, precision=precision))
        )
        engine = Engine(name, self.backend, precision, files, sha256_of_file(source), backend.versions())
        source.unlink()
        engines.save(engine, folder)
        return engine, folder

    def ratios(self, built: Sequence[Built], to: Built) -> list[Ratio]:
        """The latency of each engine as a ratio to that of `to`, all in the same rounds. Raises ToolError where one
        cannot run."""
        medians = self.medians([to, *built])
        return [paired_ratio(medians[e.name], medians[to[0].name], seed=self.seed) for e, _ in built]

    def medians(self, built: Sequence[Built]) -> Mapping[str, NDArray[np.float64]]:
        """Milliseconds [rounds] by engine: the median of each block, in the order of time."""
        images = self.work / "images.npy"
        np.save(images, self.data.read(self.data.indices("validation")[:_IMAGES]))
        length = _Length(self.rounds, self.seconds, self.warmup_seconds)
        measured = interleave.measure(
            list(built),
            images=images,
            threads=cores_allowed(),
            section=length,
            seed=self.seed,
            logs=self.work,
            start=self.start,
        )
        if measured.failures:
            raise ToolError(" ".join(measured.failures.values()), fix="Name another backend, or report this model.")
        return {name: one.block_medians_ms() for name, one in measured.series.items()}
