"""What an earlier compress left and the recipe still asks for: finished variants, and work on unfinished ones.

Every variant is known by the hash of all it is made from, so one that is changed or added costs the others nothing; and
every step by the hash of all steps up to it, so that what begins alike is trained once, in whichever chain it stands.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

import medge
from medge import console, variants
from medge.errors import IntegrityError
from medge.records import sha256_of_json, write_text
from medge.sections import CompressSection, Step
from medge.workspace import Inputs

__all__ = ["STEPS", "TRIALS", "keys", "scratch", "take_over", "works"]

STEPS, TRIALS = ".steps", ".search-trials"  # in scratch/: the chains' checkpoints, and what a search tried
_MARK = ".made-of"


def keys(section: CompressSection, inputs: Inputs, calibration_sha256: str, seed: int) -> dict[str, str]:
    """The hash of all that each variant is made from, by name; that of STEPS, which no gate changes; and with a search
    that of its variant and of its TRIALS, which a larger budget leaves as they are."""
    trained = [medge.__version__, {k: v.sha256 for k, v in sorted(inputs.items())}, calibration_sha256, seed]
    shared = [trained, _dump(section.gate)]
    sections: dict[str, BaseModel | None] = {"float": None, **section.variants}
    made_of = {name: sha256_of_json([shared, _dump(value)]) for name, value in sections.items()}
    made_of[STEPS] = sha256_of_json(trained)
    if section.search is not None:
        budget = {"minutes", "trials"}
        made_of["search"] = sha256_of_json([shared, _dump(section.search)])
        made_of[TRIALS] = sha256_of_json([shared, section.search.model_dump(mode="json", exclude=budget)])
    return made_of


def take_over(work: Path, finished: Path, made_of: Mapping[str, str]) -> None:
    """Leaves in `work` what was made of the same as now, copies such variants from the `finished` stage of before, and
    drops the rest."""
    for path in work.iterdir():
        if path.is_dir() and path.name != "scratch" and not _is_of(path, made_of.get(path.name)):
            shutil.rmtree(path)
        elif path.is_file() and path.name != ".key":
            path.unlink()
    for folder in sorted(p for p in (work / "scratch").glob("*") if p.is_dir()):
        mark = folder / _MARK
        if not mark.is_file() or mark.read_text(encoding="utf-8") != made_of.get(folder.name):
            if any(p.is_file() and p != mark for p in folder.rglob("*")):
                console.warn(f"{folder.name}: unfinished work is dropped: it was of other settings or another input.")
            shutil.rmtree(folder)
    for name, key in made_of.items():
        if not (work / name).exists() and _is_of(finished / name, key):
            aside = scratch(work, name, key) / "taken-over"
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(finished / name, aside)
            os.replace(aside, work / name)
            console.say(f"[dim]{name}: unchanged, taken over[/dim]")


def scratch(work: Path, name: str, key: str) -> Path:
    """The folder for a variant's unfinished work, marked as of this key."""
    folder = work / "scratch" / name
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _MARK, key)
    return folder


def works(steps: Path, chain: Sequence[Step]) -> list[Path]:
    """Each step's folder for checkpoints, named by all steps up to it."""
    plain = [step.model_dump(mode="json") for step in chain]
    digests = [sha256_of_json(plain[: k + 1])[:12] for k in range(len(plain))]
    return [steps / f"{step.compressor}-{digest}" for step, digest in zip(chain, digests, strict=True)]


def _is_of(folder: Path, key: str | None) -> bool:
    """Whether the folder is of a finished variant that was made of this, and whole."""
    if key is None or not (folder / "variant.json").is_file():
        return False
    try:
        return variants.load(folder).made_of == key
    except IntegrityError:
        return False


def _dump(value: BaseModel | None) -> object:
    return None if value is None else value.model_dump(mode="json")
