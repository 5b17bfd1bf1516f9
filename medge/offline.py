"""A job for a machine without a network: a zip on a stick there, a zip on the stick back.

`export` leaves the job's spec in the run (`offline/<job>.json`), by which `opened` knows its result again.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from medge import engines, plugins, remote
from medge.errors import IntegrityError, MedgeError, RecipeError
from medge.job.run import OFFLINE_RESULT
from medge.job.spec import RESULT, Spec
from medge.records import from_json, read_json, sha256_of_file, to_json, write_json
from medge.remote_profile import Made
from medge.workspace import Inputs

__all__ = ["export", "keep", "opened"]

_README = """This is a job of medge for a machine that has python3 (3.8 or newer), numpy, Pillow and an engine package.

    unzip job.zip -d job && cd job
    python3 job.pyz

It measures for a while and writes {result} beside itself. Take that back:

    medge profile --import {result}

The folder holds images (images.npy is one file of files/): delete it when you are done. Nothing else is written.
"""


def export(made: Made, path: Path, run: Path) -> None:
    """Writes the job's zip, aside and renamed, and remembers its spec in the run."""
    aside = path.with_name(f".{path.name}.aside")
    try:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("README.txt", _README.format(result=OFFLINE_RESULT))
            archive.writestr("spec.json", json.dumps(to_json(made.spec)))
            archive.write(made.archive, "job.pyz")
            for file in [*made.spec.private_files(), *made.spec.shared_files()]:
                if f"files/{file.sha256}" not in archive.namelist():
                    archive.write(made.files[file.sha256], f"files/{file.sha256}")
        aside.replace(path)
    except OSError as error:
        raise MedgeError(f"{path} cannot be written: {error.strerror}.", fix="Name another file.") from error
    finally:
        aside.unlink(missing_ok=True)
    folder = run / "offline"
    folder.mkdir(exist_ok=True)
    write_json(folder / f"{made.spec.id}.json", made.spec)


def keep(path: Path, run: Path) -> tuple[Path, Spec]:
    """Checks a result that was brought back and copies it into the run. Returns the copy and its job's spec.

    Raises RecipeError where there is no such file, IntegrityError for what is no result, was changed, or belongs to no
    job that this run exported.
    """
    if not path.is_file():
        raise RecipeError(f"--import: there is no file {path}.", fix=_nearest_zip(path))
    result = _read(path)
    own = run / "offline" / f"{result.get('job')}.json"
    if not own.is_file():
        raise IntegrityError(
            f"{path} is the result of job {result.get('job')!r}, which {run} did not export.",
            fix="Name the run that exported it (--run), or export again: medge profile --device NAME --export job.zip",
        )
    spec = _spec_of(own)
    remote.verified(result, spec)
    copy = own.with_suffix(".zip")
    shutil.copyfile(path, copy)
    return copy, spec


def opened(path: Path, inputs: Inputs, scratch: Path) -> tuple[Spec, dict[str, Any], Path]:
    """The spec, the verified result, and the folder of the files that came with it. Raises IntegrityError where the
    run's engines are not those that were exported."""
    spec = _spec_of(path.with_suffix(".json"))
    result = remote.verified(_read(path), spec)
    now = {engine.name: engine.sha256 for engine, _ in engines.load_all(inputs["compile"].folder)}
    if now != {engine.name: engine.sha256 for engine in spec.engines}:
        raise IntegrityError(
            "The engines were compiled again since the job was exported: the result is of others.",
            fix=f"Export again: medge profile --device {spec.device} --export job.zip",
        )
    fetched = scratch / "fetched"
    fetched.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path) as archive:
        for file in remote.brought_files(result):
            target = fetched / file["sha256"]
            target.write_bytes(archive.read(f"out/{file['sha256']}"))
            if sha256_of_file(target) != file["sha256"]:
                raise IntegrityError(f"{path}: {file['path']} is not the file that was built.", fix=_AGAIN)
    return spec, result, fetched


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            result = json.loads(archive.read(RESULT))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise IntegrityError(f"{path} is no result of a job: {error}.", fix=_AGAIN) from error
    if not isinstance(result, dict):
        raise IntegrityError(f"{path} is no result of a job.", fix=_AGAIN)
    return result


def _nearest_zip(path: Path) -> str:
    """The .zip most like it, in its folder or here; what to bring where there is none."""
    place = path.parent if path.parent.is_dir() else Path()
    found = sorted(str(place / one.name) for one in place.glob("*.zip") if one.is_file())
    near = plugins.nearest(str(place / path.name), found) + " " if found else ""
    return near + f"It is the {OFFLINE_RESULT} that job.pyz writes beside itself on the device."


def _spec_of(path: Path) -> Spec:
    return from_json(Spec, read_json(path))


_AGAIN = f"Bring the {OFFLINE_RESULT} that job.pyz wrote, unchanged; or run job.pyz there again."
