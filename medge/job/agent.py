"""The device's end of a link: answers one JSON line a request, on stdin and stdout, with raw bytes behind some.

Sent as source and run by `python3 -c`; nothing is installed. `open` starts a *supervisor* (supervisor.py), a process of
its own that owns the job, so a link may drop and come back to the same job. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any, Callable, Dict, Iterator, List, Optional

from medge.job import supervisor, territory
from medge.job.supervisor import Refused

__all__ = ["Agent", "main"]

_SILENCE_SECONDS = 120.0  # a host that asks nothing for so long is gone
_BLOCK = 1 << 18
_NAMES = set("0123456789abcdefghijklmnopqrstuvwxyz.-_/")


class Agent:
    """Answers requests about one folder of the device, `root`."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._root, self._default = "", False
        self._job = ""

    def answer(self, request: Dict[str, Any]) -> Dict[str, Any]:
        handler = getattr(self, "do_" + str(request.pop("command", "")), None)
        if handler is None:
            raise Refused("ToolError", "The device's end of the link does not know this request.")
        if self._job:
            supervisor.touch(os.path.join(self._folder, "alive"))
        with _explained(self._root):
            answer: Dict[str, Any] = handler(**request)
        return answer

    def do_hello(self, root: Optional[str]) -> Dict[str, Any]:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self._default = root is None
        self._root = os.path.abspath(os.path.expanduser(root or cache + "/medge"))
        return {"root": self._root, "executable": sys.executable, "user": supervisor.user(), "time": time.time(),
                "python": ".".join(map(str, sys.version_info[:3]))}  # fmt: skip

    def do_ask(self, argv: List[str], limit_seconds: float) -> Dict[str, Any]:
        """Runs a command; `code` is None where there is no such command, -1000 where it did not end."""
        argv = [sys.executable if word == "{python}" else word for word in argv]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_seconds)
        except (FileNotFoundError, PermissionError) as error:
            return {"code": None, "out": "", "err": str(error)}
        except subprocess.TimeoutExpired:
            return {"code": -1000, "out": "", "err": f"did not end within {limit_seconds:g} s"}
        return {"code": done.returncode, "out": done.stdout.decode("utf-8", "replace"),
                "err": done.stderr.decode("utf-8", "replace")}  # fmt: skip

    def do_space(self) -> Dict[str, Any]:
        """Whether `root` can be written, and how much fits; leaves nothing."""
        self._refuse_foreign()
        made = not os.path.isdir(self._root)
        os.makedirs(self._root, mode=0o700, exist_ok=True)
        busy = supervisor.described(supervisor.holder(self._root)) if supervisor.is_held(self._root) else ""
        trial = os.path.join(self._root, f".trial-{os.getpid()}")
        try:
            with open(trial, "wb") as stream:
                stream.write(bytes(4096))
            left = [name for name in territory.kept(self._root) if not (busy and name == "jobs")]
            return {"free_bytes": supervisor.free_bytes(self._root), "left": left, "busy": busy}
        finally:
            with contextlib.suppress(OSError):
                os.unlink(trial)
            if made:
                os.rmdir(self._root)

    def do_open(self, job: str, who: str, grace_seconds: float, keep: bool) -> Dict[str, Any]:
        """Takes the lock for `job`, or comes back to it where it is held for it already."""
        until = time.monotonic() + 15
        while True:
            self._refuse_foreign()
            found_empty = os.path.isdir(self._root) and not os.listdir(self._root)
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            try:
                lock = supervisor.take(os.path.join(self._root, territory.LOCK))
            except FileNotFoundError:  # a job that closes takes its folder away
                if time.monotonic() > until:
                    raise
                continue
            if lock is not None:
                break
            holder = supervisor.holder(self._root)
            if holder.get("job") == job and not os.path.exists(os.path.join(self._root, "jobs", job, "close")):
                self._job = job
                supervisor.touch(os.path.join(self._folder, "alive"))
                return {"state": "attached"}
            if holder.get("job") not in (None, job) or time.monotonic() > until:
                raise Refused("MissingError", f"The device is busy with {supervisor.described(holder)}.",
                              f"Wait for it, or end it there: kill {holder.get('pid', 'PID')}")  # fmt: skip
            time.sleep(0.05)
        territory.mark(self._root, found_empty=found_empty)
        self._job = job
        supervisor.start(self._root, job, lock, who=who, grace_seconds=grace_seconds, keep=keep)
        return {"state": "new"}

    def do_have(self, files: List[Dict[str, Any]]) -> Dict[str, Any]:
        """How many right bytes of each file are here. A whole file of another content is removed."""
        have = {}
        for file in files:
            path = self._path_of(file["sha256"], file["private"])
            if os.path.exists(path) and supervisor.sha256(path) != file["sha256"]:
                os.unlink(path)
            part = path + ".part"
            present = os.path.getsize(path) if os.path.exists(path) else 0
            have[file["sha256"]] = present or (os.path.getsize(part) if os.path.exists(part) else 0)
        needed = sum(file["bytes"] - min(have[file["sha256"]], file["bytes"]) for file in files)
        if needed > supervisor.free_bytes(self._root):
            free = supervisor.free_bytes(self._root) / 1e6
            text = f"the job needs {needed / 1e6:.1f} MB in {self._root}, {free:.1f} MB are free"
            raise Refused("MissingError", f"The device has no space: {text}.", supervisor.SPACE)
        return {"have": have}

    def do_put(self, sha256: str, bytes: int, offset: int, private: bool) -> Dict[str, Any]:
        """Takes `bytes - offset` raw bytes. The file appears only when it is whole and its sha256 is right."""
        path = self._path_of(sha256, private)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        left = bytes - offset
        try:
            with open(path + ".part", "r+b" if offset else "wb") as stream:
                stream.seek(offset)
                stream.truncate()
                while left:
                    block = self._read(min(left, _BLOCK))
                    left -= len(block)
                    stream.write(block)
                    supervisor.touch(os.path.join(self._folder, "alive"))
        finally:
            while left:  # of a refused file: the next request follows them
                left -= len(self._read(min(left, _BLOCK)))
        if supervisor.sha256(path + ".part") != sha256:
            os.unlink(path + ".part")
            return {"whole": False}
        os.replace(path + ".part", path)
        return {"whole": True}

    def do_start(self, spec: str, archive: str, limit_seconds: float) -> Dict[str, Any]:
        """Starts the job, once: a host that comes back after a dropped link may ask again."""
        start = os.path.join(self._folder, "start")
        if not os.path.exists(start):
            supervisor.write(os.path.join(self._folder, "spec.json"), spec)
            store = os.path.join(self._root, "files")
            argv = [sys.executable, os.path.join(store, archive), self._folder, store]
            supervisor.write(start, json.dumps({"argv": argv, "limit_seconds": limit_seconds}))
        return {}

    def do_poll(self, after: int, wait_seconds: float) -> Dict[str, Any]:
        """Progress from byte `after` on, at once where there is some or the job has ended."""
        until = time.monotonic() + wait_seconds
        while True:
            ended = supervisor.read_text(os.path.join(self._folder, "exit"))
            lines = supervisor.read_text(os.path.join(self._folder, "progress"))[after:]
            lines = lines[: lines.rfind("\n") + 1]
            if lines or ended or time.monotonic() > until:
                return {"lines": lines, "exit": json.loads(ended) if ended else None}
            if not os.path.isdir(self._folder):
                raise Refused("Gone", "The job's folder on the device is gone: it waited too long for this end.")
            time.sleep(0.1)

    def do_get(self, name: str) -> Dict[str, Any]:
        """A file of the job's folder; its bytes follow the answer."""
        if not set(name) <= _NAMES or ".." in name or name.startswith("/"):
            raise Refused("ToolError", "No file of a job is called so.")
        with open(os.path.join(self._folder, name), "rb") as stream:
            content = stream.read()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "payload": content}

    def do_close(self) -> Dict[str, Any]:
        """Ends the job, waits until it has cleaned up, and says what is left in `root`."""
        if self._job:
            with contextlib.suppress(FileNotFoundError):
                supervisor.write(os.path.join(self._folder, "close"), "")
            until = time.monotonic() + 2 * supervisor.STOP_SECONDS
            while supervisor.holder(self._root).get("job") == self._job and time.monotonic() < until:
                time.sleep(0.02)
            self._job = ""
        return {"left": territory.kept(self._root)}

    def do_clean(self) -> Dict[str, Any]:
        """Removes what medge has in `root`, and `root` where nothing else is in it; says what is left. Refused while a
        job holds it."""
        if not self._default and not territory.marked(self._root):
            return {"removed": [], "left": territory.kept(self._root), "gone": not os.path.isdir(self._root)}
        if not os.path.isdir(self._root):
            return {"removed": [], "left": [], "gone": True}
        lock = supervisor.take(os.path.join(self._root, territory.LOCK))
        if lock is None:
            holder = supervisor.holder(self._root)
            raise Refused(
                "MissingError",
                f"The device is busy with {supervisor.described(holder)}.",
                "Wait until that job has ended (medge devices doctor NAME says whether it has), then repeat; or end it "
                f"there: kill {holder.get('pid', 'PID')}",
            )
        removed = territory.clear(self._root)
        os.close(lock)
        return {"removed": removed, "left": territory.strangers(self._root), "gone": not os.path.isdir(self._root)}

    def _refuse_foreign(self) -> None:
        """The default folder is medge's by its name; another one by its marker."""
        if not self._default:
            supervisor.refuse_foreign(self._root)

    @property
    def _folder(self) -> str:
        return os.path.join(self._root, "jobs", self._job)

    def _path_of(self, sha256: str, private: bool) -> str:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise Refused("ToolError", "That is not a sha256.")
        return os.path.join(self._folder if private else self._root, "files", sha256)


@contextlib.contextmanager
def _explained(root: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(
                "MissingError", f"The device has no space in {root} ({error.strerror}).", supervisor.SPACE
            ) from error
        raise Refused(
            "MissingError",
            f"The device refused {error.filename or root}: {error.strerror}.",
            f"Give {supervisor.user()} the permission, or name another folder: {supervisor.FOLDER}",
        ) from error


class _Input:
    """Bytes of stdin, which ends by silence too."""

    def __init__(self) -> None:
        self._buffer = b""

    def some(self, limit: int) -> bytes:
        if not self._buffer:
            if not select.select([0], [], [], _SILENCE_SECONDS)[0]:
                sys.exit(0)
            self._buffer = os.read(0, 1 << 20)
            if not self._buffer:
                sys.exit(0)
        block, self._buffer = self._buffer[:limit], self._buffer[limit:]
        return block

    def line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            end = self._buffer.find(b"\n") + 1
            line += self.some(end or 1 << 20) if self._buffer else self.some(0)
        return line


def _send(content: bytes) -> None:
    while content:
        content = content[os.write(1, content) :]


def main() -> int:
    """Answers until stdin ends. A job that runs then goes on without this process."""
    stdin = _Input()
    agent = Agent(stdin.some)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    while True:
        request = json.loads(stdin.line())
        number = request.pop("number")  # the host's, by which it knows the answer of what it interrupted
        try:
            answer = agent.answer(request)
        except Refused as error:
            answer = error.answer
        payload = answer.pop("payload", b"")
        _send(json.dumps({**answer, "number": number, "follows": len(payload)}).encode() + b"\n" + payload)


if __name__ == "__main__":
    sys.exit(main())
