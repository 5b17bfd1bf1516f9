"""report.json: complete, finite, and every number traceable to a record and to a formula."""

from __future__ import annotations

import json
import math
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medge import report
from medge.errors import IntegrityError
from medge.records import read_json, sha256_of_file, sha256_of_json
from medge.report.formulas import FUNCTIONS, name_of
from medge.report.gather import gather
from medge.workspace import STAGES, completed
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def document(run: Path) -> dict[str, Any]:
    report.write(run)
    found: dict[str, Any] = json.loads((run / "report.json").read_text(), parse_constant=_refuse)
    return found


def _refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_it_says_its_schema_and_the_notice(document: dict[str, Any]) -> None:
    assert document["schema"] == 1
    assert document["notice"] == "research use; not a medical device"
    assert document["verdict"] == "pass"


def test_blocks_are_the_stages_files_and_name_their_hashes(run: Path, document: dict[str, Any]) -> None:
    assert set(document["from"]) == {"trials", "latency", "choice", "history"}
    for block, source in document["from"].items():
        assert document[block] == read_json(run / source["file"]), block
        assert source["sha256"] == sha256_of_file(run / source["file"])
        stage = completed(run, source["stage"])
        assert stage is not None
        assert source["record_sha256"] == stage.sha256


def test_hashes_are_those_of_the_records_engines_data_and_protocol(run: Path, document: dict[str, Any]) -> None:
    hashes = document["sha256"]
    done = {name: completed(run, name) for name in STAGES}
    assert hashes["stages"] == {name: stage.sha256 for name, stage in done.items() if stage is not None}
    assert hashes["engines"] == {engine.name: engine.sha256 for engine in gather(run).engines}
    assert hashes["chosen_engine"] == hashes["engines"]["int8/openvino-int8"]
    assert hashes["data"] == sha256_of_file(run / "1-data/manifest.csv")
    assert hashes["protocol"] == sha256_of_json(document["trials"]["protocol"])
    trial = document["trials"]["engines"]["int8/openvino-int8"]["test"]
    assert hashes["protocol"] == trial["protocol_sha256"]


def test_every_judged_quantity_leads_to_a_function_and_its_source(document: dict[str, Any]) -> None:
    needed = {"thresholds", "temperature", "mcnemar", "flips", "latency ratio", "ties", "net_benefit", "needed"}
    for of in document["trials"]["engines"].values():
        for trial in of.values():
            needed |= {name_of(name, difference=False) for name in trial["metrics"]["engine"]}
            needed |= {name_of(check["quantity"], difference=True) for check in trial["checks"]}
    assert needed <= set(document["formulas"])
    for quantity, entries in document["formulas"].items():
        for entry in entries:
            assert entry["says"], quantity
            assert entry["source"], quantity


@pytest.mark.parametrize("path", sorted({path for paths in FUNCTIONS.values() for path in paths}))
def test_a_formula_is_a_function_that_is_there(path: str) -> None:
    module, _, name = path.partition(":")
    assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize(
    ("quantity", "author"),
    [
        ("auc difference", "DeLong"),
        ("sensitivity difference", "Tango"),
        ("f1 difference", "Efron"),
        ("mcnemar", "McNemar"),
        ("temperature", "Guo"),
        ("net_benefit", "Vickers"),
        ("ties", "Hanley"),
        ("several_tests", "Holm"),
        ("needed", "Nam"),
    ],
)
def test_the_source_of_a_formula_is_named_with_its_year(document: dict[str, Any], quantity: str, author: str) -> None:
    text = " ".join(entry["says"] + entry["source"] for entry in document["formulas"][quantity])
    assert author in text
    assert re.search(r"\b(19|20)\d\d\b", text)


def test_every_number_is_finite(document: dict[str, Any]) -> None:
    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict):
            return [n for item in value.values() for n in numbers(item)]
        if isinstance(value, list):
            return [n for item in value for n in numbers(item)]
        return [value] if isinstance(value, float) else []

    found = numbers(document)
    assert len(found) > 1000
    assert all(math.isfinite(n) for n in found)


def test_derived_figures_agree_with_the_trial(document: dict[str, Any]) -> None:
    derived = document["derived"]
    trial = document["trials"]["engines"][derived["engine"]]["test"]
    assert sum(row["images"] for row in derived["subgroups"]) == sum(trial["images"].values())
    assert derived["operating_point_transfer"]["sensitivity"]["float"] == pytest.approx(
        trial["metrics"]["float"]["sensitivity"]["value"]
    )
    assert derived["operating_point_transfer"]["sensitivity"][derived["operating_point_transfer"]["used"]] == (
        pytest.approx(trial["metrics"]["engine"]["sensitivity"]["value"])
    )
    curve = derived["net_benefit"]
    assert {len(curve[key]) for key in ("thresholds", "float", "engine", "all")} == {99}
    assert curve["all"][0] == pytest.approx((curve["prevalence"] - 0.01) / 0.99)


def test_a_file_that_is_not_the_recorded_one_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    for file in ("5-validate/trials.json", "5-validate/predictions/float-test.csv", "6-profile/latency.json"):
        part = tmp_path / file.replace("/", "-")
        shutil.copytree(run, part)
        changed = part / file
        changed.write_text(changed.read_text().replace("1", "2", 1))
        with pytest.raises(IntegrityError, match=re.escape(changed.name)):
            report.write(part)


@pytest.mark.parametrize("until", [None, *STAGES[:6]])
def test_an_unfinished_run_has_all_four_files(tmp_path: Path, until: str | None) -> None:
    part = tmp_path / "part"
    if until is None:
        part.mkdir()
    else:
        write_run(part, until=until, images=400)
    report.write(part)
    assert {name for name in report.FILES.values() if (part / name).is_file()} == set(report.FILES.values())
    document = json.loads((part / "report.json").read_text(), parse_constant=_refuse)
    assert document["verdict"] == "not finished"
    assert (document["trials"] is not None) == (until in ("validate", "profile"))


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    def written() -> dict[str, bytes]:
        report.write(run)
        return {name: (run / name).read_bytes() for name in report.FILES.values()}

    assert written() == written()


def test_copies_of_an_image_are_not_ties(run: Path) -> None:
    found = gather(run)
    once, every = found.images("float", "test"), found.table("float", "test")
    assert len(once) == len(set(every.sha256)) == len(every)
    assert np.array_equal(once.logits, every.logits)
