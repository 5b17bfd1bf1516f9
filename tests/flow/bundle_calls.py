"""A bundle as a device calls it, in a process of its own, and the ways to spoil one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medge.records import read_json, write_json
from medge.runtime import bundle as bundles

BLOCKED = """
import runpy, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Block())
sys.argv = {argv}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
HOST_RING = ("torch", "typer", "pydantic", "rich", "yaml", "scipy", "sklearn", "timm", "nncf", "onnx", "jinja2")


def call(
    bundle: Path, *arguments: str, blocked: Sequence[str] = HOST_RING, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The runtime in a process without medge's host ring, its environment and its working folder."""
    code = BLOCKED.format(blocked=tuple(blocked), argv=[str(bundle / bundles.RUNTIME), *arguments])
    environment = {"PATH": os.defpath, "HOME": str(home or bundle.parent)}
    return subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, env=environment, cwd="/", timeout=120
    )


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def reseal(bundle: Path, **changes: Any) -> None:
    write_json(bundle / bundles.MANIFEST, {**read_json(bundle / bundles.MANIFEST), **changes})
    bundles.seal(bundle)


def flip(path: Path, position: int, mask: int = 0xFF) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= mask
    path.write_bytes(content)
