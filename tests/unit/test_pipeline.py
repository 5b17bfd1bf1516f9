"""Nothing is built on a stage that found the model wanting, in the same command or in a later one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medge.sections import SelectSection
from tests.synthetic_run import write_run


def medge(*words: str, cwd: Path) -> tuple[int, Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", "medge", *words, "--json"], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose engine was chosen by hand although it fails the gate."""
    folder = tmp_path_factory.mktemp("home")
    write_run(folder / "runs" / "made-up", select=SelectSection(engine="pruned-int8/openvino-int8"))
    return folder


def test_a_choice_that_fails_the_gate_is_exit_5_and_the_report_is_written(home: Path) -> None:
    code, document, _ = medge("select", cwd=home)
    assert (code, document["verdict"]) == (5, "fail")
    assert (home / document["report"]).is_file()


def test_nothing_is_built_on_it_afterwards(home: Path) -> None:
    code, document, stderr = medge("stress", cwd=home)
    assert code == document["exit_code"] == 5
    assert "The verdict of select is fail" in document["error"]
    assert "Traceback" not in stderr
    assert medge("package", cwd=home)[0] == 2  # stress was never run
    assert not (home / "deploy").exists()
