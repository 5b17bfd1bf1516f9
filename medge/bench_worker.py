"""The asking end of a bench worker: starts `python -m medge.runtime.bench`, asks, and does not wait for ever.

Light ring: on a remote device the end that asks is there too."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from medge import errors
from medge.errors import ToolError
from medge.records import Engine

__all__ = ["BenchWorker", "WorkerFailed"]

_LOAD_SECONDS = 300.0
_BLOCK_SECONDS = 300.0
_QUIT_SECONDS = 5.0


class WorkerFailed(ToolError):
    """A worker that refused its engine, died or fell silent; the others go on."""


class BenchWorker:
    """A process that holds one engine. A context manager: leaving it ends the process, whatever happened.

    Nothing outlives this process either: the worker ends when its stdin closes, which the kernel sees to.
    """

    def __init__(
        self, name: str, *, log: Path, command: Sequence[str] = (sys.executable, "-m", "medge.runtime.bench")
    ) -> None:
        self.name = name
        self._log = log
        self._start = time.monotonic()
        self.cold_start_ms: float | None = None
        root = str(Path(errors.__file__).resolve().parent.parent)  # medge may be on sys.path without being installed
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        with open(log, "wb") as stderr:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**os.environ, "PYTHONPATH": path},
            )

    def __enter__(self) -> BenchWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def load(self, engine: Engine, folder: Path, *, images: Path, threads: int, batch_size: int = 1) -> dict[str, Any]:
        """Loads and runs once, `batch_size` images at a time. Sets `cold_start_ms`: from the start of the process to
        its first answer."""
        answer = self.ask(
            {
                "command": "load",
                "backend": engine.backend,
                "precision": engine.precision,
                "folder": str(folder.resolve()),
                "files": [file.path for file in engine.files],
                "images": str(images.resolve()),
                "threads": threads,
                "batch_size": batch_size,
            },
            seconds=_LOAD_SECONDS,
        )
        self.cold_start_ms = round((time.monotonic() - self._start) * 1000, 1)
        return answer

    def ask(self, request: Mapping[str, Any], *, seconds: float = _BLOCK_SECONDS) -> dict[str, Any]:
        """The answer to one request. Raises WorkerFailed where there is none, or none in time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WorkerFailed(f"{self.name}: the worker has no pipes.")
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
        except (BrokenPipeError, ValueError):
            raise self._death() from None
        if not select.select([stdout], [], [], seconds)[0]:
            self._process.kill()
            raise WorkerFailed(f"{self.name}: no answer to '{request['command']}' within {seconds:g} s; it was ended.")
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{self.name}: {answer['error']}", fix=answer.get("fix", ""))
        return answer

    def close(self) -> None:
        """Ends the process: by closing its stdin, and by force where that is not enough."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _death(self) -> WorkerFailed:
        try:
            code = self._process.wait(_QUIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return WorkerFailed(f"{self.name}: its worker {how}{': ' + last[0] if last else ''}.")
