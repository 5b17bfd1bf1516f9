"""The job's process on a device: reads spec.json, does it, writes result.json aside and renames it.

Online: `python3 job.pyz FOLDER STORE`, started by the supervisor; progress goes to FOLDER/progress, one JSON line each.
Offline: `python3 job.pyz` beside spec.json and files/; writes result.zip there and says on stderr how far it is.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from medge.errors import IntegrityError, MedgeError
from medge.job.progress import Progress, planned_seconds
from medge.job.spec import RESULT, SCHEMA, Spec, seal_of
from medge.records import from_json, read_json, write_json

__all__ = ["OFFLINE_RESULT", "main"]

OFFLINE_RESULT = "result.zip"
_USAGE = f"""usage: python3 job.pyz
Does the job whose zip it was unpacked from, beside spec.json and files/, and writes {OFFLINE_RESULT} there.
It measures for a while and says how far it is; Ctrl-C ends it and leaves nothing."""
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(arguments: Sequence[str], *, archive: str) -> int:
    """Does the job. Returns the exit code of errors.py; the error itself is in `error.json`, or on stderr offline."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was changed on the device is put back
    if list(arguments) in (["-h"], ["--help"]):
        print(_USAGE)
        return 0
    if len(arguments) == 2 and os.path.isfile(os.path.join(arguments[0], "spec.json")):
        return _online(Path(arguments[0]), Path(arguments[1]))
    if arguments:
        print(f"error: job.pyz does not take these arguments: {' '.join(arguments)}\n{_USAGE}", file=sys.stderr)
        return 2
    return _offline(Path(os.path.dirname(os.path.realpath(archive))).parent)


def _online(folder: Path, store: Path) -> int:
    _die_with_parent()
    with open(folder / "progress", "a", encoding="utf-8", buffering=1) as stream:

        def tell(event: Dict[str, Any]) -> None:
            stream.write(json.dumps(event) + "\n")

        try:
            result = _do(folder, [folder / "files", store], folder / "out", tell, kept=store)
        except MedgeError as error:
            about = {"error": error.message, "kind": type(error).__name__, "fix": error.fix}
            write_json(folder / "error.json", about)
            return error.exit_code
    write_json(folder / RESULT, result)
    return 0


def _offline(folder: Path) -> int:
    """result.zip beside the archive, and nothing else that was not there."""
    scratch = Path(tempfile.mkdtemp(prefix="medge-", dir=str(folder)))
    aside = scratch / OFFLINE_RESULT
    try:
        shutil.copyfile(str(folder / "spec.json"), str(scratch / "spec.json"))
        progress = Progress(planned_seconds(_spec_in(scratch)), sys.stderr)
        try:
            result = _do(scratch, [folder / "files"], scratch / "out", progress.tell)
        finally:
            progress.finish()
        with zipfile.ZipFile(str(aside), "w", zipfile.ZIP_STORED) as made:
            made.writestr(RESULT, json.dumps(result))
            for path in sorted((scratch / "out").glob("*")):
                made.write(str(path), "out/" + path.name)
        os.replace(str(aside), str(folder / OFFLINE_RESULT))
    except MedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except FileNotFoundError as error:
        print(f"error: {error}\n  fix: Unpack the whole of the job's zip, and start job.pyz there.", file=sys.stderr)
        return 2
    finally:
        shutil.rmtree(str(scratch), ignore_errors=True)
    print(f"{folder / OFFLINE_RESULT} is written: take it back, medge profile --import {OFFLINE_RESULT}")
    return 0


def _do(
    folder: Path,
    stores: List[Path],
    out: Path,
    tell: Callable[[Dict[str, Any]], None],
    *,
    kept: Optional[Path] = None,
) -> Dict[str, Any]:
    """The sealed result. Raises MedgeError."""
    from medge.job.steps import Steps

    spec = _spec_in(folder)
    wall, steady = time.time(), time.monotonic()
    result = Steps(spec, folder, stores, out, tell, kept=kept).run()
    jump = (time.time() - wall) - (time.monotonic() - steady)
    result = {
        "schema": SCHEMA,
        "job": spec.id,
        "spec_sha256": spec.sha256,
        "python": sys.version.split()[0],
        "seconds": round(time.monotonic() - steady, 3),
        "clock_jump_seconds": round(jump, 3) if abs(jump) > 1 else 0.0,
        **result,
    }
    return {**result, "seal": seal_of(result)}


def _spec_in(folder: Path) -> Spec:
    """Raises IntegrityError."""
    document = read_json(folder / "spec.json")
    if document.get("schema") != SCHEMA:
        raise IntegrityError(f"The job has schema {document.get('schema')!r}, not {SCHEMA}.", fix="Export it again.")
    return from_json(Spec, document)


def _die_with_parent() -> None:
    """A killed supervisor takes the job with it (Linux)."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
