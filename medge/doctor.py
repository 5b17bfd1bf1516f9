"""Is a device ready? Every question that a job would stumble over, asked one by one, each with its fix."""

from __future__ import annotations

from dataclasses import dataclass

from medge import plugins
from medge.conversation import Agent, connected
from medge.device_book import Device, again, remember
from medge.devices._kind import looks_like, mismatch
from medge.errors import MedgeError

__all__ = ["Check", "examine"]

_SPACE_MB = 500
_CLOCK_SECONDS = 60
_IMPORT = "import {0}; print(getattr({0}, '__version__', '?'))"


@dataclass(frozen=True)
class Check:
    """One line: what was asked, whether it is well, what was found, and how to mend it."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def examine(device: Device) -> list[Check]:
    """Every check that could be made; where the device does not answer at all, that is the only one. What the device
    is goes into the book."""
    try:
        with connected(device) as agent:
            return [Check("link", True, device.url), *_examine(agent, device)]
    except MedgeError as error:
        return [Check("link", False, error.message, error.fix)]


def _examine(agent: Agent, device: Device) -> list[Check]:
    hello = agent.hello
    kind = _kind(agent, device)
    return [
        Check("python", True, f"{hello['python']} ({hello['executable']})"),
        _package(agent, device, "numpy", "numpy"),
        _package(agent, device, "PIL", "Pillow"),
        _engines(agent, device),
        *_space(agent, device),
        _clock(agent.clock_ahead_seconds),
        kind,
        *(_facts(agent, device) if kind.ok else []),
    ]


def _package(agent: Agent, device: Device, module: str, name: str) -> Check:
    answer = agent.run("{python}", "-c", _IMPORT.format(module), seconds=60)
    if answer["code"] == 0:
        return Check(name, True, answer["out"].strip())
    install = f"On the device: {agent.hello['executable']} -m pip install {name}"
    return Check(name, False, _last_line(answer["err"]), f"{install}; {_other_python(device, name)}")


def _other_python(device: Device, what: str) -> str:
    return f"or name an interpreter there that has {what}: {again(device, python='PATH')}"


def _engines(agent: Agent, device: Device) -> Check:
    found = {}
    for package in _engine_packages():
        answer = agent.run("{python}", "-c", _IMPORT.format(package), seconds=120)
        if answer["code"] == 0:
            found[package] = answer["out"].strip().splitlines()[-1]
    if found:
        return Check("engines", True, ", ".join(f"{name} {version}" for name, version in found.items()))
    return Check("engines", False, "no engine package can be imported",
                 f"One of them, e.g. {agent.hello['executable']} -m pip install onnxruntime; on a Jetson TensorRT "
                 f"comes with JetPack, for the system's python3; {_other_python(device, 'one')}")  # fmt: skip


def _engine_packages() -> list[str]:
    return sorted({plugins.load("backends", name).PACKAGE for name in plugins.names("backends")})


def _space(agent: Agent, device: Device) -> list[Check]:
    """The folder, and the job that runs in it, if one does."""
    try:
        answer = agent.ask("space")
    except MedgeError as error:
        return [Check("folder", False, error.message, error.fix)]
    free = answer["free_bytes"] / 1e6
    where = agent.hello["root"]
    kept = f", {', '.join(answer['left'])} kept there" if answer["left"] else ""
    folder = Check("folder", True, f"{where} can be written, {free:.0f} MB free{kept}")
    if free < _SPACE_MB:
        another = f"Free {_SPACE_MB} MB, or name another folder: {again(device, folder='PATH')}"
        folder = Check("folder", False, f"{where}: {free:.0f} MB free", another)
    if not answer["busy"]:
        return [folder]
    return [folder, Check("job", False, f"busy with {answer['busy']}", "Wait until the job has ended, then ask again.")]


def _clock(off: float) -> Check:
    if abs(off) > _CLOCK_SECONDS:
        return Check("clock", False, f"{off:+.0f} s from this machine's", "Set it: timedatectl set-ntp true")
    return Check("clock", True, f"{off:+.1f} s from this machine's")


def _kind(agent: Agent, device: Device) -> Check:
    looks = looks_like(agent.output)
    wrong = mismatch(device.kind, looks)
    if wrong is not None:
        return Check("kind", False, wrong, again(device, kind=looks))
    more = "" if looks == device.kind else f"; it looks like {looks}, of which medge can read more"
    return Check("kind", True, f"{device.kind}{more}")


def _facts(agent: Agent, device: Device) -> list[Check]:
    """Notes in the book what the device is; a line only where that is not to be had."""
    try:
        remember(device, plugins.load("devices", device.kind).facts(agent.output))
    except MedgeError as error:
        return [Check("facts", False, error.message, error.fix)]
    return []


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
