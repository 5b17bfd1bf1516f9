"""Does NVIDIA's own parser accept a graph, does its builder make a plan? Answered without a GPU or a driver by
`tensorrt_rtx` (the extra `trt-check`); running the plan is what a GPU is for.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from medge.backends._tensorrt_child import Answer, ask
from medge.errors import MissingError

__all__ = ["check", "missing"]

MODULE = "tensorrt_rtx"
_SECONDS = 600.0


def missing() -> str | None:
    """None where the check can be made, else what is missing and how to get it."""
    if find_spec(MODULE) is not None:
        return None
    return "NVIDIA's parser and builder are not installed. Install them: pip install 'medge[trt-check]'."


def check(onnx: Path, *, precision: str, seconds: float = _SECONDS) -> Answer:
    """Parses `onnx` and builds a plan from it in a child process. A refusal, a death or a warning that TensorRT would
    change the quantisation is an Answer whose `failure` says so. Raises MissingError."""
    lack = missing()
    if lack is not None:
        raise MissingError(lack, fix="Install it, or do without the check.")
    return ask({"module": MODULE, "onnx": str(onnx), "plan": None, "precision": precision}, seconds=seconds)
