"""Running an engine over images: the one loop that makes predictions, on the host and on the device.

`logits_in_child` gives an engine a process of its own, without torch, whose death is a result and not a crash:
engines are native code, and two thread pools in one process slow each other down.
Run as `python -m medge.runtime.predict`, it is that process: a Job as JSON on stdin, one line of progress per
image on stdout, the logits in a .npy file, an error as JSON on stderr with the exit code of errors.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, Optional, Sequence, Tuple

import numpy as np

from medge import errors, plugins
from medge.errors import DataError, MedgeError, ToolError
from medge.predictions import Predictions
from medge.protocols import Session
from medge.records import Engine, from_json, to_json, verify_files

__all__ = [
    "Job",
    "logits_in_child",
    "main",
    "predict_logits",
    "predict_table",
    "read_rows",
    "start_engine",
    "write_npy",
]

Array = Any
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """Logits of some rows of a raw image file: uint8 [N, height, width, 3] without a header, row by row."""

    engine: Engine
    folder: str  # where the engine's files lie
    images: str
    rows: Tuple[int, ...]
    height: int
    width: int
    threads: int
    output: str  # .npy, float32 [len(rows), classes]


def start_engine(engine: Engine, folder: Path, *, threads: int) -> Session:
    """A session of an engine whose files were checked first. Raises IntegrityError, MissingError, ToolError."""
    verify_files(folder, engine.files)
    backend = plugins.load("backends", engine.backend)
    session: Session = backend.start(
        folder, [file.path for file in engine.files], precision=engine.precision, threads=threads
    )
    return session


def predict_logits(session: Session, images: Iterable[Array], *, advance: Optional[Advance] = None) -> Array:
    """float32 [N, classes] from uint8 [height, width, 3] images, one at a time as on the device.

    `advance(1)` is called after each image. Raises DataError for anything but such images, ToolError where the engine
    returns something that is not finite.
    """
    rows = []
    for number, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise DataError(
                f"Image {number} is {image.dtype} {list(image.shape)}, not uint8 [height, width, 3].",
                fix="Prepare it with medge.runtime.preprocess.",
            )
        logits = np.asarray(session.run(np.ascontiguousarray(image[None]))[0], dtype=np.float32).reshape(-1)
        if not np.isfinite(logits).all():
            raise ToolError(
                f"The engine returned {logits.tolist()} for image {number}.",
                fix="Its precision may overflow: build another precision, or validate this one.",
            )
        rows.append(logits)
        if advance is not None:
            advance(1)
    if not rows:
        raise DataError("There are no images to predict.", fix="Name at least one.")
    return np.stack(rows)


def predict_table(
    session: Session,
    images: Iterable[Array],
    *,
    sha256: Sequence[str],
    group: Sequence[str],
    labels: Sequence[int],
    subgroups: Optional[Dict[str, Sequence[str]]] = None,
    advance: Optional[Advance] = None,
) -> Predictions:
    """The predictions table of labelled images; the sequences have one value per image, in the same order."""
    logits = predict_logits(session, images, advance=advance)
    columns = {name: tuple(values) for name, values in (subgroups or {}).items()}
    lengths = {len(sha256), len(group), len(labels), len(logits), *(len(column) for column in columns.values())}
    if len(lengths) != 1:
        raise DataError(
            f"A table needs one value per image: {len(logits)} images, but columns of {sorted(lengths)} values.",
            fix="Give every column the length of the images.",
        )
    return Predictions(
        tuple(sha256), tuple(group), np.asarray(labels, dtype=np.int64), logits.astype(np.float64), columns
    )


def read_rows(path: Path, rows: Iterable[int], *, height: int, width: int) -> Iterator[Array]:
    """uint8 [height, width, 3] per row of a raw image file, read one by one so that memory does not grow with it."""
    size = height * width * 3
    with open(path, "rb", buffering=0) as stream:
        for row in rows:
            data = os.pread(stream.fileno(), size, row * size) if row >= 0 else b""
            if len(data) != size:
                raise DataError(
                    f"{path} has no image {row} of {width}x{height}: it holds {os.path.getsize(path)} bytes.",
                    fix="Run the data stage again.",
                )
            yield np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


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
    advance: Optional[Advance] = None,
    seconds: Optional[float] = None,
) -> Array:
    """The logits, float32 [len(rows), classes], of an engine run in a process of its own; also left in `output`.

    Raises what the child raised, or ToolError where it was killed or took longer than `seconds`.
    """
    job = Job(engine, str(folder), str(images), tuple(int(row) for row in rows), height, width, threads, str(output))
    root = str(Path(errors.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(to_json(job)).encode())
        stdin.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "medge.runtime.predict"],
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
        logits = predict_logits(session, images, advance=lambda units: print(units, flush=True))
        write_npy(Path(job.output), logits)
    except MedgeError as error:
        record = {"error": type(error).__name__, "message": error.message, "fix": error.fix}
        print(json.dumps(record), file=sys.stderr)
        return error.exit_code
    return 0


def _follow(child: subprocess.Popen[bytes], advance: Optional[Advance], *, seconds: Optional[float]) -> None:
    """Reads the child's progress until it ends. Kills it after `seconds`: its output then simply stops."""
    import threading

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
