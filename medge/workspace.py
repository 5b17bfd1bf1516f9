"""Run folders: one folder a stage, written aside and renamed, so that what is there is whole.

`runs/<name>/<n>-<stage>/` holds a stage's files and `record.json`; `runs/<name>/.<n>-<stage>.partial/` is work in
progress, kept when a run is killed so that the stage can continue in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

import medge
from medge import console
from medge.errors import MedgeError, RecipeError
from medge.plugins import nearest
from medge.records import (
    File,
    file_record,
    from_json,
    read_json,
    sha256_of_json,
    verify_files,
    write_json,
    write_text,
)

__all__ = [
    "STAGES",
    "Inputs",
    "Stage",
    "completed",
    "existing_run",
    "finished_folder",
    "is_current",
    "locked",
    "newest_run",
    "required",
    "run_folder",
    "step",
]

STAGES = ("data", "finetune", "compress", "compile", "validate", "profile", "select", "stress", "package")
RUNS = Path("runs")
_START = "Start one: medge run RECIPE, or medge finetune --data DIR."


@dataclass(frozen=True)
class Stage:
    """A finished stage. `key` is the hash of everything it was made from, `sha256` that of its record."""

    name: str
    folder: Path
    key: str
    sha256: str
    values: Mapping[str, Any]
    seconds: float
    inputs: Mapping[str, str]
    skipped: bool


Inputs = Mapping[str, Stage]


class StageModule(Protocol):
    """A file of medge/stages/. It may also have `fingerprint(section) -> str`, what it depends on outside the run, and
    `look_ahead(section, inputs, seed) -> None`, which refuses what can be refused before there is any work: what an
    interrupted stage left is then not touched. `KEEPS_PARTS = True`: the stage itself drops of what an interrupted one
    left the parts that are of other settings or of another input."""

    def run(self, section: Any, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
        """Writes its files below `work`; returns values for its record (JSON, no times of day)."""
        ...


def run_folder(name: str) -> Path:
    """`runs/<name>`, made if it is not there."""
    folder = RUNS / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def existing_run(name: str) -> Path:
    """`runs/<name>`. Raises RecipeError, with the names there are, where it is not a run."""
    if not (RUNS / name / "recipe.yaml").is_file():
        known = sorted(p.parent.name for p in RUNS.glob("*/recipe.yaml"))
        raise RecipeError(f"There is no run '{name}' under runs/.", fix=nearest(name, known) if known else _START)
    return RUNS / name


def newest_run() -> Path:
    """The run that a command without --run continues. Raises RecipeError where there is none."""
    runs = [p.parent for p in RUNS.glob("*/recipe.yaml")]
    if not runs:
        raise RecipeError("There is no run under runs/.", fix=_START)
    return max(runs, key=lambda folder: (folder / "recipe.yaml").stat().st_mtime_ns)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a run for this process. Raises RecipeError where another holds it; a killed process holds nothing."""
    with open(folder / ".lock", "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            stream.seek(0)
            raise RecipeError(
                f"{folder} is in use by process {stream.read().strip() or 'unknown'}.",
                fix="Wait for it, or give this run another name: --run NAME.",
            ) from None
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def step(run: Path, name: str, section: BaseModel, inputs: Inputs, module: StageModule, *, seed: int) -> Stage:
    """Runs a stage, or skips it where its record shows that nothing it was made from has changed."""
    key = _key(name, section, inputs, module, seed)
    done = completed(run, name)
    if done is not None and done.key == key and _is_whole(done):
        console.say(f"[dim]{name}: unchanged, skipped[/dim]")
        return done
    console.say(f"[bold]{name}[/bold]")
    start = time.monotonic()
    getattr(module, "look_ahead", lambda *_: None)(section, inputs, seed)
    partial = _partial_folder(run, name, key, keeps_parts=getattr(module, "KEEPS_PARTS", False))
    try:
        values = module.run(section, inputs, partial, seed)
        return _finish(run, name, partial, key, section, inputs, values, time.monotonic() - start)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise MedgeError(
            f"Stage {name} could not write: {error.strerror} ({error.filename or partial}).",
            fix="Free some space or permissions and repeat the command; it continues where it stopped.",
        ) from error


def is_current(run: Path, name: str, section: BaseModel, inputs: Inputs, module: StageModule, *, seed: int) -> bool:
    """Whether a stage has been finished with just this, so that `step` would skip it where its files are whole."""
    done = completed(run, name)
    return done is not None and done.key == _key(name, section, inputs, module, seed)


def _key(name: str, section: BaseModel, inputs: Inputs, module: StageModule, seed: int) -> str:
    """The hash of everything that a stage is made from."""
    outside = getattr(module, "fingerprint", lambda _: "")(section)
    parents = {parent: stage.sha256 for parent, stage in inputs.items()}
    key: str = sha256_of_json([name, medge.__version__, section.model_dump(mode="json"), seed, parents, outside])
    return key


def finished_folder(run: Path, name: str) -> Path:
    """Where a stage that has been finished is."""
    return run / f"{STAGES.index(name) + 1}-{name}"


def completed(run: Path, name: str) -> Stage | None:
    """A stage's record, without checking its files; None where the stage has not been finished."""
    folder = finished_folder(run, name)
    path = folder / "record.json"
    if not path.is_file():
        return None
    record = read_json(path)
    return Stage(
        name,
        folder,
        record["key"],
        sha256_of_json(_identity(record)),
        record["values"],
        record["seconds"],
        record["inputs"],
        True,
    )


def required(run: Path, name: str) -> Stage:
    """A finished stage that another one builds on. Raises RecipeError where it has not been run."""
    stage = completed(run, name)
    if stage is None:
        command = "finetune" if name == "data" else name  # which reads the images too
        raise RecipeError(
            f"{run} has no finished {name} stage.", fix=f"Run it first: medge {command} --run {run.name}."
        )
    for parent, sha256 in stage.inputs.items():
        current = completed(run, parent)
        if current is None or current.sha256 != sha256:
            raise RecipeError(
                f"{run}: the {name} stage was made from another {parent} stage than the one that is there now.",
                fix=f"Repeat it: medge {name} --run {run.name}.",
            )
    return stage


def _identity(record: dict[str, Any]) -> list[Any]:
    """What a stage's children depend on: not how long it took nor when."""
    return [record["key"], record["values"], record["outputs"]]


def _is_whole(stage: Stage) -> bool:
    record = read_json(stage.folder / "record.json")
    try:
        verify_files(stage.folder, [from_json(File, item) for item in record["outputs"]])
    except MedgeError as error:
        console.warn(f"{stage.name} is repeated: {error.message}")
        return False
    return True


def _partial_folder(run: Path, name: str, key: str, *, keeps_parts: bool) -> Path:
    """The folder a stage works in: the one a killed run left, if it was doing the same work or the stage keeps parts
    of it, else a new one."""
    folder = run / f".{STAGES.index(name) + 1}-{name}.partial"
    mark = folder / ".key"
    if folder.exists() and not keeps_parts and (not mark.is_file() or mark.read_text(encoding="utf-8") != key):
        console.warn(f"What an interrupted {name} had done is dropped: it was of other settings or of another input.")
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    if not mark.is_file() or mark.read_text(encoding="utf-8") != key:
        write_text(mark, key)
    return folder


def _finish(
    run: Path,
    name: str,
    partial: Path,
    key: str,
    section: BaseModel,
    inputs: Inputs,
    values: dict[str, Any],
    seconds: float,
) -> Stage:
    """Hashes what the stage wrote (less `scratch/`), adds the record and moves the folder into place."""
    shutil.rmtree(partial / "scratch", ignore_errors=True)
    files = sorted(p for p in partial.rglob("*") if p.is_file() and p.name != ".key")
    record = {
        "schema": 1,
        "stage": name,
        "key": key,
        "section": section.model_dump(mode="json"),
        "inputs": {k: v.sha256 for k, v in inputs.items()},
        "outputs": [file_record(partial, p) for p in files],
        "values": values,
        "seconds": round(seconds, 3),
        "medge": medge.__version__,
    }
    write_json(partial / "record.json", record)
    folder = finished_folder(run, name)
    if folder.exists():
        stale = folder.with_name(f".{folder.name}.stale")
        shutil.rmtree(stale, ignore_errors=True)
        os.replace(folder, stale)
        os.replace(partial, folder)
        shutil.rmtree(stale)
    else:
        os.replace(partial, folder)
    (folder / ".key").unlink(missing_ok=True)
    saved = read_json(folder / "record.json")
    return Stage(
        name, folder, key, sha256_of_json(_identity(saved)), saved["values"], saved["seconds"], saved["inputs"], False
    )
