"""The search: its budget, what a killed one does not repeat, and what it chooses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from medge import cli, commands, search, search_report, trial
from medge.errors import MissingError, RecipeError
from medge.model import create, specify
from medge.recipe import parse, with_settings
from medge.records import read_json
from medge.search_space import Candidate, candidate_of, space
from medge.search_trials import GIVEN_UP, Lab, Outcome, overshoot
from medge.sections import SearchSection, Step, ValidateSection
from medge.statistics.latency import Ratio
from tests.unit.tables import noisy, table

SECTION = SearchSection(epochs=(1, 2), trials=12)
MODEL = create(specify("efficientnet_b0", classes=2, head="plain", dropout=0.0, size=32))  # with SiLU and squeezes
SPACE = space(SECTION, ("float32", "bfloat16"), MODEL)


def _candidate(point: Any) -> Candidate:
    return candidate_of(point, SECTION, ("stem", "block"))


def _outcome(name: str, verdict: str, auc: float, ratio: float, **more: Any) -> Outcome:
    found = Outcome(name, name, [{"compressor": "ptq", "options": {}}], "int8", verdict, flips=0.01)
    return replace(found, auc_lower=auc, latency=Ratio(ratio, ratio * 0.98, ratio * 1.02), **more)


def _made_up(candidate: Candidate) -> Outcome:
    """Faster with each compressor, nearer the margin with each; without one it is no trial."""
    if not candidate.chain:
        return replace(_outcome(candidate.key, GIVEN_UP, 0, 1), auc_lower=None, latency=None, overshoot=10.0)
    depth = len(candidate.chain)
    return _outcome(candidate.key, "pass" if depth < 3 else "fail", -0.002 * depth, 0.8**depth)


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
    assert len(minutes(5)) == 5
    assert now[0] == 5 * 60


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
    a, b = _outcome("a", "pass", -0.006, 0.300), _outcome("b", "pass", -0.002, 0.303)
    c, d = _outcome("c", "pass", -0.001, 0.5), _outcome("d", "fail", -0.02, 0.1)
    e = _outcome("e", "inconclusive", -0.011, 0.2)
    found = search.choose([a, b, c, d, e])
    assert found.chosen is b
    assert [o.key for o in found.front] == ["e", "a", "b", "c"]
    assert "Of 5 chains tried, b is chosen: 0.30 of the float32 latency" in found.sentence


def test_an_inconclusive_one_is_chosen_only_where_none_passes_and_that_is_said() -> None:
    found = search.choose([_outcome("a", "inconclusive", -0.02, 0.3), _outcome("b", "fail", -0.01, 0.2)])
    assert found.chosen is not None
    assert found.chosen.key == "a"
    assert "inconclusive on validation" in found.sentence


def test_where_all_fail_the_nearest_miss_is_named() -> None:
    gate = {"verdict": "fail", "flips": {"verdict": "fail"}, "auc": {"verdict": "pass"}}
    far, near = (_outcome(n, "fail", -0.02, 0.3, overshoot=o, gate=gate) for n, o in (("far", 3.0), ("near", 0.5)))
    given_up = replace(_outcome("slow", GIVEN_UP, 0, 1.1), why="no faster", overshoot=0.1)
    found = search.choose([far, near, given_up])
    assert (found.chosen, found.nearest) == (None, near)
    assert found.sentence == "None of 3 chains tried is left; the nearest miss is near: not met: flips."


outcomes = st.lists(
    st.builds(
        _outcome,
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


def test_overshoot_counts_how_far_margins_are_missed() -> None:
    figures = {
        "verdict": "fail",
        "auc": {"lower": -0.03, "difference": -0.01, "margin": -0.01, "verdict": "fail"},
        "ece": {"lower": None, "difference": 0.03, "margin": 0.02, "verdict": "fail"},
        "flips": {"rate": 0.05, "limit": 0.02, "verdict": "fail"},
        "f1": {"lower": -0.5, "difference": 0.0, "margin": -0.02, "verdict": "pass"},
    }
    assert overshoot(figures) == pytest.approx(2 + 0.5 + 1.5)


def test_overshoot_goes_by_the_bound_that_decides() -> None:
    auc = {"lower": -0.009, "decided_lower": -0.012, "difference": -0.001, "margin": -0.01, "verdict": "inconclusive"}
    assert overshoot({"verdict": "inconclusive", "auc": auc}) == pytest.approx(0.2)
    assert overshoot({"verdict": "inconclusive", "auc": {**auc, "decided_lower": -0.01}}) > 0


@pytest.mark.parametrize("used", ["carried", "refitted"])
def test_overshoot_counts_the_worse_of_two_thresholds_whichever_is_used(used: str) -> None:
    missed = {"lower": -0.05, "decided_lower": None, "difference": -0.01, "margin": -0.02, "verdict": "inconclusive"}
    met = {**missed, "lower": -0.01, "verdict": "pass"}
    each = {at: met if at == used else missed for at in ("carried", "refitted")}
    assert overshoot({"verdict": "inconclusive", "sensitivity": {**met, "verdict": "inconclusive", **each}}) == (
        pytest.approx(1.5)
    )


@pytest.mark.parametrize("per_group", [1, 8])
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1, 0.2, 0.4, 0.8])
def test_overshoot_of_a_trial_is_0_exactly_where_it_passes(noise: float, per_group: int) -> None:
    reference = table(per_group=per_group)
    engine = noisy(reference, noise)
    judged = trial.judge(reference, engine, reference, engine, section=ValidateSection(bootstrap=200), seed=0)
    found = overshoot(trial.summary(judged))
    assert (found == 0.0) == (judged.verdict == "pass")


def test_the_objective_is_the_bound_that_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = table()
    engine = noisy(reference, 0.4)
    built = (SimpleNamespace(bytes=7), tmp_path / "engine")
    monkeypatch.setattr(Lab, "_bench", lambda self: SimpleNamespace(build=lambda *a, **k: built))
    monkeypatch.setattr(Lab, "_reference", lambda self: reference)
    monkeypatch.setattr(Lab, "_of_engine", lambda self, built: engine)
    nothing: Any = None
    lab = Lab(nothing, nothing, nothing, ValidateSection(bootstrap=200), SECTION, 0, tmp_path)
    found = lab._judged(Candidate((Step(compressor="ptq"),), "int8"), nothing, _outcome("a", GIVEN_UP, 0, 0.5))
    assert found.auc_lower == found.gate["auc"]["decided_lower"] < found.gate["auc"]["lower"]
    assert found.overshoot == overshoot(found.gate) > 0


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
    with pytest.raises(RecipeError, match="budget of a search"):
        commands.search_settings(search=False, minutes=5.0, trials=None)


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


def test_what_was_found_can_be_pasted_into_a_recipe(tmp_path: Path) -> None:
    chain = [{"compressor": "prune", "options": {"ratio": 0.5}}, {"compressor": "ptq", "options": {}}]
    chosen = _outcome("a", "pass", -0.002, 0.3, chain=chain)
    search_report.write(search.choose([chosen]), tmp_path, SECTION, ValidateSection())
    assert {p.name for p in tmp_path.iterdir()} == {"search.json", "search.png", "searched.yaml"}
    value = yaml.safe_load((tmp_path / "searched.yaml").read_text())
    found = parse(value, origin="t")
    steps = [(s.compressor, s.options) for s in found.compress.variants["searched"].first_passing[0]]
    assert steps == [("prune", {"ratio": 0.5}), ("ptq", {})]
    assert found.compile.backends == {"openvino": ("float32",)}


def test_a_trial_is_given_up_where_it_is_no_faster_or_flips_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[str] = []
    monkeypatch.setattr(
        Lab, "_latency", lambda self, c: Ratio(1.1, 1.05, 1.2) if len(c.chain) == 1 else Ratio(0.5, 0.4, 0.6)
    )
    monkeypatch.setattr(Lab, "_apply", lambda self, model, step, *a: applied.append(step.compressor))
    monkeypatch.setattr(Lab, "_of_torch", lambda self, model: None)
    monkeypatch.setattr(Lab, "_flips", lambda self, table: 0.3)
    nothing: Any = SimpleNamespace()
    lab = Lab(nothing, nothing, nothing, ValidateSection(), SECTION, 0, tmp_path)
    slow = lab.evaluate(Candidate((Step(compressor="ptq"),), "int8"))
    assert (slow.verdict, applied) == (GIVEN_UP, [])
    assert "no faster than float32" in slow.why
    long = Candidate((Step(compressor="prune"), Step(compressor="ptq"), Step(compressor="qat")), "int8")
    flipped = lab.evaluate(long)
    assert (flipped.verdict, applied) == (GIVEN_UP, ["prune"])
    assert "30.0% of the decisions flipped after prune" in flipped.why
    assert lab.evaluate(long) == flipped
    assert applied == ["prune"]
    assert "float32 model itself" in lab.evaluate(Candidate((), "float32")).why


def test_the_command_ends_with_exit_5_and_the_nearest_miss_where_every_chain_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medge import model as classifier
    from medge import predictions
    from medge.data import dataset
    from tests import synthetic_run
    from tests.teachers import teacher_of

    history = synthetic_run._finetune

    def finetune(section: Any, inputs: Any, work: Path, seed: int) -> dict[str, Any]:
        data = dataset.load(inputs["data"].folder)
        classifier.save(teacher_of("mobilenetv3_small_050", data), work)
        rows = data.indices("validation")
        (work / "predictions").mkdir()
        predictions.write(work / "predictions/validation.csv", data.predictions(rows, np.zeros((len(rows), 2))))
        return history(section, inputs, work, seed)

    def missed(self: Lab, candidate: Candidate) -> Outcome:
        gate = {"flips": {"verdict": "fail"}, "auc": {"verdict": "pass"}}
        found = _outcome(candidate.key, "fail", -0.001, 0.5, overshoot=1.0 + len(candidate.chain), gate=gate)
        return replace(found, words=candidate.words)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(synthetic_run._WRITERS, "finetune", finetune)
    monkeypatch.setattr(Lab, "evaluate", missed)
    run = synthetic_run.write_run(tmp_path / "runs" / "phantom", images=60, until="finetune")
    words = ["compress", "--search", "--trials", "2", "--run", "phantom"]
    small = ["--set", "compress.variants={}", "--set", "compress.calibration.images=8"]
    done = CliRunner().invoke(cli.app, [*words, *small])
    assert done.exit_code == 5
    screen = " ".join(done.stderr.split())
    assert "None of 2 chains tried is left; the nearest miss is float (bfloat16): not met: flips." in screen
    assert "verdict fail" in screen
    assert read_json(run / "3-compress/search.json")["chosen"] is None
    assert not (run / "3-compress/searched.yaml").exists()


@pytest.mark.slow
def test_the_stage_searches_makes_the_variant_and_says_where_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from medge import model as classifier
    from medge import predictions, variants
    from medge.data import dataset
    from medge.stages import compress
    from tests.synthetic_run import write_data
    from tests.teachers import teacher_of

    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "1-data", images=60, size=64)
    torch.manual_seed(0)
    data = dataset.load(tmp_path / "1-data")
    model = teacher_of("mobilenetv3_small_100", data)
    (tmp_path / "2-finetune/predictions").mkdir(parents=True)
    classifier.save(model, tmp_path / "2-finetune")
    rows = data.indices("validation")
    table = data.predictions(rows, classifier.predict(model, data, rows, description=""))
    predictions.write(tmp_path / "2-finetune/predictions/validation.csv", table)
    inputs: Any = {k: SimpleNamespace(folder=tmp_path / f) for k, f in (("data", "1-data"), ("finetune", "2-finetune"))}

    def run(flips: float, name: str) -> Any:
        margins = {n: -0.99 for n in ("auc", "sensitivity", "specificity", "f1", "accuracy")} | {"ece": 1.0}
        value = {
            "calibration": {"images": 8},
            "variants": {},
            "gate": {"margins": {**margins, "flips": flips}, "bootstrap": 200},
            "search": {"trials": 2, "epochs": [1], "rounds": 10, "seconds": 0.1, "give_up_flips": 1.0},
        }
        (tmp_path / name).mkdir()
        return compress.run(parse({"compress": value}, origin="t").compress, inputs, tmp_path / name, 0)

    measured = Lab._latency  # it is run; what it finds depends on the machine, so a ratio is made up from the chain

    def made_up(self: Lab, candidate: Candidate) -> Ratio:
        measured(self, candidate)
        ratio = 0.5 if candidate.chain else 0.9
        return Ratio(ratio, ratio - 0.01, ratio + 0.01)

    monkeypatch.setattr(Lab, "_latency", made_up)
    found = run(1.0, "loose")
    assert len([Outcome.of(t) for t in read_json(tmp_path / "loose/search.json")["trials"]]) == 2
    assert found["search"]["best"]["chain"]
    assert variants.load(tmp_path / "loose/search").verdict == found["variants"]["search"]["verdict"]
    monkeypatch.setattr(Lab, "evaluate", lambda self, c: _outcome(c.key, "fail", -0.5, 0.5, overshoot=1.0))
    none = run(0.0, "strict")
    assert none["verdict"] == "fail"
    assert "nearest miss" in none["search"]["sentence"]
    assert set(none["variants"]) == {"float"}
