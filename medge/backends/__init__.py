"""Backends: one file, one engine (see medge.protocols.Backend). Light ring: numpy and the engine's own package.

What every backend must check in the same way is here; a backend may use it or do it itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence, Tuple

import numpy as np

from medge.errors import DataError, MissingError, RecipeError, ToolError

__all__ = [
    "OUTPUTS", "QUANTISED", "check_image", "check_ports", "check_precision", "is_int8", "offered", "present",
    "refuse_batch",
]  # fmt: skip

# The precision of a quantised variant: what it leaves in float runs in float32. `int8_bfloat16`: in that, where a
# backend offers it (medge.protocols.MixesPrecisions). The precisions of a float variant are in a backend's PRECISIONS.
QUANTISED = "int8"
OUTPUTS = ("logits", "features")

Array = Any

_REASON = 160  # characters of an engine's own words that go into a row of a table


def is_int8(precision: str) -> bool:
    """Whether this is the precision of a quantised variant: `int8`, or `int8_` and that of what it leaves in float."""
    return precision.split("_")[0] == QUANTISED


def offered(backend: Any) -> List[str]:
    """The precisions that a recipe may name for a backend: those of float variants, and of quantised ones all but int8,
    which is built without being named."""
    return [*backend.PRECISIONS, *getattr(backend, "MIXED", ())]


def check_precision(backend: str, precision: str, known: Sequence[str]) -> None:
    """Raises RecipeError for a precision that is neither among `known` (a backend's PRECISIONS and MIXED) nor int8."""
    names = [*known, QUANTISED]
    if precision not in names:
        raise RecipeError(
            f"Backend '{backend}' knows no precision '{precision}'.", fix=f"Choose one of: {', '.join(names)}."
        )


def check_ports(
    inputs: Sequence[Tuple[str, str, Sequence[Any]]], outputs: Sequence[str], *, batch_size: int = 1
) -> Tuple[str, Tuple[int, ...]]:
    """Name and shape of an engine's input, of (name, dtype, shape) each. Raises ToolError unless it is one uint8
    [batch_size, height, width, 3] and the outputs are `logits` and `features`."""
    if len(inputs) == 1:
        name, dtype, shape = inputs[0]
        static = [d for d in shape if isinstance(d, int) and d > 0]
        if dtype == "uint8" and len(static) == len(shape) == 4 and static[0] == batch_size and static[3] == 3:
            if sorted(outputs) == sorted(OUTPUTS):
                return name, tuple(static)
            raise ToolError(
                f"The engine's outputs are {', '.join(outputs) or 'none'}, not logits and features.",
                fix="Compile it again: medge compile.",
            )
    found = "; ".join(f"{name} {dtype} {list(shape)}" for name, dtype, shape in inputs) or "none"
    raise ToolError(
        f"The engine's input is not one uint8 [{batch_size}, height, width, 3]: {found}.",
        fix="Compile it again: medge compile.",
    )


def refuse_batch(size: int, why: str, *, advice: str = "") -> ToolError:
    """What a backend raises for an engine that cannot take so many images at once."""
    reason = why.strip().rstrip(".")
    reason = reason if len(reason) <= _REASON else "... " + _end(reason)
    advice = f"; {advice}" if advice else ""
    return ToolError(f"it cannot take {size} images at once: {reason}{advice}", fix="Measure it with batch size 1.")


def _end(text: str) -> str:
    """The last words of a long text, whole ones: what is wrong comes last."""
    return text[-_REASON:].partition(" ")[2] or text[-_REASON:]


def check_image(images: Array, shape: Tuple[int, ...]) -> None:
    """Raises DataError unless `images` is a uint8 array of exactly the engine's input shape."""
    if images.shape != shape or images.dtype != np.uint8:
        raise DataError(
            f"The engine takes uint8 {list(shape)}, found {images.dtype} {list(images.shape)}.",
            fix="Prepare the image with the preprocessing that came with the engine.",
        )


def present(folder: Path, files: Sequence[str], suffixes: Sequence[str]) -> List[Path]:
    """Paths of an engine's files, one per suffix, in that order. Raises MissingError where one is not there."""
    paths = []
    for suffix in suffixes:
        named = [folder / name for name in files if name.endswith(suffix)]
        if len(named) != 1 or not named[0].is_file():
            raise MissingError(
                f"{folder} holds no whole engine: {len(named)} {suffix} files recorded, "
                f"{sum(p.is_file() for p in named)} there.",
                fix="Compile it again: medge compile.",
            )
        paths.append(named[0])
    return paths
