"""A plug-in is a file; its name is its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from medge import plugins
from medge.errors import RecipeError


def test_a_file_in_the_plugin_path_is_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "toaster.py").write_text("ANSWER = 42\n")
    (tmp_path / "devices" / "_helper.py").write_text("")
    assert "toaster" not in plugins.names("devices")
    monkeypatch.setenv("MEDGE_PLUGIN_PATH", str(tmp_path))
    assert "toaster" in plugins.names("devices")
    assert "_helper" not in plugins.names("devices")
    assert plugins.load("devices", "toaster").ANSWER == 42


def test_an_unknown_plugin_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="No backend 'openvin'") as caught:
        plugins.load("backends", "openvin")
    assert caught.value.fix == "Did you mean 'openvino'?"
