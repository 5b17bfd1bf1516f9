"""A backend for tests of measuring: its engine is a JSON file that says how long to sleep and what to do wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medge.errors import ToolError
from medge.protocols import QuantRules

PACKAGE = "numpy"
PRECISIONS = ("float32", "bfloat16")
QUANT = QuantRules()


class Sleeper:
    def __init__(self, options: Any) -> None:
        self._options = options
        self._runs = 0
        self.largest_batch = options.get("largest_batch", 1)

    def run(self, images: Any) -> tuple[Any, Any]:
        self._runs += 1
        if self._runs > self._options.get("dies_after", 1e9):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self._options.get("milliseconds", 0) / 1000)
        return np.zeros((len(images), 2), np.float32), np.zeros((len(images), 4), np.float32)


def missing(precision: str) -> None:
    return None


def versions() -> Any:
    return {"sleeper": "1"}


def build(onnx: Path, folder: Path, *, precision: str) -> Any:
    raise ToolError("The sleeper builds nothing.")


def start(folder: Path, files: Sequence[str], *, precision: str, threads: int) -> Sleeper:
    options = json.loads((folder / files[0]).read_text())
    if "says" in options:
        os.write(1, options["says"].encode())
    if "refuse" in options:
        raise ToolError(options["refuse"])
    return Sleeper(options)


def start_batch(folder: Path, files: Sequence[str], *, precision: str, threads: int, batch_size: int) -> Sleeper:
    session = start(folder, files, precision=precision, threads=threads)
    if batch_size > session.largest_batch:
        raise ToolError(f"it cannot take {batch_size} images at once: the sleeper was told so")
    return session
