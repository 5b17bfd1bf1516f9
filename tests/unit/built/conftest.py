"""A run measured on a device that built its engine; the kiln is known here too, but not to be had."""

from __future__ import annotations

import pytest

from medge import manifest
from tests.kiln import KILN, REFERENCE, Measured, measured


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measured(tmp_path_factory.mktemp("scored"), score="both")


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The kiln is known here too, but not to be had."""
    folder = tmp_path_factory.mktemp("plugin") / "backends"
    folder.mkdir()
    (folder / "kiln.py").write_text(REFERENCE.read_text() + KILN)
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(folder.parent))
    monkeypatch.delenv("KILN", raising=False)
    monkeypatch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
