"""Every image decoded once, into `images.u8`, by several threads and in little memory; continues after a kill.

`scratch/decoded.jsonl` says, after a first line that names the work, what was found in each row; its lines follow
the pixels, so that a row that has a line has its pixels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medge import console
from medge.data.table import SourceTable
from medge.errors import ImageRefused
from medge.records import Preprocess, sha256_of_json
from medge.runtime.preprocess import load_image, pixels_sha256, prepare

__all__ = ["HASH_BITS", "Decoded", "decode", "perceptual_hash", "selected"]

HASH_BITS = 256
_BLOCK = 64  # images decoded between two marks of progress


@dataclass(frozen=True)
class Decoded:
    """What decoding found in N rows. A refused row has an empty sha256 and mode, and its pixels are zeros.

    hashes: uint8 [N, HASH_BITS / 8], perceptual. widths, heights: int32 [N], px, upright. refused: row -> reason.
    """

    sha256s: list[str]
    hashes: NDArray[np.uint8]
    modes: list[str]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    refused: dict[int, str]


def decode(table: SourceTable, preprocess: Preprocess, work: Path) -> Decoded:
    """Writes `work/images.u8`, rows in the table's order, and returns what was found; bad images do not stop it."""
    scratch = work / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    size = preprocess.width * preprocess.height * 3
    identity = sha256_of_json([1, preprocess, table.identity, list(table.paths)])
    with open(work / "images.u8", "ab") as pixels, open(scratch / "decoded.jsonl", "ab+") as marks:
        done = _continued(pixels, marks, identity=identity, size=size)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, console.progress("decode", len(table)) as advance:
            advance(done)
            for start in range(done, len(table), _BLOCK):
                rows = range(start, min(start + _BLOCK, len(table)))
                block = list(pool.map(lambda row: _one(table, row, preprocess), rows))
                pixels.write(b"".join(image for image, _ in block))
                _to_disk(pixels)
                marks.write(b"".join(json.dumps(found).encode() + b"\n" for _, found in block))
                _to_disk(marks)
                advance(len(block))
        return _collected(marks, len(table))


def perceptual_hash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Difference hash: whether each of 16 x 16 cells is darker than its right neighbour, as 32 bytes."""
    cells = np.asarray(Image.fromarray(image).convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1])


def selected(decoded: Decoded, rows: list[int]) -> Decoded:
    """What was found in these rows only; refused ones among them are no longer told."""
    return Decoded(
        sha256s=[decoded.sha256s[row] for row in rows],
        hashes=decoded.hashes[rows],
        modes=[decoded.modes[row] for row in rows],
        widths=decoded.widths[rows],
        heights=decoded.heights[rows],
        refused={},
    )


def _one(table: SourceTable, row: int, preprocess: Preprocess) -> tuple[bytes, list[Any]]:
    """One row's pixels and its line: [sha256, perceptual hash, mode, width, height], or [reason]."""
    try:
        source = table.fetch(row)
        ready = prepare(source, preprocess)
        if isinstance(source, Path):
            whole = load_image(source)
            with Image.open(source) as header:
                mode = header.mode
        else:
            whole = Image.fromarray(source)
            mode = whole.mode
    except ImageRefused as error:
        return bytes(preprocess.width * preprocess.height * 3), [error.message]
    found = [pixels_sha256(whole), perceptual_hash(ready).tobytes().hex(), mode, whole.width, whole.height]
    return ready.tobytes(), found


def _continued(pixels: BinaryIO, marks: BinaryIO, *, identity: str, size: int) -> int:
    """Cuts both files back to the rows that both have whole; to nothing where they are of other work."""
    marks.seek(0)
    first = marks.readline()
    ends: list[int] = []
    if first == f"{identity}\n".encode():
        for line in _whole_lines(marks):
            ends.append((ends[-1] if ends else len(first)) + len(line))
    rows = min(len(ends), os.fstat(pixels.fileno()).st_size // size)
    marks.truncate(ends[rows - 1] if rows else 0)
    pixels.truncate(rows * size)
    if not rows:
        marks.write(f"{identity}\n".encode())
        marks.flush()
    return rows


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    for line in stream:
        if not line.endswith(b"\n"):
            return
        yield line


def _to_disk(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _collected(marks: BinaryIO, count: int) -> Decoded:
    marks.seek(0)
    marks.readline()
    found = Decoded(
        sha256s=[""] * count,
        hashes=np.zeros((count, HASH_BITS // 8), dtype=np.uint8),
        modes=[""] * count,
        widths=np.zeros(count, dtype=np.int32),
        heights=np.zeros(count, dtype=np.int32),
        refused={},
    )
    for row, line in enumerate(marks):
        values = json.loads(line)
        if len(values) == 1:
            found.refused[row] = values[0]
            continue
        found.sha256s[row], digest, found.modes[row], found.widths[row], found.heights[row] = values
        found.hashes[row] = np.frombuffer(bytes.fromhex(digest), dtype=np.uint8)
    return found
