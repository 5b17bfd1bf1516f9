"""The table of aims is read from the files that it names, and from nothing else."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def aims(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("compression_aims", ROOT / "benchmarks" / "compression_aims.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "compression_aims", module)
    spec.loader.exec_module(module)
    return module


def test_every_aim_has_a_figure_from_a_file_that_is_there(aims: Any) -> None:
    rows = aims.rows()
    assert {row.file for row in rows} <= {path.name for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert all(row.measured for row in rows)
    assert len({row.aim for row in rows}) == 11


def test_the_minute_of_a_search_is_met_only_where_a_file_holds_it(aims: Any) -> None:
    def met(minute: float | None) -> Any:
        return aims._minutes({"chosen": "a", "trials": [{"key": "a", "minute": minute}]}).met

    assert (met(None), met(37.0), met(61.0)) == (None, True, False)


def test_a_slower_engine_or_a_gate_that_does_not_pass_misses_the_aim(
    aims: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = json.loads((aims.RESULTS / "chest_xray_mixed.json").read_text())
    name = run["choice"]["chosen"]
    run["ratio_to_float"][name] = {"to": aims.FLOAT, "ratio": 0.2, "lower": 0.19, "upper": 0.21}
    run["engines"][name] |= {"validation": "pass", "verdict": "pass", "bytes": 1000}
    monkeypatch.setattr(aims, "RESULTS", tmp_path)

    def met() -> list[bool]:
        (tmp_path / "chest_xray_mixed.json").write_text(json.dumps(run))
        return [row.met for row in aims._chosen("chest_xray_mixed")]

    assert met() == [True, True]
    run["ratio_to_float"][name]["ratio"] = 0.23
    assert met() == [False, True]
    run["engines"][name]["validation"] = "inconclusive"
    assert met() == [False, False]
