"""The host's end of a job: talks to the agent on the device, sends what is missing, follows, fetches, cleans up.

A dropped link is taken up again where it was: files by their bytes, a running job by its id.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medge.conversation import Agent, connected, error_of, refuse_other_kind
from medge.device_book import Device, again, devices
from medge.devices._kind import mismatch, refuse_other
from medge.errors import IntegrityError, MedgeError, MissingError, ToolError
from medge.job.spec import RESULT, Spec, seal_of
from medge.link_errors import LinkCut, NoLogin, Unreachable
from medge.records import File, sha256_of_file, to_json

__all__ = ["Finished", "Told", "brought_files", "run_job", "verified"]

Told = Callable[[Mapping[str, Any]], None]

GRACE_SECONDS = 60.0  # a job whose host fell silent ends itself after so long
_PATIENCE_SECONDS = 120.0  # without anything further, however often the link came back
_FIRST_LOGINS = 3  # tries of the first login, where the server hangs up before it
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Finished:
    """What came home: the sealed result, files by their sha256 in `folder`, and what the device's folder still has."""

    result: dict[str, Any]
    folder: Path
    left: tuple[str, ...]


def run_job(
    device: Device,
    spec: Spec,
    *,
    files: Mapping[str, Path],
    archive: Path,
    fetched: Path,
    keep: bool = True,
    told: Told = lambda _: None,
    grace_seconds: float = GRACE_SECONDS,
) -> Finished:
    """Does a job on a device. `files`: where each of the spec's files lies here, by sha256; `archive`: job.pyz.

    Files that came home are left in `fetched`. keep: engines and the archive may stay in the device's folder, so that
    the next job need not send them; images never do. Raises MissingError, ToolError, or what the job itself raised.
    """
    job = _Job(device, spec, files, archive, fetched, keep=keep, told=told, grace_seconds=grace_seconds)
    failures, last, since = 0, -1, time.monotonic()
    while True:
        try:
            return job.attempt()
        except (LinkCut, Unreachable) as error:
            hung_up = isinstance(error, NoLogin) and failures + 1 < _FIRST_LOGINS
            if isinstance(error, Unreachable) and not job.contacted and not hung_up:
                raise
            if job.progress != last:
                failures, last, since = 0, job.progress, time.monotonic()
            failures += 1
            if time.monotonic() - since > _PATIENCE_SECONDS:
                raise MissingError(f"{error.message} Tried {failures} times in a row.", fix=error.fix) from error
            told({"step": "link", "text": f"{error.message} Trying again."})
            time.sleep(min(5.0, 0.1 * 2**failures) * random.uniform(0.5, 1.0))


class _Job:
    """One job over as many links as it takes. `progress` grows with everything that need not be done again."""

    def __init__(
        self, device: Device, spec: Spec, files: Mapping[str, Path], archive: Path, fetched: Path, *, keep: bool,
        told: Told, grace_seconds: float,
    ) -> None:  # fmt: skip
        self._device, self._spec, self._fetched, self._told = device, spec, fetched, told
        self._keep, self._grace_seconds = keep, grace_seconds
        own = File("job.pyz", sha256_of_file(archive), archive.stat().st_size)
        self._archive = own
        self._paths = {**files, own.sha256: archive}
        private = {file.sha256: file for file in spec.private_files()}
        shared = {file.sha256: file for file in [own, *spec.shared_files()] if file.sha256 not in private}
        self._files = [(file, True) for file in private.values()] + [(file, False) for file in shared.values()]
        self._seen = 0
        self._finished: Finished | None = None
        self.progress = 0
        self.contacted = False

    def attempt(self) -> Finished:
        with connected(self._device) as agent:
            if not self.contacted:
                refuse_other_kind(agent, self._device)
            self.contacted = True
            if self._finished is None:
                answer = self._open(agent)
                self._seen = 0 if answer["state"] == "new" else self._seen
                try:
                    self._finished = self._work(agent)
                except LinkCut:
                    raise
                except BaseException as error:
                    if not isinstance(error, Exception):  # Ctrl-C: a person is waiting, so say what takes time
                        self._told({"step": "note", "text": "ends the job and puts back what it changed"})
                    self._end(agent)
                    raise
            elif self._open(agent):
                self.progress += 1
            left = agent.ask("close")["left"]
        return Finished(self._finished.result, self._finished.folder, tuple(left))

    def _open(self, agent: Agent) -> dict[str, Any]:
        who = f"{_user()} on {socket.gethostname()}"
        return agent.ask("open", job=self._spec.id, who=who, grace_seconds=self._grace_seconds, keep=self._keep)

    def _end(self, agent: Agent) -> None:
        """Has the device end the job, over a new link where this one was left in the middle of something."""
        with contextlib.suppress(MedgeError):
            agent.ask("close")
            return
        with contextlib.suppress(MedgeError), connected(self._device) as again:
            self._open(again)
            again.ask("close")

    def _work(self, agent: Agent) -> Finished:
        asked = [{"sha256": f.sha256, "bytes": f.bytes, "private": private} for f, private in self._files]
        have = agent.ask("have", files=asked)["have"]
        for file, private in self._files:
            self._send(agent, file, private, have[file.sha256])
        agent.ask("start", spec=json.dumps(to_json(self._spec)), archive=self._archive.sha256,
                  limit_seconds=self._spec.limit_seconds)  # fmt: skip
        self._follow(agent)
        result = verified(json.loads(agent.fetch(RESULT)), self._spec)
        self._fetch_built(agent, result)
        self.progress += 1
        return Finished(result, self._fetched, ())

    def _send(self, agent: Agent, file: File, private: bool, have: int) -> None:
        """In pieces, so that a long file outlives many cuts. Raises IntegrityError for one that changed here."""
        for _ in range(2):
            if have == file.bytes:
                return
            with open(self._paths[file.sha256], "rb") as stream:
                stream.seek(have)
                content = stream.read()
            if have + len(content) != file.bytes:
                break
            answer = agent.ask("put", sha256=file.sha256, bytes=file.bytes, offset=have, private=private,
                               payload=content, seconds=max(60.0, len(content) / 20_000))  # fmt: skip
            self.progress += 1
            if answer["whole"]:
                return
            have = 0
        raise IntegrityError(
            f"{self._paths[file.sha256]} is not the recorded file.", fix="Make it again: medge compile."
        )

    def _follow(self, agent: Agent) -> None:
        """Until the job has ended. Raises what it raised."""
        while True:
            answer = agent.ask("poll", after=self._seen, wait_seconds=_POLL_SECONDS)
            for line in answer["lines"].splitlines():
                self._told(json.loads(line))
            self._seen += len(answer["lines"])
            self.progress += len(answer["lines"])
            if answer["exit"] is not None:
                break
        if answer["exit"]["code"] != 0:
            raise self._failure(agent, answer["exit"])

    def _failure(self, agent: Agent, ended: Mapping[str, Any]) -> MedgeError:
        if ended["late"]:
            return ToolError(
                f"The job on {self._device.name} took longer than {self._spec.limit_seconds:g} s and was ended.",
                fix="Give it longer: --set profile.limit_minutes=60",
            )
        try:
            return error_of(json.loads(agent.fetch("error.json")), self._device)
        except LinkCut:
            raise
        except (MedgeError, ValueError):
            words = agent.fetch("log").decode("utf-8", "replace").strip()
        if ended["code"] == MissingError.exit_code:
            text, _, fix = words.partition("\n  fix: ")
            return MissingError(f"On {self._device.name}: {text.removeprefix('error: ')}", fix=fix)
        how = f"by signal {-ended['code']}" if ended["code"] < 0 else f"with exit code {ended['code']}"
        return ToolError(
            f"The job on {self._device.name} ended {how}. It last said: {words[-1500:] or 'nothing'}",
            fix="Look at the message; a killed process often means too little memory.",
        )

    def _fetch_built(self, agent: Agent, result: Mapping[str, Any]) -> None:
        self._fetched.mkdir(parents=True, exist_ok=True)
        for file in brought_files(result):
            (self._fetched / file["sha256"]).write_bytes(agent.fetch(f"out/{file['sha256']}"))


def brought_files(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Records of the files that come home with a result, each once: engines that were built there, and caches."""
    built = [file for engine in result["built"] for file in engine["files"]]
    found = {file["sha256"]: file for file in [*built, *(cache["file"] for cache in result.get("caches", []))]}
    return list(found.values())


def verified(result: Any, spec: Spec) -> dict[str, Any]:
    """The result of that job, whole. Raises IntegrityError for one that was changed or belongs to another job."""
    if not isinstance(result, dict) or result.get("seal") != seal_of(result):
        raise IntegrityError("The result is not as the device sealed it: it was changed.", fix="Run the job again.")
    asked = {engine.name: engine.sha256 for engine in spec.engines}
    wrong = [name for name, one in result["engines"].items() if name in asked and one["sha256"] != asked[name]]
    if (result["job"], result["spec_sha256"]) != (spec.id, spec.sha256) or wrong:
        raise IntegrityError(
            f"The result belongs to job {result['job']}, not to {spec.id}" + (f", or other engines: {wrong}." if wrong
            else "."), fix="Import the result of the job that was exported last, or export again.",
        )  # fmt: skip
    _refuse_other_kind(result["device"].get("looks_like"), spec)
    return result


def _refuse_other_kind(looks: str | None, spec: Spec) -> None:
    """Raises MissingError, as the doctor says it, where the machine of a result is of another kind than its job's;
    IntegrityError where it does not say what it looks like."""
    if looks is None and mismatch(spec.kind, "") is not None:
        raise IntegrityError(
            "The result does not say what kind of machine it is of: an earlier medge made the job.",
            fix=f"Export again: medge profile --device {spec.device} --export job.zip",
        )
    known = [device for device in devices() if device.name == spec.device]
    device = known[0] if known else Device(spec.device, spec.kind, "")
    refuse_other(spec.device, spec.kind, looks or "", fix=again(device, kind=looks))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
