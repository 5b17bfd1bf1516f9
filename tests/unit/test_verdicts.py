"""The verdict table, as a person without colour reads it."""

from __future__ import annotations

import io

from rich.console import Console

from medge.sections import ValidateSection
from medge.trial import judge
from medge.verdicts import reasons, verdict_table
from tests.unit.tables import noisy, table

QUICK = ValidateSection(bootstrap=200)


def shown(trials: dict) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(verdict_table(trials, title="test"))
    return stream.getvalue()


def test_failures_come_first_and_an_undecided_check_says_how_many_images_it_needs():
    few, many = table(60, per_group=1), table(2000)
    undecided = judge(few, few, few, few, section=QUICK, seed=0)
    worse = noisy(many, 4.0)
    failed = judge(many, worse, many, worse, section=QUICK, seed=0)
    passed = judge(many, many, many, many, section=QUICK, seed=0)
    assert "needs about 133 of class 1 images" in reasons(undecided)
    assert reasons(failed).startswith("auc -")
    assert reasons(failed).endswith("more")
    assert reasons(passed) == ""
    text = shown({"int8/a": undecided, "int8/b": failed, "float/c": passed})
    assert all(word in text for word in ("inconclusive", "fail", "pass", "int8/a", "0.00%"))


def test_more_than_two_classes_show_accuracy():
    many = table(900, classes=3)
    assert "accuracy" in shown({"x": judge(many, many, many, many, section=QUICK, seed=0)})
