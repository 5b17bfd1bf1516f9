"""The report over made-up runs: what it says, that it stands alone, and that it works from an unfinished run."""

from __future__ import annotations

import html
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score

from medge import report
from medge.errors import IntegrityError
from medge.records import read_json, write_json
from medge.report import figures, words
from medge.sections import SelectLimits, SelectSection
from medge.workspace import STAGES
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report.write(run).read_text(encoding="utf-8")


class Balance(HTMLParser):
    """Complains of tags that do not close in order."""

    _VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.resources += [str(v) for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def checked(text: str) -> Balance:
    parser = Balance()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser


def text_of(page: str) -> str:
    """The page without tags and figures, blanks folded."""
    page = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", page).split()))


def test_the_page_stands_alone(page: str) -> None:
    for resource in checked(page).resources:
        assert resource.startswith(("data:image/jpeg;base64,", "#")), resource
    assert "<script" not in page
    assert "<link" not in page
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert page.count("<svg") == 6


def test_the_first_page_says_verdict_choice_cost_and_notice(page: str) -> None:
    head = text_of(page[: page.index("Every engine on the test images")])
    for needed in (
        "✓ Pass".lower(),
        "int8/openvino-int8",
        "the fastest of 5 candidates",
        "research use; not a medical device",
        "synthetic data.",
        "pneumonia where its probability is at least 0.2990",
        "3.30 ms",
        "4.1 mb",
        "new misses",
        "3 pairs of images of different groups look alike.",
        "not built: tensorrt float16",
    ):
        assert needed in head.lower(), needed


def test_every_engine_has_a_verdict_in_words_beside_its_symbol(page: str) -> None:
    table = text_of(page[page.index("Every engine on the test images") : page.index("The gate, check by check")])
    assert table.count("✓ pass") == 3
    assert table.count("inconclusive") == 2  # no decision changed, and 240 images of 120 patients may be 120 in effect
    assert table.count("✕ fail") == 1


def test_new_misses_come_first_and_have_pictures(page: str) -> None:
    ledger = page[page.index("<h2>Changed decisions") : page.index("<h2>Data")]
    kinds = re.findall(r'<p class="kind">([^<]*)</p>', ledger)
    assert kinds == sorted(kinds, key=["new miss", "new alarm", "corrected miss", "corrected alarm"].index)
    assert ledger.count("data:image/jpeg;base64,") == len(kinds) == 3


def test_subgroups_add_up_to_all_test_images(run: Path, page: str) -> None:
    table = page[page.index("<h3>Subgroups") : page.index("All metrics with")]
    rows = [
        [text_of(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in table.split("<tr>")[2:]
    ]
    trial = read_json(run / "5-validate/trials.json")["engines"]["int8/openvino-int8"]["test"]
    assert {row[0] for row in rows} == {"sex: F", "sex: M"}
    assert sum(int(row[1]) for row in rows) == sum(trial["images"].values())
    changed = sum(int(row[1]) * float(row[4].split()[0]) / 100 for row in rows)
    assert changed == pytest.approx(trial["flips"]["count"], abs=0.5)


def test_the_same_run_gives_the_same_bytes(run: Path, page: str) -> None:
    assert report.write(run).read_text(encoding="utf-8") == page


@pytest.mark.parametrize("until", STAGES[:6])
def test_an_unfinished_run_has_a_report_of_what_is_there(run: Path, tmp_path: Path, until: str) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part)
    for number, stage in enumerate(STAGES[:7], start=1):
        if number > STAGES.index(until) + 1:
            shutil.rmtree(part / f"{number}-{stage}")
    page = report.write(part).read_text(encoding="utf-8")
    checked(page)
    head = text_of(page)
    assert "not finished" in head
    assert f"Finished: {', '.join(STAGES[: STAGES.index(until) + 1])}." in head


def test_a_run_without_any_stage_has_a_report(tmp_path: Path) -> None:
    assert "nothing yet" in report.write(tmp_path).read_text(encoding="utf-8")


def test_a_model_under_its_limits_stops_with_the_reason(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part)
    for stage in ("3-compress", "4-compile", "5-validate", "6-profile", "7-select"):
        shutil.rmtree(part / stage)
    record = read_json(part / "2-finetune/record.json")
    limit = {"quantity": "auc", "value": 0.91, "limit": 0.97, "verdict": "fail"}
    write_json(part / "2-finetune/record.json", {**record, "values": {"verdict": "fail", "limits": [limit]}})
    head = text_of(report.write(part).read_text(encoding="utf-8"))
    assert "fail stopped at finetune" in head
    assert "AUC 0.9100 on validation, under the recipe's limit of 0.970" in head


def test_a_stage_made_from_others_than_are_there_is_not_shown(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part)
    record = read_json(part / "4-compile/record.json")
    write_json(part / "4-compile/record.json", {**record, "key": "another"})
    text = text_of(report.write(part).read_text(encoding="utf-8"))
    assert "The validate stage is out of date and not shown: repeat medge validate." in text
    assert "Every engine on the test images" not in text


def test_where_no_candidate_is_left_the_nearest_miss_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "none", select=SelectSection(limits=SelectLimits(p90_ms=1)), synthetic=False)
    page = report.write(run).read_text(encoding="utf-8")
    checked(page)
    head = text_of(page)
    assert "fail no engine No candidate is left; the nearest miss is" in head
    assert "Limits: p90 ≤ 1 ms." in head
    assert "Synthetic data" not in head


def test_more_than_two_classes_and_names_that_look_like_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "three", labels=("a", "b<i>", "c & d"))
    page = report.write(run).read_text(encoding="utf-8")
    checked(page)
    assert "b<i>" not in page
    assert "recall of b&lt;i&gt;" in page
    assert "the most probable class" in page
    assert set(report.verdict_table(run)[0]) >= {"acc.", "recall"}


def test_the_verdict_table_has_a_row_per_engine_with_text_only(run: Path) -> None:
    rows = report.verdict_table(run)
    assert [row["engine"] for row in rows if "→" in row["engine"]] == ["→ int8/openvino-int8"]
    assert len(rows) == 6
    assert {type(value) for row in rows for value in row.values()} == {str}
    assert len({tuple(row) for row in rows}) == 1


def test_a_broken_record_is_an_error_that_names_the_file(run: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(run, part)
    (part / "5-validate/trials.json").write_text('{"engines": ')
    with pytest.raises(IntegrityError, match=r"trials\.json"):
        report.write(part)


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=60))
def test_the_area_under_the_drawn_curve_is_the_auc(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        return
    fpr, tpr = figures._roc_points(scores, positive)
    assert auc(fpr, tpr) == pytest.approx(roc_auc_score(positive, scores))


def test_numbers_have_sensible_digits_and_a_real_minus() -> None:
    assert [words.milliseconds(v) for v in (0.91234, 9.1234, 91.234, 912.34, None)] == [
        "0.912",
        "9.12",
        "91.2",
        "912",
        "–",
    ]
    assert [words.signed(v) for v in (0.00012, -0.00049, -0.0126, None)] == ["0.000", "0.000", "−0.013", "–"]
    assert words.ratio({"ratio": 0.456, "lower": 0.449, "upper": 0.461}) == "0.46 [0.45, 0.46]"
    assert [words.count(n, "new miss", "new misses") for n in (1, 2000)] == ["1 new miss", "2,000 new misses"]


def test_a_search_that_found_nothing_is_the_first_page_with_its_nearest_miss() -> None:
    from types import SimpleNamespace
    from typing import Any

    from medge.report.head import head

    sentence = "None of 9 chains tried is left; the nearest miss is ptq (int8): not met: flips."
    record = {"values": {"verdict": "fail", "search": {"sentence": sentence}}}
    found: Any = SimpleNamespace(choice={}, records={"data": {"values": {}}, "compress": record}, judged=[])
    page = head(found)
    assert (page["title"], page["sentence"]) == ("stopped at compress", sentence)
