"""A device of the book: asyncssh's own server in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from medge import device_book
from medge.device_book import Device
from tests import remote_run
from tests.ssh_server import InProcess


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    one = InProcess(tmp_path_factory.mktemp("server"))
    yield one
    one.stop()


@pytest.fixture
def device(server: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device in the book, its folder fresh."""
    remote_run.use_sleeper(monkeypatch)
    monkeypatch.setenv("MEDGE_DEVICES", str(tmp_path / "devices.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # nobody's ssh config
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    one = replace(server.device, python=sys.executable, folder=str(tmp_path / "device"))
    device_book.add(one)
    return one
