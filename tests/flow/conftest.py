"""A bundle that was packaged from stages made by hand."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medge import manifest
from medge.sections import PackageSection
from medge.stages import package
from medge.workspace import Stage
from tests.fake_stages import fake_inputs


@pytest.fixture(scope="module")
def one_commit() -> Iterator[None]:
    """The repository may be committed to while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_git_state", lambda: {"commit": "0" * 40, "changed": False})
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    return fake_inputs(tmp_path_factory.mktemp("runs") / "fake")


@pytest.fixture(scope="module")
def made(
    one_commit: None, run: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("package")
    return work / "fake", package.run(PackageSection(), run, work, 0)


@pytest.fixture
def bundle(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy, to be spoiled."""
    return Path(shutil.copytree(made[0], tmp_path / "a b" / "bundle"))
