"""What `medge devices ...` does, without the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from medge import console, device_book
from medge.commands import Outcome
from medge.device_book import Device
from medge.devices import local
from medge.errors import MissingError, RecipeError
from medge.records import NOTICE

__all__ = ["add", "clean", "doctor", "list_devices", "remove"]


def add(device: Device, url: str | None, *, accept: bool, ask: Callable[[str], bool], offline: bool = False) -> Outcome:
    """Records a device and the key of its host, once somebody has looked at the fingerprint. Raises MedgeError."""
    _refuse_unclear(device, url, offline=offline)
    if url is None:
        device_book.add(device)
        return _shown(device, f"{device.name} is recorded, without a network: medge profile --device {device.name} "
                      "--export job.zip")  # fmt: skip
    host, port, user = device_book.parse_url(url)
    device = Device(device.name, device.kind, host, port, user, _identity(device.identity), None, device.folder,
                    device.python)  # fmt: skip
    device_book.refuse_unfit(device)  # before the network is asked
    from medge.link import host_key

    key = host_key(device)
    console.stderr.print(f"{device.url} shows the key {key.fingerprint}", markup=False, soft_wrap=True)
    if not accept and not ask("Is it the machine's own (there: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub)?"):
        why = "" if is_terminal() else " There is no terminal to ask at, and piped answers are not taken."
        raise RecipeError(
            f"Nothing was recorded.{why}", fix="Compare the fingerprint, then say yes at a terminal, or give --yes."
        )
    device = Device(**{**device.__dict__, "host_key": key.public})
    device_book.add(device)
    return _shown(device, f"{device.name} is recorded: medge devices doctor {device.name}", fingerprint=key.fingerprint)


def list_devices() -> Outcome:
    """The book, `local` first."""
    known = [device_book.LOCAL, *device_book.devices()]
    document = {"book": str(device_book.path()), "devices": [_public(device) for device in known], "notice": NOTICE}
    return Outcome(document, lambda: _show_table(known))


def doctor(name: str) -> Outcome:
    """Every check of a device; exit 3 where one is not well."""
    device = _elsewhere(name, "doctor")
    from medge.doctor import examine

    checks = examine(device)
    well = all(check.ok for check in checks)
    document = {"device": device.name, "ok": well, "checks": [check.__dict__ for check in checks], "notice": NOTICE}

    def show() -> None:
        for check in checks:
            console.stdout.print(f"{'ok     ' if check.ok else 'problem'} {check.name}: {check.found}", markup=False,
                                 soft_wrap=True)  # fmt: skip
            if check.fix:
                console.stdout.print(f"          fix: {check.fix}", markup=False, soft_wrap=True)

    return Outcome(document, show, 0 if well else MissingError.exit_code)


def remove(name: str) -> Outcome:
    """Forgets a device. What it keeps of medge stays there: `clean` first."""
    if name == device_book.LOCAL.name:
        raise RecipeError("'local' is this machine: it is always there, and not in the book.", fix=_others("remove"))
    gone = device_book.remove(name)
    if not gone.host or gone.facts is None:  # no job and no doctor of ours ever reached it
        return _shown(gone, f"{name} is forgotten.")
    return _shown(
        gone,
        f"{name} is forgotten. What jobs kept there, in {gone.folder or '~/.cache/medge'}, stays, if anything does. To "
        "have it gone: "
        f"{device_book.add_command(gone)}; medge devices clean {name}; medge devices remove {name}",
    )


def clean(name: str) -> Outcome:
    """Removes what medge keeps on a device, and its folder where nothing else is in it. Refused while a job runs."""
    device = _elsewhere(name, "clean")
    from medge.conversation import connected

    with connected(device) as agent:
        answer, root = agent.ask("clean"), agent.hello["root"]
    document = {"device": device.name, "folder": root, **answer, "notice": NOTICE}
    text = _cleaned(device.name, root, answer)
    return Outcome(document, lambda: console.stderr.print(text, markup=False, soft_wrap=True))


def _cleaned(name: str, root: str, answer: Mapping[str, Any]) -> str:
    """What `clean` removed and what it left, in words."""
    left = ", ".join(answer["left"])
    if answer["gone"]:
        return f"{root} is gone from {name}." if answer["removed"] else f"{name} has nothing of medge in {root}."
    stays = (
        f"{root} stays, with what is not medge's: {left}." if left else f"{root} stays: it was there, empty, before."
    )
    what = ", ".join(answer["removed"])
    return f"Removed from {name}: what medge had in {what}. {stays}" if what else f"Nothing was removed. {stays}"


def _refuse_unclear(device: Device, url: str | None, *, offline: bool) -> None:
    """Raises RecipeError for a device with neither an address nor --offline, or with both."""
    address = url or "ssh://user@host"
    host, port, user = device_book.parse_url(address)
    networked = device_book.add_command(replace(device, host=host, port=port, user=user))
    without = device_book.add_command(device, host="")
    if offline and url is not None:
        raise RecipeError(
            f"--offline says that {device.name} has no network, and {url} is an address in one.",
            fix=f"With the address: {networked}; without: {without}",
        )
    if not offline and url is None:
        raise RecipeError(
            f"No address of {device.name} was given.",
            fix=f"{networked}; of a machine without a network: {without}",
        )


_LOCAL_INSTEAD = {
    "doctor": "'local' is this machine: there is no link to it that could be ill.",
    "clean": "'local' is this machine: engines stay in the run's own folder, and no job left any beside it.",
}


def _elsewhere(name: str, command: str) -> Device:
    """A device of the book. Raises RecipeError for `local`, with what helps instead; what `find` raises."""
    device = device_book.find(name, naming=f"medge devices {command}")
    if device.name == device_book.LOCAL.name:
        here = "Measure here: medge profile --device local, which names what a backend lacks. "
        raise RecipeError(_LOCAL_INSTEAD[command], fix=(here if command == "doctor" else "") + _others(command))
    return device


def _others(command: str) -> str:
    """The same command for a device that it can be about; how to add one where there is none."""
    known = [device.name for device in device_book.devices()]
    if not known:
        return "The book holds no other machine; medge devices add NAME ssh://user@host --kind KIND records one."
    return f"Another machine: medge devices {command} {known[0]}" + (
        f" (or {', '.join(known[1:])})" if known[1:] else ""
    )


def is_terminal() -> bool:
    return sys.stdin.isatty()


def _identity(path: str | None) -> str | None:
    """An absolute path of a private key that can be read. Raises MissingError."""
    if path is None:
        return None
    found = Path(os.path.expanduser(path)).absolute()
    if not found.is_file():
        raise MissingError(
            f"There is no identity file {found}.", fix="Name a private key: --identity ~/.ssh/id_ed25519"
        )
    return str(found)


def _public(device: Device) -> dict[str, Any]:
    known = local.facts() if device.name == device_book.LOCAL.name else device.facts or {}
    url = device.url if device.host and device.kind != "local" else None
    return {**asdict(device), "url": url, "facts": known.get("board") or known.get("cpu")}


def _shown(device: Device, text: str, **more: str) -> Outcome:
    document = {"device": _public(device), **more, "notice": NOTICE}
    return Outcome(document, lambda: console.stderr.print(text, markup=False, soft_wrap=True))


def _show_table(known: list[Device]) -> None:
    columns = ("name", "kind", "address", "hardware when last seen")
    rows = []
    for device in known:
        address = "this machine" if device.kind == "local" else device.url if device.host else "no network"
        rows.append((device.name, device.kind, address, _public(device)["facts"] or "-"))
    console.stdout.print(console.table(columns, rows, left=columns))
