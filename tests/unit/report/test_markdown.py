"""The model card and the change control plan: their parts, from the records."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medge import report
from medge.report.markdown import _plain
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def card(run: Path) -> str:
    report.write(run)
    return (run / "model-card.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plan(run: Path) -> str:
    report.write(run)
    return (run / "change-control.md").read_text(encoding="utf-8")


def _tables(text: str) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_the_card_has_the_parts_of_a_model_card(card: str) -> None:
    parts = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert parts == [
        "Model details", "Intended use", "Factors", "Metrics", "Data", "Quantitative analyses",
        "Limits: where it fails", "Ethical considerations", "Caveats and recommendations",
    ]  # fmt: skip
    assert "Research use; not a medical device" in card
    assert "Synthetic data." in card
    assert "At the old threshold sensitivity" in card
    assert "| sensitivity |" in card
    assert "| sex: F |" in card


def test_the_plan_has_three_parts_and_the_recipes_margins(plan: str) -> None:
    assert re.findall(r"^## \d\. (.*)$", plan, re.MULTILINE) == [
        "Description of modifications", "Modification protocol", "Impact assessment",
    ]  # fmt: skip
    assert "| AUC | one-sided lower bound of the difference above −0.010 |" in plan
    assert "| decisions that change | at most 2.0 % |" in plan
    assert "| size_mb of the chosen engine | limit 20.0 |" in plan
    assert "it is not one, and no authority has seen it" in plan


def test_checks_have_their_names(card: str, plan: str) -> None:
    for text in (card, plan):
        assert re.search(r"^\| AUC \| [+−\d]", text, re.MULTILINE)
        assert re.search(r"^\| sensitivity, carried over \|", text, re.MULTILINE)


@pytest.mark.parametrize("file", ["model-card.md", "change-control.md"])
def test_every_row_of_a_table_has_the_columns_of_its_head(run: Path, tmp_path: Path, file: str) -> None:
    odd = write_run(tmp_path / "odd", labels=("a|b", "c<i>", "[d](e)"), images=900)
    for folder in (run, odd):
        report.write(folder)
        text = (folder / file).read_text(encoding="utf-8")
        tables = _tables(text)
        assert len(tables) >= 3
        for table in tables:
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
            assert len(widths) == 1, table
    assert "<i>" not in text.replace("\\<i>", "")
    assert "](e)" not in text.replace("\\](e)", "")


def test_a_name_stays_plain_text() -> None:
    assert _plain("a|b\n# c <d> [e](f) *g*") == "a\\|b # c \\<d> \\[e\\](f) \\*g\\*"
    assert _plain(", ") == ", "
