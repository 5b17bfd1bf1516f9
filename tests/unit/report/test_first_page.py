"""What the first page says in words: transfer, alpha spent, where it fails; and the verdicts if several are read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from medge.report import fails, several, stress, transfer
from medge.report.gather import Found, gather
from medge.report.subgroups import by_value, worst_subgroup
from medge.sections import ValidateSection
from medge.trial import judge

CHOSEN = "int8/openvino-int8"


@pytest.fixture(scope="module")
def found(run: Path) -> Found:
    return gather(run)


def _with_sensitivity(found: Found, before: float, carried: float, refitted: float) -> Found:
    trial = found.judged[CHOSEN]["test"]
    new = {"sensitivity_carried": carried, "sensitivity_refitted": refitted}
    checks = [
        {**check, "float": before, "engine": new[check["quantity"]]} if check["quantity"] in new else check
        for check in trial["checks"]
    ]
    engines = {**found.judged, CHOSEN: {**found.judged[CHOSEN], "test": {**trial, "checks": checks}}}
    return dataclasses.replace(found, trials={**found.trials, "engines": engines})


def test_transfer_is_said_in_words(found: Found) -> None:
    moved = _with_sensitivity(found, 0.94, 0.88, 0.93)
    assert transfer.sentences(moved, CHOSEN)[0] == (
        "At the old threshold sensitivity fell from 0.940 to 0.880; re-fitted it is 0.930."
    )
    kept = _with_sensitivity(found, 0.94, 0.94, 0.95)
    assert transfer.sentences(kept, CHOSEN)[0] == (
        "At the old threshold sensitivity stayed at 0.940; re-fitted it is 0.950."
    )
    assert transfer.sentences(found, CHOSEN)[2].startswith("The threshold that ships is the old one (0.")


def test_alpha_spent_is_one_sentence(found: Found) -> None:
    assert several.spent(found) == (
        "6 engines were compared on validation images; one was confirmed once in this run on test images, at "
        "alpha 0.05 (one-sided)."
    )
    by_hand = dataclasses.replace(found, choice={**found.choice, "by_hand": True})
    assert "only if nobody had seen the test images" in several.spent(by_hand)
    none = dataclasses.replace(found, choice={})
    assert several.spent(none).endswith("none is chosen, so that no test verdict counts yet.")


def test_bonferroni_is_the_trial_at_alpha_over_the_number_of_engines(found: Found) -> None:
    made = several.corrected(found)
    assert made["bonferroni_alpha"] == 0.05 / 6
    section = ValidateSection.model_validate({**found.trials["protocol"], "alpha": 0.05 / 6})
    for name, one in made["engines"].items():
        tables = [found.table(who, split) for split in ("validation", "test") for who in ("float", name)]
        again = judge(*tables, section=section, seed=0).verdict
        assert (one["bonferroni"] == "pass") == (again == "pass"), name


def _corrected_of(found: Found, monkeypatch: pytest.MonkeyPatch, p: dict[str, float]) -> dict[str, Any]:
    """With made-up engines that pass at every alpha of at least their p."""
    monkeypatch.setattr(several, "_verdict", lambda _, name, alpha: "pass" if p[name] <= alpha else "inconclusive")
    verdicts = {name: {"test": {"verdict": "pass" if value <= 0.05 else "fail"}} for name, value in p.items()}
    made = dataclasses.replace(found, trials={**found.trials, "engines": verdicts})
    return dict(several.corrected(made)["engines"])


def test_holm_steps_down_from_the_surest(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = _corrected_of(found, monkeypatch, {"a": 0.001, "b": 0.015, "c": 0.02, "d": 0.06})
    assert {name: one["holm"] for name, one in engines.items()} == {
        "a": "pass", "b": "pass", "c": "pass", "d": "fail",
    }  # fmt: skip
    assert {name: one["bonferroni"] for name, one in engines.items()} == {
        "a": "pass", "b": "inconclusive", "c": "inconclusive", "d": "fail",
    }  # fmt: skip
    stopped = _corrected_of(found, monkeypatch, {"a": 0.02, "b": 0.02, "c": 0.04})
    assert {one["holm"] for one in stopped.values()} == {"inconclusive"}


def test_what_was_not_looked_at_is_said(found: Found) -> None:
    said = {entry["name"]: entry for entry in fails.where_it_fails(found, CHOSEN)}
    assert list(said) == ["new misses", "worst subgroup", "worst corruption", "images from elsewhere", "foreign images"]
    assert [name for name, entry in said.items() if not entry["looked"]] == list(said)[2:]


def test_the_worst_subgroup_is_surely_bad_and_not_merely_small(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = by_value(found, CHOSEN)
    worst = worst_subgroup(found, CHOSEN)
    assert worst is not None
    assert worst["upper"] == min(row["upper"] for row in rows)
    small = {**rows[0], "value": "tiny", "images": 2, "engine": 0.5, "lower": 0.095, "upper": 0.905}
    large = {**rows[0], "value": "large", "images": 200, "engine": 0.7, "lower": 0.633, "upper": 0.759}
    monkeypatch.setattr("medge.report.subgroups.by_value", lambda *_: [small, large])
    assert (worst_subgroup(found, CHOSEN) or {})["value"] == "large"


def test_stress_is_on_the_first_page(stressed: Path) -> None:
    found = gather(stressed)
    said = {entry["name"]: entry["text"] for entry in fails.where_it_fails(found, CHOSEN)}
    assert said["worst corruption"].startswith("defocus blur, severity 5: AUC 0.570, float model 0.574")
    assert said["worst corruption"].endswith(
        "Most lost: defocus blur, severity 1, AUC −0.004 against float. On 480 test images each."
    )
    assert said["foreign images"] == (
        "adult x-rays: 8.0 % of 150 images refused; it refuses 2.0 % of test images wrongly."
    )


def test_a_corruption_without_an_auc_is_neither_good_nor_the_worst(stressed: Path) -> None:
    found = gather(stressed)
    rows = [dict(row) for row in found.stress["corruptions"]["rows"]]
    rows[0] |= {"auc_engine": None, "auc_float": None, "difference": None, "lower": None}
    changed = dataclasses.replace(found, stress={**found.stress, "corruptions": {"images": 480, "rows": rows}})
    table = stress.corruptions(changed)
    assert table is not None
    assert table["rows"][0]["cells"][0]["engine"] == "–"
    assert table["rows"][0]["cells"][0]["shade"] == "1.00"
    assert (stress.worst_corruption(changed) or {})["kind"] == "defocus_blur"
