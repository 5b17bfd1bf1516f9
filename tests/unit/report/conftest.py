"""Made-up runs that the tests of the report share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medge import workspace
from medge.records import read_json
from medge.report import gather
from medge.sections import SelectSection
from medge.workspace import required, step
from tests.synthetic_run import write_run, write_stress


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "made-up")


@pytest.fixture
def stressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a stress stage between select and package."""
    stages = (*[stage for stage in workspace.STAGES if stage not in ("stress", "package")], "stress", "package")
    monkeypatch.setattr(workspace, "STAGES", stages)
    monkeypatch.setattr(gather, "STAGES", stages)
    run = write_run(tmp_path / "stressed")
    trial = read_json(run / "5-validate/trials.json")["engines"]["int8/openvino-int8"]["test"]

    def stress(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        write_stress(work, flipped=[row["sha256"] for row in trial["flips"]["rows"][:2]])
        return {}

    inputs = {"select": required(run, "select")}
    step(run, "stress", SelectSection(), inputs, SimpleNamespace(run=stress), seed=0)
    return run
