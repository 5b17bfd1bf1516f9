"""What an earlier compress left and the recipe still asks for: finished variants, and work on unfinished ones.

Every variant is known by the hash of all it is made from, so one that is changed or added costs the others nothing; and
every step by the hash of all steps up to it, so that what begins alike is trained once, in whichever chain it stands,
as long as the stage is not finished: checkpoints go with its end.
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
from medge.records import File, from_json, read_json, sha256_of_file, sha256_of_json, verify_files, write_text
from medge.sections import CompressSection, Step
from medge.workspace import Inputs

__all__ = ["SEARCH", "STEPS", "TRIALS", "drop", "fingerprint", "keys", "scratch", "take_over", "works"]

STEPS, TRIALS = ".steps", ".search-trials"  # in scratch/: the chains' checkpoints, and what a search tried
SEARCH = "search"  # the variant that it finds
_MARK = ".made-of"
_NAMES = {STEPS: "trained steps", TRIALS: "the search's trials"}


def keys(section: CompressSection, inputs: Inputs, calibration_sha256: str, seed: int) -> dict[str, str]:
    """The hash of all that each variant is made from, by name; that of STEPS, which no gate changes; and with a search
    that of its TRIALS, which a larger budget leaves as they are."""
    parents = {k: v.sha256 for k, v in sorted(inputs.items())}
    trained = [medge.__version__, parents, calibration_sha256, seed, fingerprint(section)]
    shared = [trained, _dump(section.gate)]
    sections: dict[str, BaseModel | None] = {"float": None, **section.variants}
    made_of = {name: sha256_of_json([shared, _dump(value)]) for name, value in sections.items()}
    made_of[STEPS] = sha256_of_json(trained)
    if section.search is not None:
        made_of[TRIALS] = sha256_of_json(
            [shared, section.search.model_dump(mode="json", exclude={"minutes", "trials"})]
        )
    return made_of


def fingerprint(section: CompressSection) -> str:
    """The hash of the files that steps name by their path: weights, and students that medge has fine-tuned."""
    steps = [step for variant in section.variants.values() for chain in variant.first_passing for step in chain]
    named = {str(step.options[key]) for step in steps for key in ("student", "weights") if step.options.get(key)}
    found: dict[str, str] = {}
    for path in sorted(map(Path, named)):
        files = sorted(p for p in path.glob("model.*") if p.is_file()) if path.is_dir() else [path]
        found |= {str(file): sha256_of_file(file) for file in files if file.is_file()}
    return sha256_of_json(found) if found else ""


def take_over(work: Path, finished: Path, made_of: Mapping[str, str]) -> None:
    """Leaves in `work` what was made of the same as now, copies such variants from the `finished` stage of before, and
    drops the rest, which it says. The variant `search` is left to the search: what it is made of is found there."""
    dropped = []
    for path in work.iterdir():
        if path.is_dir() and path.name != "scratch" and not _is_of(path, made_of.get(path.name)):
            dropped += [path.name] if path.name != SEARCH else []
            drop(path)
        elif path.is_file() and path.name != ".key":
            path.unlink()
    for folder in sorted(p for p in (work / "scratch").glob("*") if p.is_dir()):
        if folder.name != SEARCH and not _is_marked(folder, made_of.get(folder.name)):
            dropped += [folder.name] if any(p.is_file() and p.name != _MARK for p in folder.rglob("*")) else []
            drop(folder)
    for name in dict.fromkeys(dropped):
        console.warn(f"{_NAMES.get(name, name)}: what there was is dropped: it was of other settings or another input.")
    for name, key in made_of.items():
        if not (work / name).exists() and _is_of(finished / name, key) and _as_recorded(finished, name):
            aside = scratch(work, name, key) / "taken-over"
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(finished / name, aside)
            os.replace(aside, work / name)
            console.say(f"[dim]{name}: unchanged, taken over[/dim]")


def scratch(work: Path, name: str, key: str) -> Path:
    """The folder for a variant's unfinished work, marked as of this key; what was of another is dropped."""
    folder = work / "scratch" / name
    if not _is_marked(folder, key):
        drop(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / _MARK, key)
    return folder


def drop(folder: Path) -> None:
    """Removes a folder, first what says that it is whole, so that a killed removal leaves nothing to be trusted."""
    for name in ("variant.json", _MARK):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def works(steps: Path, chain: Sequence[Step]) -> list[Path]:
    """Each step's folder for checkpoints, named by all steps up to it."""
    plain = [step.model_dump(mode="json") for step in chain]
    digests = [sha256_of_json(plain[: k + 1])[:12] for k in range(len(plain))]
    return [steps / f"{step.compressor}-{digest}" for step, digest in zip(chain, digests, strict=True)]


def _is_of(folder: Path, key: str | None) -> bool:
    """Whether the folder is of a finished variant that was made of this."""
    if key is None or not (folder / "variant.json").is_file():
        return False
    try:
        return variants.load(folder).made_of == key
    except IntegrityError:
        return False


def _is_marked(folder: Path, key: str | None) -> bool:
    mark = folder / _MARK
    return mark.is_file() and mark.read_text(encoding="utf-8") == key


def _as_recorded(finished: Path, name: str) -> bool:
    """Whether the variant's files are those of the finished stage's record."""
    try:
        outputs = [from_json(File, item) for item in read_json(finished / "record.json")["outputs"]]
        verify_files(finished, [file for file in outputs if file.path.startswith(f"{name}/")])
    except IntegrityError:
        return False
    return True


def _dump(value: BaseModel | None) -> object:
    return None if value is None else value.model_dump(mode="json")
