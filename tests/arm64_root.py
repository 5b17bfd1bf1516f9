"""A folder with a small arm64 Debian (Python, numpy, Pillow, onnxruntime) and an emulator to run it on x86-64.

Nothing is installed on this machine: packages are downloaded with private apt lists and unpacked by `dpkg -x`; wheels
come from pip for the other architecture. About 100 MB to download and 250 MB of disk. Emulation is several hundred
times slower than the hardware: it shows what an engine computes, never how fast.

    PYTHONPATH=. python tests/arm64_root.py FOLDER     # makes it there, or says what is missing
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Arm64", "Unavailable", "kept_folder", "make", "reason_to_skip"]

_PYTHON = "3.11"  # what Debian 12 ships
# Debian 12's qemu 7.2 computes wrong INT8 numbers in some engines; 10 does not.
_SUITES = {"root": "bookworm", "emulator": "trixie"}
_PACKAGES = (
    "libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 libcrypt1 libsqlite3-0 "
    "libreadline8 libtinfo6 libncursesw6 libuuid1 libdb5.3 libnsl2 libtirpc3 "
    f"libpython{_PYTHON}-minimal libpython{_PYTHON}-stdlib python{_PYTHON}-minimal python{_PYTHON} libgomp1"
).split()
_PLATFORMS = (
    "manylinux_2_34_aarch64", "manylinux_2_31_aarch64", "manylinux_2_28_aarch64", "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64", "manylinux2014_aarch64",
)  # fmt: skip
# `import onnxruntime` reads it and dies where it finds x86's. The two parts: Cortex-A72 (Raspberry Pi 4), and A76
# (Raspberry Pi 5), which has the dot products that INT8 kernels of newer boards use.
_PARTS = {
    "cortex-a72": ("0xd08", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a76": (
        "0xd0b",
        "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}


class Unavailable(Exception):
    """The root cannot be made here; the message says why."""


@dataclass(frozen=True)
class Arm64:
    """A ready root. `cpu` is what the emulator shows: a key of _PARTS."""

    folder: Path
    cpu: str

    def command(self, arguments: Sequence[str], *, pythonpath: Sequence[Path] = ()) -> list[str]:
        """The command that runs `python ARGUMENTS` in the emulator; files of this machine are seen at their paths."""
        path = os.pathsep.join(map(str, [self.folder / "site", *pythonpath]))
        return [
            str(self.folder / "qemu-aarch64"), "-cpu", self.cpu, "-L", str(self.folder / "root"),
            "-E", f"PYTHONPATH={path}", "-E", "PYTHONDONTWRITEBYTECODE=1",
            str(self.folder / "root" / "usr" / "bin" / f"python{_PYTHON}"), *arguments,
        ]  # fmt: skip

    def run(
        self, arguments: Sequence[str], *, pythonpath: Sequence[Path] = (), seconds: float = 600, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = self.command(arguments, pythonpath=pythonpath)
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, input=stdin)


def reason_to_skip() -> str | None:
    """Why the emulated tests do not run here unasked; None where they do."""
    if os.environ.get("MEDGE_ARM64") == "1":
        return None
    return "emulated arm64 (100 MB to download, minutes to run): set MEDGE_ARM64=1"


def kept_folder() -> Path | None:
    """Where the root is kept from one run of the tests to the next: MEDGE_ARM64_ROOT; None where it is not."""
    folder = os.environ.get("MEDGE_ARM64_ROOT")
    return Path(folder) if folder else None


def make(folder: Path, *, cpu: str = "cortex-a72") -> Arm64:
    """The root in `folder`, made there unless it already is. Raises Unavailable."""
    if platform.system() != "Linux" or not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Unavailable("making the arm64 root needs Debian's apt-get and dpkg")
    folder = folder.resolve()
    done = folder / "done"
    if not done.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _unpack(folder, "emulator", "amd64", ["qemu-user"])
        shutil.copy2(_emulator(folder / "emulator"), folder / "qemu-aarch64")
        _unpack(folder, "root", "arm64", _PACKAGES)
        _add_wheels(folder)
        for waste in ("emulator", "apt", "wheels"):
            shutil.rmtree(folder / waste, ignore_errors=True)
    _write_cpuinfo(folder / "root" / "proc" / "cpuinfo", cpu)
    arm64 = Arm64(folder, cpu)
    if not done.is_file():
        tried = arm64.run(["-c", "import numpy, PIL, onnxruntime; print(onnxruntime.__version__)"])
        if tried.returncode != 0:
            raise Unavailable(f"the emulated Python does not start: {tried.stderr.strip()[-400:]}")
        done.write_text(tried.stdout)
    return arm64


def _do(command: Sequence[str], *, cwd: Path, what: str) -> None:
    done = subprocess.run(list(command), cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{what}: {last[0] if last else f'exit {done.returncode}'}")


def _unpack(folder: Path, name: str, architecture: str, packages: Sequence[str]) -> None:
    """Downloads Debian packages of another architecture or release, and unpacks them into folder/name."""
    apt = folder / "apt" / name
    for part in ("lists/partial", "archives/partial", "debs"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keyring}] http://deb.debian.org/debian {_SUITES[name]} main\n")
    options = [
        f"-oAPT::Architecture={architecture}", f"-oAPT::Architectures={architecture}", "-oAPT::Sandbox::User=root",
        f"-oDir::Etc::SourceList={apt / 'sources.list'}", "-oDir::Etc::SourceParts=-",
        f"-oDir::State::Lists={apt / 'lists'}", f"-oDir::State::Status={apt / 'status'}",
        f"-oDir::Cache={apt}", f"-oDir::Cache::Archives={apt / 'archives'}", "-oAcquire::Languages=none",
    ]  # fmt: skip
    _do(["apt-get", *options, "update", "-qq"], cwd=apt, what="apt-get update")
    _do(["apt-get", *options, "download", "-qq", *packages], cwd=apt / "debs", what="apt-get download")
    for package in sorted((apt / "debs").glob("*.deb")):
        _do(["dpkg", "-x", str(package), str(folder / name)], cwd=folder, what=f"unpacking {package.name}")


def _emulator(unpacked: Path) -> Path:
    for path in (unpacked / "usr" / "bin" / "qemu-aarch64", unpacked / "usr" / "bin" / "qemu-aarch64-static"):
        if path.is_file():
            return path
    raise Unavailable("the package qemu-user holds no qemu-aarch64")


def _add_wheels(folder: Path) -> None:
    """numpy, Pillow and onnxruntime for arm64, in the versions that this Python has: one thing less that differs."""
    from importlib.metadata import version

    (folder / "wheels").mkdir()
    packages = [f"{name}=={version(name)}" for name in ("numpy", "pillow", "onnxruntime")]
    pip = [sys.executable, "-m", "pip"]
    flags = ["--only-binary=:all:", "--python-version", _PYTHON, "--implementation", "cp"]
    flags += [word for abi in ("cp311", "abi3", "none") for word in ("--abi", abi)]
    flags += [word for name in _PLATFORMS for word in ("--platform", name)]
    _do([*pip, "download", "-q", *flags, "-d", "wheels", *packages], cwd=folder, what="pip download")
    wheels = [str(path) for path in sorted((folder / "wheels").glob("*.whl"))]
    command = [*pip, "install", "-q", "--no-deps", "--no-compile", *flags, "--target", "site", *wheels]
    _do(command, cwd=folder, what="pip install for arm64")


def _write_cpuinfo(path: Path, cpu: str) -> None:
    part, features = _PARTS[cpu]
    core = (
        "processor\t: {0}\nBogoMIPS\t: 108.00\nFeatures\t: " + features + "\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: " + part + "\nCPU revision\t: 3\n\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(core.format(k) for k in range(os.cpu_count() or 1)))


if __name__ == "__main__":
    print(make(Path(sys.argv[1])).folder)
