"""What goes wrong with a link to a device, in words that name the device, and how to mend it."""

from __future__ import annotations

from medge.device_book import Device, again
from medge.errors import MedgeError, MissingError

__all__ = ["LinkCut", "NoLogin", "Unreachable", "explained"]


class LinkCut(MissingError):
    """The link was there and dropped: what was asked may be asked again."""


class Unreachable(MissingError):
    """Nobody answers at that address just now."""


class NoLogin(Unreachable):
    """Somebody answered and hung up before the login: a busy server does so now and then, another one always."""


def explained(error: BaseException, device: Device, seconds: float, *, connecting: bool, logged_in: bool) -> MedgeError:
    """What went wrong and how to mend it; a LinkCut where there was a link, so that asking again may help."""
    import asyncssh

    where = f"{device.name} ({device.url})"
    if isinstance(error, asyncssh.HostKeyNotVerifiable) or "host key" in str(error).lower():
        return MissingError(
            f"{where} shows another host key than the recorded one: another machine, or one that was set up anew.",
            fix=f"Do not go on before you know why. Then: {again(device)}",
        )
    if isinstance(error, asyncssh.PermissionDenied):
        return MissingError(
            f"{where} refused the login: {error.reason}.",
            fix="Check the user's name, and that its authorized_keys has your key: ssh-copy-id; or name a key: "
            + again(device, identity="FILE"),
        )
    if isinstance(error, (asyncssh.KeyImportError, asyncssh.KeyEncryptionError)) or (
        isinstance(error, OSError) and error.filename
    ):
        return MissingError(
            f"The identity of {where} cannot be used: {error}.",
            fix="Name a readable private key without a passphrase: "
            f"{again(device, identity='FILE')}; or put it into the agent (ssh-add FILE) and add the device without it: "
            f"{again(device, identity=None)}",
        )
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(f"{where} refused the connection: no ssh server listens there.", fix=_reach(device))
    lost = (asyncssh.ConnectionLost, asyncssh.DisconnectError, EOFError, BrokenPipeError, ConnectionResetError)
    if not logged_in and isinstance(error, lost):
        what = getattr(error, "strerror", None) or error or "the connection ended"
        return NoLogin(f"{where} cannot be reached: it hung up before the login ({what}).", fix=_reach(device))
    if isinstance(error, (asyncssh.ConnectionLost, asyncssh.DisconnectError, EOFError, BrokenPipeError)):
        return LinkCut(f"The link to {where} was cut: {error or 'it ended'}.", fix="Repeat the command.")
    if isinstance(error, ConnectionResetError):
        return LinkCut(f"The link to {where} was cut: {error.strerror or error}.", fix="Repeat the command.")
    if isinstance(error, TimeoutError):
        kind = Unreachable if connecting else LinkCut
        return kind(f"{where} did not answer within {seconds:g} s.", fix=_reach(device))
    if isinstance(error, asyncssh.ChannelOpenError):
        return LinkCut(f"{where} opened no channel: {error.reason}.", fix="Allow the user a command there.")
    return Unreachable(f"{where} cannot be reached: {error}.", fix=_reach(device))


def _reach(device: Device) -> str:
    offline = again(device, host="", identity=None)
    return f"Is it on, and are address and port right? Try to reach it with ssh. Has it no network: {offline}"
