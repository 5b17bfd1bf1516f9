"""What the compress stage leaves: a folder per variant, with its ONNX file and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medge.errors import IntegrityError
from medge.records import from_json, read_json, sha256_of_file, write_json

__all__ = ["CompressedVariant", "load", "load_all", "save"]


@dataclass(frozen=True)
class CompressedVariant:
    """A torch model after a chain of compressors, as `model.onnx`.

    chain: the steps that were applied, each {"compressor", "options"}. log: what was tried and why this was kept, one
    sentence each. gate: the trial on validation images by quantity (medge.trial.summary); empty for `float`.
    verdict: of that trial; `pass` for `float`, which it is measured by. in_float: layers that went back to float
    because the gate did not pass with them quantised (medge.rollback). made_of: the hash of all that it was made from
    (medge.variant_reuse).
    """

    name: str
    quantised: bool
    chain: list[dict[str, Any]]
    log: list[str]
    onnx_sha256: str
    verdict: str
    gate: dict[str, Any] = field(default_factory=dict)
    in_float: list[str] = field(default_factory=list)
    made_of: str = ""


def save(variant: CompressedVariant, folder: Path) -> None:
    """Writes variant.json: the last file of a variant's folder."""
    write_json(folder / "variant.json", variant)


def load(folder: Path) -> CompressedVariant:
    """The variant in `folder`. Raises IntegrityError where its ONNX file is not the one it was written with."""
    variant = from_json(CompressedVariant, read_json(folder / "variant.json"))
    try:
        digest = sha256_of_file(folder / "model.onnx")
    except OSError as error:
        raise IntegrityError(f"Cannot read {error.filename}: {error.strerror}.", fix=_AGAIN) from error
    if digest != variant.onnx_sha256:
        raise IntegrityError(f"{folder / 'model.onnx'} is not the recorded file (its sha256 differs).", fix=_AGAIN)
    return variant


def load_all(folder: Path) -> list[CompressedVariant]:
    """The variants of a compress stage, `float` first, then by name. Raises IntegrityError where `float` is missing."""
    found = [load(path.parent) for path in sorted(folder.glob("*/variant.json"))]
    if not any(variant.name == "float" for variant in found):
        raise IntegrityError(f"{folder} has no float variant.", fix=_AGAIN)
    return sorted(found, key=lambda variant: (variant.name != "float", variant.name))


_AGAIN = "Make it again: medge compress."
