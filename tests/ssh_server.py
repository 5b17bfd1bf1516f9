"""A real OpenSSH server as an ordinary process on loopback, and asyncssh's own one inside the test, for devices."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medge.device_book import Device

SSHD = "/usr/sbin/sshd"


def skip_without_sshd() -> None:
    if not Path(SSHD).exists():
        pytest.skip(f"needs an OpenSSH server ({SSHD}): apt-get install openssh-server")
    pytest.importorskip("asyncssh", reason="needs the extra ssh")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def make_key(path: Path) -> str:
    """A key pair at `path`; returns the public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(path.suffix + ".pub").read_text().split()[:2])


class Sshd:
    """A server whose user's commands see `environment`; `device` is how to reach it."""

    def __init__(self, folder: Path, *, environment: dict[str, str] | None = None, address: str = "127.0.0.1") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self._address = folder, free_port(), address
        host = make_key(folder / "host_key")
        client = make_key(folder / "id")
        (folder / "authorized_keys").write_text(client + "\n")
        pairs = " ".join(f'"{key}={value}"' for key, value in (environment or {}).items())
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {address}\nHostKey {folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nUseDNS no\n"
            + (f"SetEnv {pairs}\n" if pairs else "")
        )
        self.device = Device(
            "cart7", "linux", address, self.port, user=_user(), identity=str(folder / "id"), host_key=host,
            folder=str(folder / "device"),
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, prefix: tuple[str, ...] = ()) -> Sshd:
        run = Path("/run/sshd")
        if os.geteuid() == 0 and not run.exists():
            run.mkdir(mode=0o755)
        log = open(self.folder / "log", "wb")  # noqa: SIM115 - sshd's for as long as it lives
        self._process = subprocess.Popen(
            [*prefix, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log, stdin=subprocess.DEVNULL
        )
        log.close()
        until = time.monotonic() + 20
        while b"Server listening" not in (self.folder / "log").read_bytes():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError((self.folder / "log").read_text())
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)


@contextmanager
def sshd(folder: Path, **keys: Any) -> Iterator[Sshd]:
    skip_without_sshd()
    server = Sshd(folder, **keys).start()
    try:
        yield server
    finally:
        server.stop()


class InProcess:
    """asyncssh's server in a thread: runs commands with `sh -c`, the environment changed as told."""

    def __init__(self, folder: Path, *, environment: dict[str, str] | None = None) -> None:
        asyncssh = pytest.importorskip("asyncssh", reason="needs the extra ssh")
        folder.mkdir(parents=True, exist_ok=True)
        self._asyncssh, self._folder = asyncssh, folder
        self._environment = {**os.environ, **(environment or {})}
        host, client = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        client.write_private_key(str(folder / "id"))
        (folder / "id").chmod(0o600)
        self._host_key = host
        self._authorised = client.export_public_key().decode()
        self._children: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(self._listen())
        self.device = Device(
            "cart7", "linux", "127.0.0.1", self._server.sockets[0].getsockname()[1], user="nurse",
            identity=str(folder / "id"), host_key=host.export_public_key().decode().strip(),
            folder=str(folder / "device"),
        )  # fmt: skip

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> Any:
        asyncssh = self._asyncssh
        keys = asyncssh.import_authorized_keys(self._authorised)

        class Server(asyncssh.SSHServer):  # type: ignore[misc]
            def begin_auth(self, username: str) -> bool:
                return True

            def connection_made(self, connection: Any) -> None:
                self._connection = connection

            def public_key_auth_supported(self) -> bool:
                return True

            def validate_public_key(self, username: str, key: Any) -> bool:
                return username == "nurse" and keys.validate(key, "", "") is not None

        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Server, server_host_keys=[self._host_key], process_factory=self._execute,
            encoding=None,
        )  # fmt: skip

    async def _execute(self, process: Any) -> None:
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", process.command, env=self._environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self._children.append(child)
        asyncssh = self._asyncssh

        async def upwards(source: Any, target: Any) -> None:
            while block := await source.read(1 << 16):
                target.write(block)
                await target.drain()

        async def downwards() -> None:
            with suppress(asyncssh.Error, OSError):
                await upwards(process.stdin, child.stdin)
            child.stdin.close()

        down = asyncio.ensure_future(downwards())
        try:
            await asyncio.gather(upwards(child.stdout, process.stdout), upwards(child.stderr, process.stderr))
            process.exit(await child.wait())
        except (asyncssh.Error, OSError):
            child.stdin.close()
        finally:
            down.cancel()

    def stop(self) -> None:
        async def end() -> None:
            self._server.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for child in self._children:  # else the garbage collector does, in whatever test runs by then
                child._transport.close()
            await asyncio.sleep(0.05)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)


class Cutter:
    """A TCP proxy to a port that cuts every connection when told, or after so many random seconds, `cuts` times."""

    def __init__(self, port: int, *, cuts: int = 0, seconds: tuple[float, float] = (0.05, 1.0), seed: int = 0) -> None:
        self._target, self._random = port, random.Random(seed)
        self._seconds, self.left, self.done = seconds, cuts, 0
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def through(self, device: Device) -> Device:
        return replace(device, port=self.port)

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()
            self._open.append((near, far))
            if self.left > 0:
                self.left -= 1
                wait = self._random.uniform(*self._seconds)
                threading.Timer(wait, self._cut, args=(near, far)).start()

    def cut_all(self) -> None:
        """Cuts what is open now."""
        for pair in self._open:
            self._cut(*pair)

    def _cut(self, *sockets: socket.socket) -> None:
        self.done += 1
        for one in sockets:
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            one.close()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while block := source.recv(1 << 16):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def namespace_reason() -> str | None:
    """Why no network namespace can be made here; None where one can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and ip (iproute2)"
    made = subprocess.run(["ip", "netns", "add", "medge-try"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", "medge-try"], capture_output=True)
    return None if made.returncode == 0 else f"ip netns: {made.stderr.strip()}"


def _user() -> str:
    import getpass

    return getpass.getuser()
