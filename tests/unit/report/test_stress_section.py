"""The section of the stress stage in the page, and a run without one."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from medge import report
from medge.records import read_json, write_json
from medge.report.gather import gather
from medge.report.stress import saliency
from medge.sections import SelectSection
from medge.workspace import required, step
from tests.unit.report.test_report import checked, text_of


def test_the_heat_table_has_a_number_for_every_shade(stressed: Path) -> None:
    page = report.write(stressed).read_text(encoding="utf-8")
    checked(page)
    table = page[page.index('<table class="heat">') :].split("</table>")[0]
    cells = re.findall(r'<td class="n" style="--shade: ([\d.]+)">(.*?)</td>', table)
    assert len(cells) == 15
    aucs = [float(re.findall(r"\d\.\d+", text_of(cell))[0]) for _, cell in cells]
    shades = [float(shade) for shade, _ in cells]
    darkest_first = [shade for _, shade in sorted(zip(aucs, shades, strict=True))]
    assert darkest_first == sorted(shades, reverse=True)
    rows = read_json(stressed / "8-stress/stress.json")["corruptions"]["rows"]
    assert aucs == [round(row["auc_engine"], 3) for row in rows]


def test_refusals_have_a_row_for_every_set(stressed: Path) -> None:
    text = text_of(report.write(stressed).read_text(encoding="utf-8"))
    assert "int8/openvino-int8 adult x-rays 150 12 8.0 % [4.6 %, 13.5 %]" in text
    assert "int8/openvino-int8 skin 200 200 100.0 %" in text


def test_pictures_of_where_models_look_lie_beside_their_flip(stressed: Path) -> None:
    page = report.write(stressed).read_text(encoding="utf-8")
    ledger = page[page.index("<h2>Changed decisions") : page.index("<h2>Data")]
    assert ledger.count("data:image/png;base64,") == 4
    first = ledger.split('<div class="flip ')[1]
    assert "float model (Grad-CAM)" in first
    assert "engine differs" in first


def test_a_picture_that_is_not_there_or_lies_outside_is_named(stressed: Path) -> None:
    found = gather(stressed)
    (stressed / "8-stress/cam-0.png").unlink()
    found.stress["saliency"][1]["difference"] = "../../secret.png"
    rows = saliency(found)
    assert rows[0]["note"] == "1 picture missing: cam-0.png"
    assert rows[1]["note"] == "1 picture missing: ../../secret.png"
    assert "difference" not in rows[1]


def test_a_run_without_stress_has_no_such_section(run: Path) -> None:
    assert "Under stress" not in report.write(run).read_text(encoding="utf-8")


def test_the_document_holds_the_stress_and_its_hash(stressed: Path) -> None:
    report.write(stressed)
    document = read_json(stressed / "report.json")
    assert document["stress"] == read_json(stressed / "8-stress/stress.json")
    assert document["from"]["stress"]["file"] == "8-stress/stress.json"


def test_what_stress_did_not_try_is_said_with_its_reason_in_the_section_and_on_the_first_page(stressed: Path) -> None:
    name = gather(stressed).stress["engine"]
    why = f"{name} was built on cart7 and runs there only"
    left = {"what": ["corrupted images", "the refusal of unlike images"], "why": why}
    empty = {"schema": 1, "engine": name, "reference": None, "corruptions": None, "ood": None, "saliency": []}

    def stress(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        write_json(work / "stress.json", {**empty, "not_run": left})
        return {}

    inputs = {"select": required(stressed, "select")}
    step(stressed, "stress", SelectSection(), inputs, SimpleNamespace(run=stress), seed=1)
    text = text_of(report.write(stressed).read_text(encoding="utf-8"))
    assert f"Under stress Not tried: corrupted images; the refusal of unlike images. {why}." in text
    assert f"Not looked at: {why}." in text
    assert f"Not looked at: {why}; it answers anything." in text
