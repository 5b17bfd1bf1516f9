"""An engine in a process of its own, without torch, whose death is a result and not a crash.

Engines are native code that may bring their process down, and two thread pools in one process slow each other.
Run as `python -m medge.runtime.child`, this is that process: a Job as JSON on stdin, one line of progress per image on
stdout, the logits in a .npy file, an error as JSON on stderr with the exit code of errors.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np

from medge import errors
from medge.errors import DataError, MedgeError, ToolError
from medge.records import Engine, from_json, to_json
from medge.runtime.predict import Advance, predict_logits, predict_outputs, start_engine

__all__ = ["Job", "logits_in_child", "main", "read_rows", "write_npy"]

Array = Any


@dataclass(frozen=True)
class Job:
    """Logits of some rows of an image file: uint8 [N, height, width, 3], raw without a header or a .npy."""

    engine: Engine
    folder: str  # where the engine's files lie
    images: str
    rows: Tuple[int, ...]
    height: int
    width: int
    threads: int
    output: str  # .npy, float32 [len(rows), classes]
    features: Optional[str] = None  # .npy, float32 [len(rows), D]; where it is wanted, written before `output`


def read_rows(path: Path, rows: Iterable[int], *, height: int, width: int) -> Iterator[Array]:
    """uint8 [height, width, 3] per row of an image file, read one by one so that memory does not grow with it."""
    size = height * width * 3
    if path.suffix == ".npy":
        yield from _rows_of_npy(path, rows, height=height, width=width)
        return
    with open(path, "rb", buffering=0) as stream:
        for row in rows:
            data = os.pread(stream.fileno(), size, row * size) if row >= 0 else b""
            if len(data) != size:
                raise DataError(
                    f"{path} has no image {row} of {width}x{height}: it holds {os.path.getsize(path)} bytes.",
                    fix="Run the data stage again.",
                )
            yield np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


def _rows_of_npy(path: Path, rows: Iterable[int], *, height: int, width: int) -> Iterator[Array]:
    images = np.load(str(path), mmap_mode="r", allow_pickle=False)
    if images.dtype != np.uint8 or images.shape[1:] != (height, width, 3):
        raise DataError(
            f"{path} holds {images.dtype} {list(images.shape)}, not uint8 [N, {height}, {width}, 3].",
            fix="Prepare the images as the recipe's data stage does.",
        )
    for row in rows:
        yield np.array(images[row])


def write_npy(path: Path, values: Array) -> None:
    """An array written aside and renamed, so that `path` is never half a file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as stream:
            np.save(stream, values, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        if aside.exists():
            aside.unlink()


def logits_in_child(
    engine: Engine,
    folder: Path,
    *,
    images: Path,
    rows: Sequence[int],
    height: int,
    width: int,
    threads: int,
    output: Path,
    features: Optional[Path] = None,
    advance: Optional[Advance] = None,
    seconds: Optional[float] = None,
) -> Array:
    """The logits, float32 [len(rows), classes], of an engine run in a process of its own; also left in `output`.

    Its pooled features, float32 [len(rows), D], are left in the file `features` where one is named. Raises what the
    child raised, or ToolError where it was killed or took longer than `seconds`.
    """
    pooled = None if features is None else str(features)
    wanted = tuple(int(row) for row in rows)
    job = Job(engine, str(folder), str(images), wanted, height, width, threads, str(output), pooled)
    root = str(Path(errors.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(to_json(job)).encode())
        stdin.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "medge.runtime.child"],
            stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        try:
            _follow(child, advance, seconds=seconds)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode != 0:
            stderr.seek(0)
            raise _error_of_child(engine, child.returncode, stderr.read().decode("utf-8", "replace"))
    return np.load(output, allow_pickle=False)


def main() -> int:
    """The child's side: does the Job on stdin. Returns the exit code."""
    try:
        job = from_json(Job, json.load(sys.stdin))
        session = start_engine(job.engine, Path(job.folder), threads=job.threads)
        images = read_rows(Path(job.images), job.rows, height=job.height, width=job.width)
        if job.features is None:
            logits = predict_logits(session, images, advance=_print_units)
        else:
            logits, features = predict_outputs(session, images, advance=_print_units)
            write_npy(Path(job.features), features)
        write_npy(Path(job.output), logits)
    except MedgeError as error:
        record = {"error": type(error).__name__, "message": error.message, "fix": error.fix}
        print(json.dumps(record), file=sys.stderr)
        return error.exit_code
    return 0


def _print_units(units: int) -> None:
    print(units, flush=True)


def _follow(child: subprocess.Popen[bytes], advance: Optional[Advance], *, seconds: Optional[float]) -> None:
    """Reads the child's progress until it ends. Kills it after `seconds`: its output then simply stops."""
    timer = threading.Timer(seconds, child.kill) if seconds is not None else None
    if timer is not None:
        timer.start()
    try:
        for line in child.stdout or ():
            # An engine may print to stdout too; only a line of digits is progress.
            if advance is not None and line.strip().isdigit():
                advance(int(line))
        child.wait()
    finally:
        if timer is not None:
            timer.cancel()


def _error_of_child(engine: Engine, code: int, stderr: str) -> MedgeError:
    """What the child reported, as the exception that it was."""
    last = stderr.strip().splitlines()[-1] if stderr.strip() else ""
    try:
        record = json.loads(last)
        kind = getattr(errors, record["error"])
        if isinstance(kind, type) and issubclass(kind, MedgeError):
            return kind(record["message"], fix=record["fix"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ToolError(
        f"The process running engine {engine.name} {how}. It last said: {stderr.strip()[-2000:] or 'nothing'}",
        fix="Look at the message; a killed process often means too little memory or a file for another machine.",
    )


if __name__ == "__main__":
    sys.exit(main())
