"""The process on the device that owns a job: it holds the lock, starts the job, and cleans up whatever happens.

Sent as source beside `agent.py`, which forks it. It ends on `close`, at the job's time limit, or when nobody has asked
anything for `grace_seconds`. The lock is the kernel's (flock): a dead process holds nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, NoReturn, Optional

from medge.job import territory

__all__ = [
    "FOLDER", "SPACE", "STOP_SECONDS", "Refused", "described", "free_bytes", "holder", "is_held", "read_text",
    "refuse_foreign", "sha256", "start", "take", "touch", "user", "write",
]  # fmt: skip

STOP_SECONDS = 10.0  # between the polite signal and the other


class Refused(Exception):
    """What the host is told: `kind` is a class of medge.errors."""

    def __init__(self, kind: str, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.answer = {"error": message, "kind": kind, "fix": fix}


# The host puts the device's name and its own command in (conversation.error_of).
FOLDER = "medge devices add ... --folder PATH"
SPACE = f"Free some there (medge devices clean NAME removes what jobs kept), or name a folder with space: {FOLDER}"


def refuse_foreign(root: str) -> None:
    """Raises Refused for a folder that holds what is not medge's, so that no job writes or deletes among it."""
    if not territory.free_to_use(root):
        found = territory.kept(root)
        some = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise Refused(
            "RecipeError",
            f"{root} holds what medge did not put there ({some or territory.LOCK}): jobs need a folder of their own.",
            f"Name one that is empty or not there yet, e.g. {root}/medge: {FOLDER} (or empty it, if an earlier medge "
            "made it)",
        )


def start(root: str, job: str, lock: int, *, who: str, grace_seconds: float, keep: bool) -> None:
    """Forks the process that owns the job. Returns when its folder is there."""
    ready, tell = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        _supervise(root, job, lock, tell, who=who, grace_seconds=grace_seconds, keep=keep)
    os.close(lock)
    os.close(tell)
    said = os.read(ready, 4096).decode()
    os.close(ready)
    if said != "ready":
        raise Refused("MissingError", f"No job can be made in {root}: {said or 'its process ended'}.", SPACE)


def _supervise(root: str, job: str, lock: int, tell: int, *, who: str, grace_seconds: float, keep: bool) -> NoReturn:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    folder = os.path.join(root, "jobs", job)
    running: List[subprocess.Popen[bytes]] = []
    try:
        try:
            territory.remove_jobs(root)
            os.makedirs(folder, mode=0o700)
            touch(os.path.join(folder, "alive"))
            own = {"job": job, "pid": os.getpid(), "who": who, "user": user(), "since": time.time()}
            os.ftruncate(lock, 0)
            os.pwrite(lock, json.dumps(own).encode(), 0)
            os.write(tell, b"ready")
        except OSError as error:
            os.write(tell, str(error).encode())
            raise
        finally:
            os.close(tell)
        _watch(folder, running, grace_seconds)
    finally:
        for process in running:
            _end(process)
        shutil.rmtree(folder, ignore_errors=True)
        territory.tidy(root, keep=keep)
        os._exit(0)


def _watch(folder: str, running: List[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    """Starts the job when it is told to, notes how it ended; returns when it is closed or nobody asks any more.

    Time is the monotonic clock's: a device whose wall clock jumps keeps its limits.
    """
    heard, stamp, limit, ended = time.monotonic(), -1, 0.0, False
    while not os.path.exists(os.path.join(folder, "close")):
        now = os.stat(os.path.join(folder, "alive")).st_mtime_ns
        if now != stamp:
            heard, stamp = time.monotonic(), now
        if time.monotonic() - heard > grace_seconds:
            return
        start = read_text(os.path.join(folder, "start"))
        if ended or (not running and not start):
            time.sleep(0.03)
        elif not running:
            request = json.loads(start)
            running.append(_launch(request["argv"], folder))
            limit = time.monotonic() + request["limit_seconds"]
        else:
            late = time.monotonic() > limit
            if late:
                _end(running[0])
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = running[0].wait(0.2)
                write(os.path.join(folder, "exit"), json.dumps({"code": code, "late": late}))
                ended = True


def _launch(argv: List[str], folder: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    with open(os.path.join(folder, "log"), "wb") as log:
        return subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                start_new_session=True, env={**os.environ, "PATH": path})  # fmt: skip


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely first, so that it puts back what it changed; then its whole group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def take(path: str) -> Optional[int]:
    """The lock's descriptor, or None where another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return None
        os.close(descriptor)  # its holder removed it just now: this is another file


def is_held(root: str) -> bool:
    """Whether a job runs in `root` just now; takes nothing."""
    try:
        descriptor = os.open(os.path.join(root, territory.LOCK), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def holder(root: str) -> Dict[str, Any]:
    try:
        found: Dict[str, Any] = json.loads(read_text(os.path.join(root, "lock")))
    except ValueError:
        return {}
    return found


def described(of: Dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(of.get("since", 0)))
    return f"the job of {of.get('who', '?')} (process {of.get('pid', '?')} there, since {since})"


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def free_bytes(folder: str) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def touch(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not os.path.exists(path):
            open(path, "wb").close()
        os.utime(path)


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write(path: str, text: str) -> None:
    with open(path + ".aside", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(path + ".aside", path)


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""
