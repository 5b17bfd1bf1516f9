"""torchvision is importable beside any torch, and left alone where it needs no help."""

from __future__ import annotations

import subprocess
import sys

from medge import torchvision_ops


def test_torchvision_imports_after_the_schemas_are_declared() -> None:
    code = "from medge import torchvision_ops as t; t.define_missing(); import timm; print(t.define_missing())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_an_imported_torchvision_is_left_alone() -> None:
    torchvision_ops.define_missing()
    import torchvision  # noqa: F401

    assert torchvision_ops.define_missing() is False
