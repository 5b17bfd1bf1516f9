"""What a job needs there and does not find: a python that is new enough and speaks, and its packages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from medge import device_book, doctor
from medge.device_book import Device
from medge.errors import MissingError, ToolError
from tests import remote_run


def script(path: Path, text: str) -> str:
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


def test_no_python3(device: Device) -> None:
    with pytest.raises(MissingError, match="cart7 has no python-of-nobody that runs") as caught:
        remote_run.talk(replace(device, python="python-of-nobody"))
    assert "--python PATH" in caught.value.fix


def test_an_old_python(device: Device, tmp_path: Path) -> None:
    old = script(tmp_path / "python3", "printf '\\nMEDGE-AGENT 3.6.9\\n'; cat >/dev/null\n")
    with pytest.raises(MissingError, match=r"is 3\.6\.9; medge needs 3\.8 or newer"):
        remote_run.talk(replace(device, python=old))


def test_a_python_that_breaks_off(device: Device, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="did not start: no libc"):
        remote_run.talk(replace(device, python=script(tmp_path / "python3", "echo no libc >&2; exit 9\n")))


def test_no_numpy(device: Device, tmp_path: Path) -> None:
    import venv

    venv.create(tmp_path / "bare", with_pip=False)
    bare = replace(device, python=str(tmp_path / "bare/bin/python"))
    device_book.remove("cart7")
    device_book.add(bare)
    with pytest.raises(MissingError, match="No module named 'numpy'") as caught:
        remote_run.measured(tmp_path)
    assert "pip install numpy Pillow" in caught.value.fix
    checks = {check.name: check for check in doctor.examine(bare)}
    assert not checks["numpy"].ok
    assert "-m pip install numpy" in checks["numpy"].fix
    assert not checks["engines"].ok


def test_garbage(device: Device, tmp_path: Path) -> None:
    noise = script(tmp_path / "noise", "head -c 200000 /dev/zero | tr '\\0' 'x'; echo; exec sleep 30\n")
    with pytest.raises(ToolError, match="answers what medge does not understand"):
        remote_run.talk(replace(device, python=noise))
    late = script(tmp_path / "late", "printf 'Welcome!\\nMEDGE-AGENT 3.11.2\\n<html>\\n'; exec sleep 30\n")
    with pytest.raises(ToolError, match="<html>"):
        remote_run.talk(replace(device, python=late))


def test_a_greeting_before_the_answer_does_no_harm(device: Device, tmp_path: Path) -> None:
    kind = script(tmp_path / "python3", f'echo "Welcome to cart7"; exec {sys.executable} "$@"\n')
    remote_run.talk(replace(device, python=kind))
