"""A link to a device over ssh, with a plain synchronous face: one command there, bytes in and lines out.

asyncssh, because the user's ssh config, agent and jump hosts then count, and many devices can be held at once. The
host must prove the key in the device book, always: the user's known_hosts decides for jump hosts only.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from medge import device_book
from medge.device_book import Device, again
from medge.errors import MissingError
from medge.link_errors import LinkCut, explained

if TYPE_CHECKING:
    import asyncssh

__all__ = ["HostKey", "Link", "host_key", "refuse_missing_package"]

T = TypeVar("T")

CONNECT_SECONDS = 15.0
_KEEPALIVE_SECONDS, _KEEPALIVES = 5, 4


@dataclass(frozen=True)
class HostKey:
    """What a host shows: its public key as in a .pub file, and the fingerprint that `ssh-keygen -l` prints."""

    public: str
    fingerprint: str


class Link:
    """A connection with one process at its far end. A context manager: leaving it closes both."""

    def __init__(self, device: Device) -> None:
        """Connects. Raises MissingError, with the fix, where that is not possible or the host is another one."""
        refuse_missing_package()
        self.device = device
        self._loop = _Loop()
        self._process: asyncssh.SSHClientProcess[bytes] | None = None
        self._logged_in = False
        try:
            self._connection: asyncssh.SSHClientConnection = self._do(_connect(device), CONNECT_SECONDS + 10)
        except BaseException:
            self._loop.stop()
            raise
        self._logged_in = True

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self, command: str) -> None:
        """Starts the far process; its stdin and stdout are this link's."""

        async def begin() -> asyncssh.SSHClientProcess[bytes]:
            return await self._connection.create_process(command, encoding=None)

        self._process = self._do(begin(), CONNECT_SECONDS)

    def write(self, content: bytes, *, seconds: float = 60.0) -> None:
        """Sends bytes; returns when they are on their way. Raises LinkCut."""

        async def send() -> None:
            stdin = self._running.stdin
            for start in range(0, len(content), 1 << 18):
                stdin.write(content[start : start + (1 << 18)])
                await stdin.drain()

        self._do(send(), seconds)

    def read_line(self, *, seconds: float, limit: int = 1 << 26) -> bytes:
        """A line of the far process's stdout, `b""` where it has ended. Raises LinkCut."""
        line: bytes = self._do(self._running.stdout.readline(), seconds)
        return line[:limit]

    def read(self, count: int, *, seconds: float) -> bytes:
        """Exactly so many bytes. Raises LinkCut."""
        content: bytes = self._do(self._running.stdout.readexactly(count), seconds)
        return content

    def last_words(self) -> tuple[int | None, str]:
        """The exit status of the far process, and what it said on stderr."""

        async def listen() -> tuple[int | None, str]:
            process = self._running
            said = await process.stderr.read(4000)
            await process.wait_closed()
            return process.exit_status, said.decode("utf-8", "replace").strip()

        return self._do(listen(), 30.0)

    def close(self) -> None:
        """Ends the far process and the connection; never raises for a link that is down already."""

        async def hang_up() -> None:
            self._connection.close()
            await self._connection.wait_closed()

        try:
            self._loop.run(hang_up(), 2.0)
        except (OSError, TimeoutError, concurrent.futures.TimeoutError):
            self._connection.abort()
        finally:
            self._loop.stop()

    @property
    def _running(self) -> asyncssh.SSHClientProcess[bytes]:
        if self._process is None:
            raise LinkCut("No process runs at the far end of the link.")
        return self._process

    def _do(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        import asyncssh

        try:
            return self._loop.run(work, seconds)
        except (asyncssh.Error, asyncssh.KeyImportError, OSError, EOFError, TimeoutError) as error:
            raise explained(
                error, self.device, seconds, connecting=self._process is None, logged_in=self._logged_in
            ) from error


def host_key(device: Device) -> HostKey:
    """The key that the host at that address shows just now. Raises MissingError."""
    refuse_missing_package()
    import asyncssh

    loop = _Loop()
    try:
        work = asyncssh.get_server_host_key(device.host, device.port or (), **_config())
        key = loop.run(work, CONNECT_SECONDS)
    except (asyncssh.Error, asyncssh.KeyImportError, OSError, EOFError, TimeoutError) as error:
        raise explained(error, device, CONNECT_SECONDS, connecting=True, logged_in=False) from error
    finally:
        loop.stop()
    if key is None:
        raise MissingError(f"{device.url} shows no host key.", fix="Give its ssh server one: ssh-keygen -A")
    return HostKey(key.export_public_key().decode().strip(), key.get_fingerprint())


def refuse_missing_package() -> None:
    """Raises MissingError where asyncssh is not installed."""
    try:
        import asyncssh  # noqa: F401
    except ImportError as error:
        raise MissingError(
            f"Devices over ssh need asyncssh ({error}).", fix="Install it: pip install 'medge[ssh]'"
        ) from error


def _config() -> dict[str, Any]:
    """The user's ssh config, looked up under $HOME as ssh does not but a test must; none where there is none."""
    config = Path(os.path.expanduser("~/.ssh/config"))
    return {"config": [str(config)] if config.is_file() else None}


async def _connect(device: Device) -> asyncssh.SSHClientConnection:
    import asyncssh

    if not device.host:
        raise MissingError(
            f"{device.name} has no network.", fix=f"medge profile --device {device.name} --export job.zip"
        )
    if device.host_key is None:
        raise MissingError(
            f"No host key of {device.name} is recorded, so it could be any machine.",
            fix=again(device),
        )
    try:
        trusted = asyncssh.import_public_key(device.host_key)
    except asyncssh.KeyImportError as error:
        raise MissingError(
            f"The host key of {device.name} in {device_book.path()} is not a valid key ({error}): it could be any "
            "machine.",
            fix=f"Record it again, and compare the fingerprint: {again(device)}",
        ) from error
    identity = {"client_keys": [os.path.expanduser(device.identity)]} if device.identity else {}
    return await asyncssh.connect(
        device.host,
        device.port or (),
        username=device.user or (),
        known_hosts=([trusted], [], []),
        connect_timeout=CONNECT_SECONDS,
        login_timeout=CONNECT_SECONDS,
        keepalive_interval=_KEEPALIVE_SECONDS,
        keepalive_count_max=_KEEPALIVES,
        **identity,
        **_config(),
    )


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """What `work` returns or raises; TimeoutError where it takes longer."""

        async def bounded() -> T:
            return await asyncio.wait_for(work, seconds)

        future = asyncio.run_coroutine_threadsafe(bounded(), self._loop)
        try:
            return future.result()
        except asyncio.TimeoutError as error:  # not yet the built-in one in Python 3.10
            raise TimeoutError(str(error)) from error
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        async def end_tasks() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end_tasks(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._loop.is_running():
            self._loop.close()
