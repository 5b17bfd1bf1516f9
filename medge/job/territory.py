"""The folder of a device that is medge's: by its marker, or because it is the default one. Only what medge itself wrote
is ever removed; the rest is named and left. Sent as source beside `agent.py`. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from typing import List

__all__ = ["LOCK", "MARKER", "clear", "free_to_use", "kept", "mark", "marked", "remove_jobs", "strangers", "tidy"]

MARKER = ".medge-device"
LOCK = "lock"
_MADE = "medge made this folder for jobs (medge devices), and removes it when nothing is left in it.\n"
_FOUND = "This folder was empty when medge was told to use it for jobs (medge devices); it stays.\n"
# By sha256: files that came whole or by half, and records of engines built here, with what records.py writes aside.
_FILE = re.compile(r"[0-9a-f]{64}(\.part)?|built-[0-9a-f]{64}\.json|\.built-[0-9a-f]{64}\.json\.\d+")
_PART = re.compile(r".*\.part|\..*")
_TRIAL = re.compile(r"\.trial-\d+")


def free_to_use(root: str) -> bool:
    """Whether jobs may write in `root`: it is not there, is empty, or carries the marker."""
    names = set(_names(root))
    return MARKER in names or (not names - {LOCK} and (LOCK not in names or _is_lock(os.path.join(root, LOCK))))


def marked(root: str) -> bool:
    return os.path.exists(os.path.join(root, MARKER))


def mark(root: str, *, found_empty: bool) -> None:
    """Written by whoever holds the lock. `found_empty`: the folder is the user's own, and stays when all else goes."""
    if not marked(root):
        with open(os.path.join(root, MARKER), "w", encoding="utf-8") as stream:
            stream.write(_FOUND if found_empty else _MADE)


def kept(root: str) -> List[str]:
    """What lies in `root`, without the lock, the marker and the doctor's trial."""
    return [name for name in _names(root) if name not in (LOCK, MARKER) and not _TRIAL.fullmatch(name)]


def strangers(root: str) -> List[str]:
    """What lies in `root`, in its files/ and in its jobs/ and is not medge's."""
    found = [name for name in kept(root) if name not in ("files", "jobs")]
    files, jobs = os.path.join(root, "files"), os.path.join(root, "jobs")
    found += ["files/" + name for name in _names(files) if not _is_own_file(files, name)]
    found += ["jobs/" + name for name in _names(jobs) if not _is_job(os.path.join(jobs, name))]
    return sorted(found)


def remove_jobs(root: str) -> None:
    """Jobs of supervisors that were killed. Whoever calls holds the lock."""
    jobs = os.path.join(root, "jobs")
    for name in _names(jobs):
        if _is_job(os.path.join(jobs, name)):
            shutil.rmtree(os.path.join(jobs, name), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(jobs)


def tidy(root: str, *, keep: bool) -> None:
    """Leaves `root/files` with whole files where they are kept, else nothing of medge's. The lock goes last."""
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(root, "jobs"))
    store = os.path.join(root, "files")
    for name in _names(store):
        if _is_own_file(store, name) and (not keep or _PART.fullmatch(name)):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(store, name))
    with contextlib.suppress(OSError):
        os.rmdir(store)
    made = not marked(root) or _text(os.path.join(root, MARKER)) == _MADE
    if not kept(root):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(root, MARKER))
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(root, LOCK))
    if made:
        with contextlib.suppress(OSError):
            os.rmdir(root)


def clear(root: str) -> List[str]:
    """Removes all that is medge's; says which of files, jobs and what else lay in `root` lost something. Whoever calls
    holds the lock."""
    before = _own(root)
    remove_jobs(root)
    tidy(root, keep=False)
    after = set(_own(root))
    return sorted({name.split("/")[0] for name in before if name not in after})


def _own(root: str) -> List[str]:
    """What of `root`, its files/ and its jobs/ is medge's."""
    below = [folder + "/" + name for folder in ("files", "jobs") for name in kept(os.path.join(root, folder))]
    foreign = strangers(root)
    return [name for name in [*below, *kept(root)] if name not in foreign]


def _is_own_file(store: str, name: str) -> bool:
    return bool(_FILE.fullmatch(name)) and not os.path.isdir(os.path.join(store, name))


def _is_job(folder: str) -> bool:
    """A supervisor's first act in its job's folder is the file by which it hears of the host."""
    return os.path.isfile(os.path.join(folder, "alive"))


def _is_lock(path: str) -> bool:
    """Empty, or what a supervisor writes into it: a user's own file of that name is neither."""
    text = _text(path)
    try:
        return not text or {"job", "pid"} <= set(json.loads(text))
    except (TypeError, ValueError):
        return False


def _names(folder: str) -> List[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 16)
    except OSError:
        return ""
