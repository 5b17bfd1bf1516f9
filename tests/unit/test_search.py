"""The search: its budget, what a killed one does not repeat, and what it chooses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medge import commands, plugins, search, search_report
from medge.errors import MissingError, RecipeError
from medge.model import create, specify
from medge.recipe import parse, with_settings
from medge.search_space import Candidate, candidate_of, first_points, space
from medge.search_trials import GIVEN_UP, Outcome
from medge.sections import CompressSection, SearchSection, ValidateSection
from medge.stages import compress
from tests.searches import outcome

SECTION = SearchSection(epochs=(1, 2), trials=12)
MODEL = create(specify("efficientnet_b0", classes=2, head="plain", dropout=0.0, size=32))  # with SiLU and squeezes
SPACE = space(SECTION, ("float32", "bfloat16"), MODEL)


def _candidate(point: Any) -> Candidate:
    return candidate_of(point, SECTION, ("stem", "block"))


def _made_up(candidate: Candidate) -> Outcome:
    """Faster with each compressor, nearer the margin with each; without one it is no trial."""
    if not candidate.chain:
        return replace(outcome(candidate.key, GIVEN_UP, 0, 1), auc_lower=None, latency=None, overshoot=10.0)
    depth = len(candidate.chain)
    return outcome(candidate.key, "pass" if depth < 3 else "fail", -0.002 * depth, 0.8**depth)


def _explore(database: Path, evaluate: Any = _made_up, section: SearchSection = SECTION, **more: Any) -> list[Outcome]:
    return search.explore(SPACE, _candidate, evaluate, section=section, database=database, seed=0, **more)


def test_trials_are_different_candidates_as_many_as_the_budget_says(tmp_path: Path) -> None:
    found = _explore(tmp_path / "t.db")
    assert len(found) == len({o.key for o in found}) == 12


def test_minutes_end_the_search_and_those_of_an_interrupted_one_count(tmp_path: Path) -> None:
    now = [0.0]

    def slow(candidate: Candidate) -> Outcome:
        now[0] += 60
        return _made_up(candidate)

    def minutes(n: float) -> list[Outcome]:
        section = SECTION.model_copy(update={"minutes": n})
        return _explore(tmp_path / "t.db", slow, section, clock=lambda: now[0])

    assert len(minutes(3)) == 3
    assert len(minutes(3)) == 3
    assert [o.minute for o in minutes(5)] == [1, 2, 3, 4, 5]
    assert now[0] == 5 * 60


def test_what_is_too_long_is_neither_tried_nor_counted(tmp_path: Path) -> None:
    def no_qat(candidate: Candidate, seconds: float) -> str:
        assert seconds > 0
        return "too long" if any(s.compressor == "qat" for s in candidate.chain) else ""

    found = _explore(tmp_path / "t.db", too_long=no_qat)
    assert len(found) == 12
    assert not any(o.key == _candidate(point).key for o in found for point in _qat_points())


def test_a_search_ends_where_all_is_too_long_and_a_larger_budget_tries_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _explore(tmp_path / "t.db", too_long=lambda candidate, seconds: "too long") == []
    assert "The search ends" in capsys.readouterr().err
    first = [_candidate(point).key for point in first_points(SPACE)]
    assert [o.key for o in _explore(tmp_path / "t.db")[: len(first)]] == first


def test_what_was_too_long_before_does_not_end_a_search_that_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is more of it than proposals in a row that may lead to nothing."""
    monkeypatch.setattr(search, "_REPEATS", 12)
    refused: set[str] = set()

    def all_of_it(candidate: Candidate, seconds: float) -> str:
        refused.add(candidate.key)
        return "too long"

    for _ in range(2):
        assert _explore(tmp_path / "t.db", too_long=all_of_it) == []
    assert len(refused) > search._REPEATS
    one = SECTION.model_copy(update={"trials": 1})
    as_before = lambda candidate, seconds: "too long" if candidate.key in refused else ""  # noqa: E731
    assert len(_explore(tmp_path / "t.db", section=one, too_long=as_before)) == 1


def test_another_space_is_another_study(tmp_path: Path) -> None:
    _explore(tmp_path / "t.db")
    fewer = {**SPACE, "precision": ("float32",)}
    found = search.explore(fewer, _candidate, _made_up, section=SECTION, database=tmp_path / "t.db", seed=0)
    assert len(found) == SECTION.trials


def _qat_points() -> list[Any]:
    return [point for point in first_points(SPACE) if point["quantiser"] == "qat"]


def test_minutes_of_a_trial_that_was_stopped_count(tmp_path: Path) -> None:
    now = [0.0]

    def stopped(candidate: Candidate) -> Outcome:
        now[0] += 60
        if now[0] == 120:
            raise KeyboardInterrupt
        return _made_up(candidate)

    section = SECTION.model_copy(update={"minutes": 4})
    with pytest.raises(KeyboardInterrupt):
        _explore(tmp_path / "t.db", stopped, section, clock=lambda: now[0])
    assert len(_explore(tmp_path / "t.db", stopped, section, clock=lambda: now[0])) == 3
    assert now[0] == 4 * 60


SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_search import _explore, _made_up
log = Path(sys.argv[2])
def evaluate(candidate):
    with open(log, "a") as stream:
        stream.write(candidate.key + "\\n")
    if len(log.read_text().splitlines()) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return _made_up(candidate)
_explore(Path(sys.argv[1]), evaluate)
"""


def test_a_killed_search_loses_the_running_trial_alone(tmp_path: Path) -> None:
    database, log = tmp_path / "t.db", tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(database), str(log)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    before = log.read_text().splitlines()
    assert len(before) == 4
    again: list[str] = []
    found = _explore(database, lambda c: (again.append(c.key), _made_up(c))[1])
    assert len(found) == 12
    assert [o.key for o in found[:3]] == before[:3]
    assert not set(before[:3]) & set(again)
    assert before[3] in again


def test_a_search_that_has_tried_everything_ends(tmp_path: Path) -> None:
    tiny = {name: values[:1] for name, values in SPACE.items()} | {"quantiser": ("none", "ptq")}
    section = SECTION.model_copy(update={"trials": 50})
    found = search.explore(tiny, _candidate, _made_up, section=section, database=tmp_path / "t.db", seed=0)
    assert len(found) == 2


def test_the_fastest_that_passes_is_chosen_and_noise_is_left_to_auc() -> None:
    a, b = outcome("a", "pass", -0.006, 0.300), outcome("b", "pass", -0.002, 0.303)
    c, d = outcome("c", "pass", -0.001, 0.5), outcome("d", "fail", -0.02, 0.1)
    e = outcome("e", "inconclusive", -0.011, 0.2)
    found = search.choose([a, b, c, d, e])
    assert found.chosen is b
    assert [o.key for o in found.front] == ["e", "a", "b", "c"]
    assert "Of 5 chains tried, b is chosen: 0.30 of the float32 latency" in found.sentence


def test_an_inconclusive_one_is_chosen_only_where_none_passes_and_that_is_said() -> None:
    found = search.choose([outcome("a", "inconclusive", -0.02, 0.3), outcome("b", "fail", -0.01, 0.2)])
    assert found.chosen is not None
    assert found.chosen.key == "a"
    assert "inconclusive on validation" in found.sentence


def test_where_all_fail_the_nearest_miss_is_named() -> None:
    gate = {"verdict": "fail", "flips": {"verdict": "fail"}, "auc": {"verdict": "pass"}}
    far, near = (outcome(n, "fail", -0.02, 0.3, overshoot=o, gate=gate) for n, o in (("far", 3.0), ("near", 0.5)))
    given_up = replace(outcome("slow", GIVEN_UP, 0, 1.1), why="no faster", overshoot=0.1)
    found = search.choose([far, near, given_up])
    assert (found.chosen, found.nearest) == (None, near)
    assert found.sentence == "None of 3 chains tried is left; the nearest miss is near: not met: flips."


outcomes = st.lists(
    st.builds(
        outcome,
        st.uuids().map(str),
        st.sampled_from(["pass", "inconclusive", "fail"]),
        st.floats(-0.1, 0),
        st.floats(0.05, 1.5),
    ),
    max_size=12,
)


@given(outcomes)
def test_nothing_on_the_front_is_beaten_and_what_is_off_it_is(found: list[Outcome]) -> None:
    best = search.front(found)
    kept = [o for o in found if o.verdict != "fail"]
    assert all(not search._beats(a, b) for a in kept for b in best)
    assert all(any(search._beats(a, b) for a in kept) for b in kept if b not in best)
    assert (search.choose(found).chosen is None) == (not kept)


def test_without_optuna_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingError) as caught:
        _explore(tmp_path / "t.db")
    assert caught.value.exit_code == 3
    assert "pip install 'medge[search]'" in caught.value.fix


def test_the_command_line_sets_the_budget() -> None:
    changes = commands.search_settings(search=True, minutes=5.0, trials=7)
    found = parse(with_settings({}, changes), origin="t").compress.search
    assert found is not None
    assert (found.minutes, found.trials) == (5.0, 7)
    assert commands.search_settings(search=False, minutes=None, trials=None) == []
    assert commands.search_settings(search=True, minutes=None, trials=None) == ["compress.search.minutes=60"]
    with pytest.raises(RecipeError, match="budget of a search"):
        commands.search_settings(search=False, minutes=5.0, trials=None)


def test_a_budget_of_the_recipe_stays_where_none_is_named() -> None:
    value = {"compress": {"search": {"minutes": 20, "trials": 7}}}
    for trials, expected in ((None, (20, 7)), (3, (20, 3))):
        changes = commands.search_settings(search=True, minutes=None, trials=trials, own=True)
        found = parse(with_settings(value, changes), origin="t").compress.search
        assert found is not None
        assert (found.minutes, found.trials) == expected


@pytest.mark.parametrize(("ahead", "words"), [("optuna", "needs Optuna"), ("openvino", "cannot run float32 here")])
def test_what_a_search_lacks_is_said_before_anything_is_trained(
    ahead: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = CompressSection(search=SearchSection(), variants={})
    nothing: Any = {}
    if ahead == "optuna":
        monkeypatch.setitem(sys.modules, "optuna", None)
    else:
        monkeypatch.setattr(plugins.load("backends", ahead), "missing", lambda precision: "no processor")
    with pytest.raises(MissingError, match=words):
        compress.look_ahead(section, nothing, 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"minutes": 0}, "compress.search.minutes"),
        ({"ratios": [1.0]}, "compress.search.ratios"),
        ({"epochs": []}, "at least one number of epochs"),
        ({"backend": "openvin"}, "Did you mean 'openvino'"),
        ({"trails": 3}, "Did you mean 'trials'"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(value: Any, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse({"compress": {"search": value}}, origin="t")
    assert words in caught.value.message


def test_the_variants_name_is_taken() -> None:
    with pytest.raises(RecipeError, match="is what the search finds"):
        parse({"compress": {"search": {}, "variants": {"search": ["ptq"]}}}, origin="t")


@pytest.mark.parametrize(
    ("precision", "named"), [("int8", ("float32",)), ("int8_bfloat16", ("float32", "int8_bfloat16"))]
)
def test_what_was_found_can_be_pasted_into_a_recipe(precision: str, named: tuple[str, ...], tmp_path: Path) -> None:
    chain = [{"compressor": "prune", "options": {"ratio": 0.5}}, {"compressor": "ptq", "options": {}}]
    chosen = replace(outcome("a", "pass", -0.002, 0.3, chain=chain), precision=precision)
    search_report.write(search.choose([chosen]), tmp_path, SECTION, ValidateSection())
    assert {p.name for p in tmp_path.iterdir()} == {"search.json", "search.png", "searched.yaml"}
    value = yaml.safe_load((tmp_path / "searched.yaml").read_text())
    found = parse(value, origin="t")
    steps = [(s.compressor, s.options) for s in found.compress.variants["searched"].first_passing[0]]
    assert steps == [("prune", {"ratio": 0.5}), ("ptq", {})]
    assert found.compile.backends == {"openvino": named}
