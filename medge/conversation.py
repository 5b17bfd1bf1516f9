"""Talking to the agent on a device: bring it there, ask, get an answer or the error that it names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import medge
from medge import errors
from medge.device_book import Device, again
from medge.devices._kind import looks_like, refuse_other
from medge.errors import MedgeError, MissingError, ToolError
from medge.job.supervisor import FOLDER
from medge.link import Link
from medge.link_errors import LinkCut

__all__ = ["Agent", "connected", "error_of", "refuse_other_kind"]

_HELLO_SECONDS = 20.0
_GARBAGE_BYTES = 1 << 16
_OLDEST = (3, 8)
_MARK = b"MEDGE-AGENT "

# Reads the agent's sources from stdin; whatever Python it meets must be able to say which one it is.
_BOOT = """
import os,sys
os.write(1,b"\\nMEDGE-AGENT %d.%d.%d\\n"%sys.version_info[:3])
def read(n):
    b=b""
    while len(b)<n:
        c=os.read(0,n-len(b))
        if not c:sys.exit(0)
        b+=c
    return b
import json,types
for name,source in json.loads(read(int(read(8))).decode()):
    m=sys.modules[name]=types.ModuleType(name)
    exec(compile(source,name,"exec"),m.__dict__)
    setattr(sys.modules[name.rpartition(".")[0]],name.rpartition(".")[2],m) if "." in name else None
sys.exit(m.main())
"""


class Agent:
    """One conversation over a link."""

    def __init__(self, link: Link, device: Device) -> None:
        self._link, self._device = link, device
        self.hello: dict[str, Any] = {}
        self.clock_ahead_seconds = 0.0
        self._asked = 0

    def begin(self) -> None:
        """Brings the agent to the device. Raises MissingError where there is no Python to run it."""
        self._link.start(f"{self._device.python} -c {shlex.quote(_BOOT)}")
        version = self._version()
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise MissingError(
                f"{self._device.python} on {self._device.name} is {version}; medge needs 3.8 or newer.",
                fix=f"Name a newer one that is there, or install one: {again(self._device, python='PATH')}",
            )
        sources = _agent_sources()
        self._link.write(b"%8d" % len(sources) + sources)
        self.hello = self.ask("hello", root=self._device.folder)
        self.clock_ahead_seconds = self.hello["time"] - time.time()

    def ask(self, command: str, *, payload: bytes = b"", seconds: float = 60.0, **keys: Any) -> dict[str, Any]:
        """The answer to a request. Raises what the device names, LinkCut, or ToolError for an answer that is none."""
        self._asked += 1
        request = {"command": command, "number": self._asked, **keys}
        self._link.write(json.dumps(request).encode() + b"\n" + payload, seconds=seconds)
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        """Of the last request: one that was interrupted (Ctrl-C) may have left its own answer on the way."""
        while True:
            line = self._link.read_line(seconds=seconds)
            if not line.endswith(b"\n"):
                raise LinkCut(
                    f"The link to {self._device.name} ended in the middle of an answer.", fix="Repeat the command."
                )
            try:
                answer: dict[str, Any] = json.loads(line)
                failed, number, follows = answer.get("error"), answer.pop("number"), answer.pop("follows")
            except (ValueError, AttributeError, KeyError):
                raise _garbage(self._device, line) from None
            if number >= self._asked:
                break
            self._link.read(follows, seconds=seconds)
        if failed is not None:
            if answer.get("kind") == "Gone":
                raise LinkCut(str(failed), fix="Repeat the command.")
            raise error_of(answer, self._device)
        return answer

    def run(self, *argv: str, seconds: float = 20.0) -> dict[str, Any]:
        """A command there: its exit code (None: no such command), stdout and stderr. `{python}` is the interpreter."""
        return self.ask("ask", argv=list(argv), limit_seconds=seconds, seconds=seconds + 10)

    def output(self, command: Sequence[str]) -> str:
        """As devices/*.py ask: the stdout of a command. Raises MissingError, ToolError."""
        answer = self.run(*command)
        if answer["code"] is None:
            raise MissingError(f"There is no command '{command[0]}' there.")
        if answer["code"] != 0:
            raise ToolError(answer["err"].strip() or f"'{' '.join(command)}' exited {answer['code']}.")
        return str(answer["out"])

    def fetch(self, name: str, *, seconds: float = 300.0) -> bytes:
        """A file of the job's folder, whole."""
        answer = self.ask("get", name=name)
        content = self._link.read(answer["bytes"], seconds=seconds)
        if hashlib.sha256(content).hexdigest() != answer["sha256"]:
            raise LinkCut(f"{name} did not arrive as it was sent.", fix="Repeat the command.")
        return content

    def _version(self) -> str:
        seen = b""
        until = time.monotonic() + _HELLO_SECONDS
        while len(seen) < _GARBAGE_BYTES and time.monotonic() < until:
            line = self._link.read_line(seconds=_HELLO_SECONDS)
            seen += line
            if line.startswith(_MARK):
                return line[len(_MARK) :].decode("ascii", "replace").strip()
            if not line:
                raise self._no_python()
        raise _garbage(self._device, seen)

    def _no_python(self) -> MedgeError:
        code, said = self._link.last_words()
        device = self._device
        if code in (126, 127) or "not found" in said:
            return MissingError(
                f"{device.name} has no {device.python} that runs ({said or f'exit {code}'}).",
                fix=f"Install python3 there, or name the one that is there: {again(device, python='PATH')}",
            )
        if code is None:
            return LinkCut(f"The link to {device.name} was cut before it answered.", fix="Repeat the command.")
        return MissingError(
            f"{device.python} on {device.name} did not start: {said[-500:] or f'exit {code}'}.",
            fix=f"Try it: ssh there, {device.python} -c 'print(1)'",
        )


@contextlib.contextmanager
def connected(device: Device) -> Iterator[Agent]:
    """A conversation with a device that has Python. Raises MissingError."""
    with Link(device) as link:
        agent = Agent(link, device)
        agent.begin()
        yield agent


def refuse_other_kind(agent: Agent, device: Device) -> None:
    """Raises MissingError, as the doctor says it, for a machine that is not of the kind in the book."""
    looks = looks_like(agent.output)
    refuse_other(device.name, device.kind, looks, fix=again(device, kind=looks))


def error_of(record: Mapping[str, Any], device: Device) -> MedgeError:
    """What a device reported, as the exception that it was."""
    kind = getattr(errors, str(record.get("kind")), ToolError)
    if not (isinstance(kind, type) and issubclass(kind, MedgeError)):
        kind = ToolError
    return kind(f"{device.name}: {record['error']}", fix=_fix_of(str(record.get("fix", "")), device))


def _fix_of(text: str, device: Device) -> str:
    """The device knows neither its name in the book nor what else is recorded of it."""
    text = text.replace(FOLDER, again(device, folder="PATH"))
    return re.sub(r"(medge devices \w+) NAME\b", rf"\1 {device.name}", text)


def _garbage(device: Device, seen: bytes) -> ToolError:
    return ToolError(
        f"{device.name} answers what medge does not understand: {seen[-200:]!r}.",
        fix=f"Does a login there print something or start another shell? Try: ssh there, {device.python} -c 'print(1)'",
    )


def _agent_sources() -> bytes:
    """The agent's modules in the order of their imports, as JSON: [[name, source]]."""
    folder = Path(medge.__file__).parent / "job"
    parts = [["medge", Path(medge.__file__).read_text(encoding="utf-8")], ["medge.job", ""]]
    for name in ("territory", "supervisor", "agent"):
        parts.append([f"medge.job.{name}", (folder / f"{name}.py").read_text(encoding="utf-8")])
    return json.dumps(parts).encode()
