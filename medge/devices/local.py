"""The machine medge runs on, as Linux shows it: what it is (`facts`) and how it is just now (`state`).

Every fact is read by a command that prints a file, so that another kind of machine can be asked the same questions
over a link. What a machine does not show is None, and `missing` says why. Light ring.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import Any, Callable, Dict, List, Sequence

from medge.errors import MissingError, ToolError
from medge.protocols import Run

__all__ = ["Asked", "facts", "run_here", "sample", "state"]

_SECONDS = 10
_SYSTEMS_CAT = (None, "/bin/cat", "/usr/bin/cat")

# Of a processor's hundred flags, those that decide which kernels an engine takes.
_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def run_here(command: Sequence[str]) -> str:
    """The standard output of a command on this machine. Raises MissingError, ToolError.

    `cat FILE` is read in this process where `cat` is the system's own: what is asked while an engine is measured should
    start no processes.
    """
    if len(command) == 2 and command[0] == "cat" and shutil.which("cat") in _SYSTEMS_CAT:
        return _read_here(command[1])
    try:
        done = subprocess.run(list(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    except FileNotFoundError:
        raise MissingError(f"There is no command '{command[0]}' here.") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"'{' '.join(command)}' did not end within {_SECONDS} s.") from None
    if done.returncode != 0:
        raise ToolError(
            done.stderr.decode(errors="replace").strip() or f"'{' '.join(command)}' exited {done.returncode}."
        )
    return done.stdout.decode(errors="replace")


def _read_here(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return stream.read().decode(errors="replace")
    except OSError as error:
        raise ToolError(f"cat: {path}: {error.strerror}") from None


def facts(run: Run = run_here) -> Dict[str, Any]:
    """What the machine is; does not change between two measurements. `missing`: {name: why it is None}."""
    asked = Asked(run)
    asked.ask("cpu", "/proc/cpuinfo", _cpu_model)
    asked.ask("cores", "/proc/cpuinfo", lambda text: sum(_key(line) == "processor" for line in text.splitlines()))
    asked.ask("cpu_flags", "/proc/cpuinfo", _cpu_flags)
    asked.ask("memory_mb", "/proc/meminfo", lambda text: round(_kilobytes(text, "MemTotal") * 1024 / 1e6))
    asked.ask("kernel", "/proc/version", lambda text: text.split(" (")[0].strip())
    asked.ask("system", "/etc/os-release", _pretty_name)
    asked.ask("board", "/proc/device-tree/model", lambda text: text.rstrip("\0\n"))
    if run is run_here:
        asked.values["cores_allowed"] = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
        asked.values["architecture"] = platform.machine()
        asked.values["python"] = platform.python_version()
    return asked.as_dict()


def state(run: Run = run_here) -> Dict[str, Any]:
    """How the machine is just now: to be asked before and after a measurement.

    steal_seconds and cpu_pressure_seconds count up from the start of the machine: their differences matter.
    """
    cpu = "/sys/devices/system/cpu/cpu0/cpufreq"
    asked = Asked(run)
    asked.ask("governor", f"{cpu}/scaling_governor", lambda text: text.split()[0])
    asked.ask("frequency_mhz", f"{cpu}/scaling_cur_freq", lambda text: round(int(text) / 1000))
    if asked.values["frequency_mhz"] is None:
        asked.ask("frequency_mhz", "/proc/cpuinfo", _cpuinfo_mhz)
    asked.ask("temperature_c", "/sys/class/thermal/thermal_zone0/temp", lambda text: round(int(text) / 1000, 1))
    asked.ask("load_1_minute", "/proc/loadavg", lambda text: float(text.split()[0]))
    asked.ask("steal_seconds", "/proc/stat", lambda text: int(text.splitlines()[0].split()[8]) / 100)
    asked.ask("cpu_pressure_seconds", "/proc/pressure/cpu", _pressure_seconds)
    return asked.as_dict()


def sample(run: Run = run_here) -> Dict[str, Any]:
    """A reading for a time series (see `protocols.DeviceKind.sample`). Power: Intel's and AMD's energy counter of the
    processor package (Linux's powercap), where this user may read it."""
    cpu, rapl = "/sys/devices/system/cpu/cpu0", "/sys/class/powercap/intel-rapl:0"
    asked = Asked(run)
    asked.ask("frequency_mhz", f"{cpu}/cpufreq/scaling_cur_freq", lambda text: round(int(text) / 1000))
    if asked.values["frequency_mhz"] is None:
        asked.ask("frequency_mhz", "/proc/cpuinfo", _cpuinfo_mhz)
    asked.ask("temperature_c", "/sys/class/thermal/thermal_zone0/temp", lambda text: round(int(text) / 1000, 1))
    asked.ask("energy_uj", f"{rapl}/energy_uj", int)
    asked.ask("core", f"{cpu}/thermal_throttle/core_throttle_count", int)
    asked.ask("package", f"{cpu}/thermal_throttle/package_throttle_count", int)
    found = asked.as_dict()
    counts = {f"thermal, {name}": found.pop(name) for name in ("core", "package")}
    found["throttle_counts"] = {name: count for name, count in counts.items() if count is not None}
    found["throttled"] = []
    if found["energy_uj"] is not None:
        asked.ask("range", f"{rapl}/max_energy_range_uj", int)
        found["energy_range_uj"], found["power_of"] = asked.values["range"], "processor package (RAPL)"
    return found


class Asked:
    """Answers so far; a question that fails leaves None and the reason."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._texts: Dict[Sequence[str], str] = {}
        self.values: Dict[str, Any] = {}
        self._missing: Dict[str, str] = {}

    def ask(self, name: str, path: str, read: Callable[[str], Any]) -> None:
        """`read` makes the value `name` of the text in a file."""
        self.ask_command(name, ["cat", path], read, source=path)

    def ask_command(self, name: str, command: Sequence[str], read: Callable[[str], Any], *, source: str = "") -> None:
        """`read` makes the value `name` of what a command prints; `source` names it in the reason, else the command."""
        source = source or " ".join(command)
        self.values[name] = None
        try:
            self.values[name] = read(self._text(command))
            self._missing.pop(name, None)
        except (MissingError, ToolError) as error:
            self._missing[name] = f"{source}: {error.message.rsplit(': ', 1)[-1]}"
        except (IndexError, KeyError, ValueError):
            self._missing[name] = f"{source} does not say"

    def as_dict(self) -> Dict[str, Any]:
        return {**self.values, "missing": self._missing}

    def _text(self, command: Sequence[str]) -> str:
        key = tuple(command)
        if key not in self._texts:
            self._texts[key] = self._run(command)
        return self._texts[key]


def _key(line: str) -> str:
    return line.split(":")[0].strip()


def _values_of(text: str, *keys: str) -> List[str]:
    return [line.split(":", 1)[1].strip() for line in text.splitlines() if ":" in line and _key(line) in keys]


def _cpu_model(text: str) -> str:
    """`model name` on x86; arm64 names only the part, and on some boards the `Model`."""
    named = _values_of(text, "model name") or _values_of(text, "Model", "Hardware")
    if named:
        return named[0]
    return f"implementer {_values_of(text, 'CPU implementer')[0]} part {_values_of(text, 'CPU part')[0]}"


def _cpu_flags(text: str) -> List[str]:
    present = set(_values_of(text, "flags", "Features")[0].split())
    return [flag for flag in _FLAGS if flag in present]


def _cpuinfo_mhz(text: str) -> int:
    return round(float(_values_of(text, "cpu MHz")[0]))


def _kilobytes(text: str, name: str) -> int:
    return int(_values_of(text, name)[0].split()[0])


def _pretty_name(text: str) -> str:
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return pairs["PRETTY_NAME"].strip('"')


def _pressure_seconds(text: str) -> float:
    """Seconds in which some task waited for a processor: the `total=` (microseconds) of the line `some`."""
    (some,) = (line for line in text.splitlines() if line.startswith("some"))
    return round(int(dict(word.split("=") for word in some.split()[1:])["total"]) / 1e6, 3)
