"""The machine at hand, as far as it decides an engine's numbers: its instructions and the engine's version.

One INT8 file gives other logits on a processor without VNNI than on one with it, or under another version of its
engine. A selftest that passed here settles it, so it is remembered, outside the bundle.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Dict, List

from medge.records import sha256_of_json, write_json

__all__ = ["INSTRUCTIONS", "cores_allowed", "differences", "instructions", "machine", "passed_here", "remember_pass"]

# Those that choose between kernels with different rounding or saturation; Linux's names.
INSTRUCTIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16",
    "asimddp", "asimdhp", "i8mm", "bf16",
)  # fmt: skip


def machine(versions: Dict[str, str]) -> Dict[str, Any]:
    """What is compared between the host that validated and this device. `versions` is a backend's `versions()`."""
    return {"architecture": platform.machine(), "instructions": instructions(), "versions": dict(versions)}


def instructions() -> List[str]:
    """Those of INSTRUCTIONS that this processor has; none where the system has no /proc/cpuinfo."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.startswith(("flags", "Features")):
                    present = set(line.split(":", 1)[1].split())
                    return [name for name in INSTRUCTIONS if name in present]
    except OSError:
        pass  # not Linux: unknown, so none
    return []


def cores_allowed() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def differences(validated: Dict[str, Any], here: Dict[str, Any]) -> List[str]:
    """In words, what of the validating host this device lacks or has otherwise."""
    found = []
    if here["architecture"] != validated["architecture"]:
        found.append(f"the processor is {here['architecture']}, not {validated['architecture']}")
    lacking = [name for name in validated["instructions"] if name not in here["instructions"]]
    if lacking:
        found.append(f"the processor lacks {', '.join(lacking)}")
    for package, version in validated["versions"].items():
        if here["versions"].get(package) != version:
            found.append(f"{package} is {here['versions'].get(package, 'absent')}, not {version}")
    return found


def remember_pass(manifest_sha256: str, here: Dict[str, Any]) -> None:
    """Notes that this bundle passed its selftest on this machine. Raises OSError where nothing can be written."""
    path = _note(manifest_sha256, here)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"manifest_sha256": manifest_sha256, "machine": here, "selftest": "pass"})


def passed_here(manifest_sha256: str, here: Dict[str, Any]) -> bool:
    """Whether this bundle passed its selftest on a machine like this one, under this user."""
    return _note(manifest_sha256, here).is_file()


def _note(manifest_sha256: str, here: Dict[str, Any]) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "medge", f"selftest-{manifest_sha256[:16]}-{sha256_of_json(here)[:16]}.json")
