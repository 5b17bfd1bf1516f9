"""TensorRT in a process of its own: its builder and runtime can end a process (segmentation fault without a GPU), and
that must be a result and not medge's death.

`python -m medge.backends._tensorrt_child` reads one JSON request on stdin and writes one JSON answer on its original
stdout. It works with any module that has TensorRT's API: `tensorrt` 8.6, 10 or 11, and `tensorrt_rtx`; what a version
has is found by looking for the name, never by comparing versions.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Tuple

from medge import errors

__all__ = ["DROPPED", "Answer", "ask", "main"]

DROPPED = "the timing cache does not fit this TensorRT, GPU or driver, or is damaged, and is dropped"

# TensorRT reads uint8 integers as int8, says so in a warning, and clips half of the values.
_FATAL_WARNINGS = ("Defaulting to INT8",)


@dataclass(frozen=True)
class Answer:
    """What the child found. `failure` is empty where it succeeded; `messages` are warnings and errors of the logger."""

    failure: str
    messages: Tuple[str, ...]
    version: str = ""
    layers: int = 0
    plan_bytes: int = 0


def ask(request: Dict[str, Any], *, seconds: float) -> Answer:
    """Does a request (see `main`) in a child process. A dead or slow child is an Answer with a failure."""
    root = str(Path(errors.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "medge.backends._tensorrt_child"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=seconds,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer(f"TensorRT took longer than {seconds:.0f} s and was stopped", ())
    stderr = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode != 0:
        return Answer(f"TensorRT's process {_death(done.returncode)}: {stderr[-1000:] or 'it said nothing'}", ())
    try:
        answer = json.loads(done.stdout.decode("utf-8").strip().splitlines()[-1])
        return Answer(**{**answer, "messages": tuple(answer["messages"])})
    except (ValueError, IndexError, KeyError, TypeError):
        return Answer(f"TensorRT's process answered nothing that can be read: {stderr[-1000:]}", ())


def main() -> int:
    """The child's side. Requests: {"module", "onnx", "plan" (a path, or null to keep nothing), "precision", and
    "timing_cache" (a path) where one is kept} parses and builds; {"module", "load": path} deserialises a plan."""
    request = json.load(sys.stdin)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what TensorRT prints on stdout goes to stderr
    answer = _load(request) if "load" in request else _build(request)
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    # TensorRT's destructors have crashed at exit; the answer is out, so nothing is left to tidy.
    os._exit(0)


def _build(request: Dict[str, Any]) -> Dict[str, Any]:
    trt = importlib.import_module(request["module"])
    messages: List[str] = []
    answer = {"failure": "", "messages": messages, "version": trt.__version__, "layers": 0, "plan_bytes": 0}
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt)) if builder is not None else None
    if network is None:
        return {**answer, "failure": "TensorRT made no builder or network"}
    parser = trt.OnnxParser(network, logger)  # `network` stays referenced for as long as the parser lives
    parsed = parser.parse(Path(request["onnx"]).read_bytes())
    if not parsed:
        errors_found = [parser.get_error(k).desc() for k in range(parser.num_errors)]
        return {
            **answer,
            "failure": f"TensorRT's parser refused the graph: {'; '.join(errors_found) or 'no reason given'}",
        }
    config = builder.create_builder_config()
    _set_flags(trt, config, request["precision"])
    timing = Path(request["timing_cache"]) if request.get("timing_cache") else None
    if timing is not None:
        _read_timing(config, timing, messages)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {**answer, "failure": f"TensorRT built no plan: {'; '.join(messages) or 'no reason given'}"}
    fatal = [text for text in messages if any(part in text for part in _FATAL_WARNINGS)]
    if fatal:
        return {**answer, "failure": f"TensorRT would change the quantisation: {fatal[0]}"}
    data = bytes(plan)
    if request["plan"] is not None:
        Path(request["plan"]).write_bytes(data)
    if timing is not None:
        _write_timing(config, timing)
    return {**answer, "layers": network.num_layers, "plan_bytes": len(data)}


def _load(request: Dict[str, Any]) -> Dict[str, Any]:
    trt = importlib.import_module(request["module"])
    messages: List[str] = []
    answer = {"failure": "", "messages": messages, "version": trt.__version__, "layers": 0, "plan_bytes": 0}
    data = Path(request["load"]).read_bytes()
    runtime = trt.Runtime(_logger(trt, messages))
    engine = runtime.deserialize_cuda_engine(data) if runtime is not None else None
    if engine is None or engine.create_execution_context() is None:
        return {**answer, "failure": f"TensorRT cannot load the plan: {'; '.join(messages) or 'no reason given'}"}
    return {**answer, "plan_bytes": len(data)}


def _network_flags(trt: Any) -> int:
    """Explicit batch where it is still a choice (8.6, 10), strong typing where it exists (10, 11)."""
    kinds = trt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(kinds, name)) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(kinds, name))


def _set_flags(trt: Any, config: Any, precision: str) -> None:
    """8.6 runs explicit Q/DQ only with the INT8 flag, later versions refuse it on a strongly typed network. float32
    means float32: no TF32. Sparse tensor cores are tried where weights have the pattern 2:4, and only there."""
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") and precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    if precision == "float32" and hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(trt.BuilderFlag, "SPARSE_WEIGHTS"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)


def _read_timing(config: Any, path: Path, messages: List[str]) -> None:
    """Gives the builder the measured times of earlier builds. What it does not take is removed, with a message, and it
    starts with none: it may refuse them, or (seen with TensorRT for RTX 1.7) warn and begin with an empty cache."""
    if not hasattr(config, "create_timing_cache"):
        return
    content, before = path.read_bytes() if path.is_file() else b"", len(messages)
    cache = config.create_timing_cache(content)
    taken = cache is not None and config.set_timing_cache(cache, False)
    if not taken or any("timing cache" in text.lower() for text in messages[before:]):
        messages.append(f"warning: {DROPPED}")
        if path.is_file():
            path.unlink()
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _write_timing(config: Any, path: Path) -> None:
    cache = config.get_timing_cache() if hasattr(config, "get_timing_cache") else None
    if cache is not None:
        path.write_bytes(bytes(cache.serialize()))


def _logger(trt: Any, messages: List[str]) -> Any:
    class Collector(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            name = str(severity).rsplit(".", 1)[-1]
            if name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                messages.append(f"{name.lower()}: {text.strip()}")

    return Collector()


def _death(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
