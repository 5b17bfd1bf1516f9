"""The device book: the machines that `--device` can name, in one file under the user's config folder.

`$MEDGE_DEVICES`, else `$XDG_CONFIG_HOME/medge/devices.json`, else `~/.config/medge/devices.json`; mode 0600. It holds
no secret: of keys the public one of each machine, and the path of an identity file.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medge import plugins
from medge.errors import IntegrityError, MedgeError, MissingError, RecipeError
from medge.records import from_json, read_json, write_json

__all__ = [
    "LOCAL", "Device", "add", "add_command", "again", "devices", "find", "find_for", "kinds", "parse_url", "path",
    "refuse_unfit", "remember", "remove",
]  # fmt: skip

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ADD = "Add one: medge devices add NAME ssh://user@host --kind KIND"


@dataclass(frozen=True)
class Device:
    """A machine. `host` may be an alias of the user's ssh config. None: what ssh itself would take.

    host_key: the public key that it must prove, as in an OpenSSH .pub file. folder: where jobs may write there, else
    `~/.cache/medge`. python: the interpreter there that has numpy, Pillow and the engine's package.
    facts: what it was when it last answered.
    """

    name: str
    kind: str
    host: str
    port: int | None = None
    user: str | None = None
    identity: str | None = None
    host_key: str | None = None
    folder: str | None = None
    python: str = "python3"
    facts: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{self.host}{f':{self.port}' if self.port else ''}"


LOCAL = Device("local", "local", "localhost")


def path() -> Path:
    """Where the book is."""
    if named := os.environ.get("MEDGE_DEVICES"):
        return Path(named)
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(config, "medge", "devices.json")


def kinds() -> list[str]:
    """Kinds that a device of the book can have."""
    return [name for name in plugins.names("devices") if name != LOCAL.kind]


def devices() -> list[Device]:
    """Those of the book, by name. Raises IntegrityError for a book that cannot be read."""
    if not path().is_file():
        return []
    try:
        found = [from_json(Device, item) for item in read_json(path())["devices"]]
        return sorted(found, key=lambda device: device.name)
    except (KeyError, TypeError, MedgeError) as error:
        why = error.message if isinstance(error, MedgeError) else f"it has no list of devices ({error!r})"
        aside = shlex.join(["mv", str(path()), f"{path()}.broken"])
        raise IntegrityError(
            f"{path()} is not a device book: {why}",
            fix=f"Move it away, and add the devices again: {aside}; medge devices add NAME ssh://user@host --kind KIND",
        ) from error


def find(word: str, *, naming: str = "--device") -> Device:
    """The device called `word`, or the only one of that kind. Raises RecipeError where there are several of that kind,
    MissingError where there is none. naming: what stands before a device's name in the command that asks."""
    if word == LOCAL.name:
        return LOCAL
    known = devices()
    for device in known:
        if device.name == word:
            return device
    if word in kinds():
        of_kind = [device for device in known if device.kind == word]
        if len(of_kind) > 1:
            several = ", ".join(device.name for device in of_kind)
            raise RecipeError(
                f"There are {len(of_kind)} devices of kind {word}: {several}.",
                fix=f"Name one: {naming} {of_kind[0].name}",
            )
        if not of_kind:
            raise MissingError(f"No device of kind {word} is known.", fix=_ADD.replace("KIND", word))
        return of_kind[0]
    names = [LOCAL.name, *(device.name for device in known)]
    raise MissingError(f"There is no device '{word}'.", fix=f"{plugins.nearest(word, names)} {_ADD}")


def find_for(word: str, recipe: Path) -> Device:
    """As `find`; where nobody knows the device and the recipe in that file is what asks for it, the error says so."""
    try:
        return find(word)
    except MissingError as error:
        if not _asks_for(recipe, word):
            raise
        raise MissingError(
            f"{error.message} {recipe} asks for it (profile.device), since a --device once named it or it was written "
            "there.",
            fix="Ask for another: medge profile --device local, or --set profile.device=local with any command; or "
            f"record it again: medge devices add {word} ssh://user@host --kind KIND.",
        ) from error


def _asks_for(recipe: Path, word: str) -> bool:
    import yaml

    try:
        value = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    section = value.get("profile") if isinstance(value, dict) else None
    return isinstance(section, dict) and section.get("device") == word


def add(device: Device) -> None:
    """Writes it into the book. Raises RecipeError as `refuse_unfit`."""
    refuse_unfit(device)
    _write([*devices(), device])


def refuse_unfit(device: Device) -> None:
    """Raises RecipeError for a name or kind that cannot be, or a name that is taken."""
    if not _NAME.fullmatch(device.name):
        raise RecipeError(f"{device.name!r} cannot be a device's name.", fix="Use a-z, 0-9, '.', '_' and '-'.")
    if device.name in {*plugins.names("devices"), "all"}:
        raise RecipeError(f"'{device.name}' is the name of a kind.", fix="Call it otherwise, e.g. cart7.")
    if device.kind not in kinds():
        raise RecipeError(f"No kind of device '{device.kind}'.", fix=plugins.nearest(device.kind, kinds()))
    if device.name in {one.name for one in devices()}:
        raise RecipeError(
            f"There already is a device '{device.name}'.", fix=f"First: medge devices remove {device.name}"
        )


def remove(name: str) -> Device:
    """Takes it out of the book. Raises MissingError where it is not in it."""
    known = devices()
    gone = [device for device in known if device.name == name]
    if not gone:
        fix = plugins.nearest(name, [device.name for device in known]) if known else _ADD
        raise MissingError(f"There is no device '{name}' in {path()}.", fix=fix)
    _write([device for device in known if device.name != name])
    return gone[0]


def add_command(device: Device, **changes: Any) -> str:
    """The command that records this device, with all that is recorded of it; `changes` in place of its fields. A host
    that is empty has no network."""
    wanted = replace(device, **changes)
    words = ["medge", "devices", "add", wanted.name, wanted.url if wanted.host else "--offline", "--kind", wanted.kind]
    python = wanted.python if wanted.python != Device.python else None
    for option, value in (("identity", wanted.identity), ("folder", wanted.folder), ("python", python)):
        words += [f"--{option}", value] if value is not None else []
    return shlex.join(words)


def again(device: Device, **changes: Any) -> str:
    """The commands that record a device otherwise: where the book has one of that name, it must go first."""
    command = add_command(device, **changes)
    known = device.name in {one.name for one in devices()}
    return f"medge devices remove {device.name}; {command}" if known else command


def remember(device: Device, facts: dict[str, Any]) -> None:
    """Notes what a device of the book is, for when it does not answer."""
    known = devices()
    changed = [replace(one, facts=facts) if one.name == device.name else one for one in known]
    if changed != known:
        _write(changed)


def parse_url(url: str) -> tuple[str, int | None, str | None]:
    """Host, port and user of `ssh://user@host:port`, `user@host` or `host`. Raises RecipeError."""
    text = url if "://" in url else f"ssh://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "ssh" or not parts.hostname or parts.path not in ("", "/") or parts.password or parts.query:
        raise RecipeError(f"{url!r} is no ssh address.", fix="Write ssh://user@host:port (no password, no path).")
    host = parts.netloc.rpartition("@")[2]  # hostname is in lower case; an alias of an ssh config may not be
    host = host.rpartition(":")[0] if port is not None else host
    return host.strip("[]"), port, parts.username


def _write(known: list[Device]) -> None:
    """Written aside and renamed, mode 0600. Raises MedgeError where the folder cannot be written."""
    place = path()
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        old = os.umask(0o077)
        try:
            write_json(place, {"schema": 1, "devices": sorted(known, key=lambda device: device.name)})
        finally:
            os.umask(old)
    except OSError as error:
        raise MedgeError(
            f"The device book {place} cannot be written: {error.strerror}.", fix="Name another: MEDGE_DEVICES=FILE"
        ) from error
