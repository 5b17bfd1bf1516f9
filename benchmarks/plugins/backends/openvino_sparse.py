"""OpenVINO asked to unpack sparse weights: what benchmarks/sparse.py compares with the backend as it is.

CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE: the share of zeros from which weights of a matrix product are kept packed.
OpenVINO's documentation says so of matrix products alone; convolutions take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medge.backends import check_precision, openvino, present
from medge.backends.openvino import PACKAGE, PRECISIONS, QUANT, build, missing, versions

__all__ = ["PACKAGE", "PRECISIONS", "QUANT", "build", "missing", "start", "versions"]

RATE = 0.4  # below the share of zeros that either pattern has


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Any:
    """The backend's own session, compiled with the property."""
    check_precision("openvino", precision, PRECISIONS)
    xml, weights = present(folder, files, [".xml", ".bin"])
    core = openvino._package().Core()
    wanted = {
        "INFERENCE_PRECISION_HINT": openvino._hint(precision),
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "PERFORMANCE",
        "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": RATE,
    }
    return openvino._Running(core.compile_model(core.read_model(str(xml), str(weights)), "CPU", wanted))
