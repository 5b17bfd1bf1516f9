"""One trial of a search: by what it is judged, and when it is given up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medge import engines, pace, predictions, trial
from medge.data import dataset
from medge.errors import DataError
from medge.records import from_json, read_json
from medge.search_space import Candidate
from medge.search_trials import GIVEN_UP, Lab, Outcome, overshoot
from medge.sections import SearchSection, Step, ValidateSection
from medge.statistics.latency import Ratio
from medge.variant_reuse import works
from tests.searches import outcome
from tests.synthetic_run import write_data
from tests.teachers import SIZE, teacher_of
from tests.unit.tables import noisy, table


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
    again = Ratio(0.4, 0.3, 0.5)
    bench = SimpleNamespace(build=lambda *a, **k: built, ratios=lambda engines, to: [again])
    monkeypatch.setattr(Lab, "_bench", lambda self: bench)
    monkeypatch.setattr(Lab, "_reference", lambda self: reference)
    monkeypatch.setattr(Lab, "_of_engine", lambda self, built: engine)
    nothing: Any = None
    lab = Lab(
        nothing, nothing, nothing, ValidateSection(bootstrap=200), SearchSection(), 0, tmp_path, tmp_path / "steps"
    )
    found = lab._judged(Candidate((Step(compressor="ptq"),), "int8"), nothing, outcome("a", GIVEN_UP, 0, 0.5))
    assert found.auc_lower == found.gate["auc"]["decided_lower"] < found.gate["auc"]["lower"]
    assert found.overshoot == overshoot(found.gate) > 0
    assert found.latency == again, "that of the engine that was judged, not of the untrained one"


def test_a_trial_is_given_up_where_it_is_no_faster_or_flips_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[str] = []
    monkeypatch.setattr(
        Lab, "_latency", lambda self, c: Ratio(1.1, 1.05, 1.2) if len(c.chain) == 1 else Ratio(0.5, 0.4, 0.6)
    )
    monkeypatch.setattr(Lab, "_apply", lambda self, model, step, work, *a: _applied(applied, step, work))
    monkeypatch.setattr(Lab, "_of_torch", lambda self, model: None)
    monkeypatch.setattr(Lab, "_flips", lambda self, table: 0.3)
    nothing: Any = SimpleNamespace()
    lab = Lab(nothing, nothing, nothing, ValidateSection(), SearchSection(), 0, tmp_path, tmp_path / "steps")
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


def test_a_step_that_leaves_the_training_to_a_later_one_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[str] = []
    monkeypatch.setattr(Lab, "_latency", lambda self, c: Ratio(0.5, 0.4, 0.6))
    monkeypatch.setattr(Lab, "_apply", lambda self, model, step, work, *a: _applied(applied, step, work))
    monkeypatch.setattr(Lab, "_of_torch", lambda self, model: None)
    monkeypatch.setattr(Lab, "_flips", lambda self, table: 0.3)
    nothing: Any = SimpleNamespace()
    lab = Lab(nothing, nothing, nothing, ValidateSection(), SearchSection(), 0, tmp_path, tmp_path / "steps")
    untrained = Step(compressor="resolution", options={"epochs": 0})
    found = lab.evaluate(Candidate((untrained, Step(compressor="shorten"), Step(compressor="ptq")), "int8"))
    assert applied == ["resolution", "shorten"]
    assert "flipped after shorten" in found.why


def test_an_engine_whose_outputs_are_no_numbers_ends_its_trial_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_numbers(self: Any, built: Any, bench: Any, found: Any) -> Any:
        raise DataError("The engine's table has NaN.", fix="Use another precision.")

    bench = SimpleNamespace(build=lambda *a, **k: None, build_onnx=lambda *a, **k: None)
    monkeypatch.setattr(Lab, "_bench", lambda self: bench)
    monkeypatch.setattr(Lab, "_latency", lambda self, c: Ratio(0.5, 0.4, 0.6))
    monkeypatch.setattr(Lab, "_of_built", not_numbers)
    nothing: Any = SimpleNamespace()
    lab = Lab(nothing, nothing, nothing, ValidateSection(), SearchSection(), 0, tmp_path, tmp_path / "steps")
    tried = lab.evaluate(Candidate((), "float16"))
    assert (tried.verdict, tried.why) == (GIVEN_UP, "The engine's table has NaN.")
    own = lab.known(Candidate((Step(compressor="ptq"),), "int8"), tmp_path / "model.onnx")
    assert (own.verdict, own.why) == (GIVEN_UP, "The engine's table has NaN.")


def test_a_trial_that_would_not_end_in_time_is_known_by_the_pace_so_far(tmp_path: Path) -> None:
    data = SimpleNamespace(indices=lambda split: range(100))
    nothing: Any = None
    lab = Lab(data, nothing, nothing, ValidateSection(), SearchSection(), 0, tmp_path, tmp_path / "steps")  # type: ignore[arg-type]
    shorten, ptq = Step(compressor="shorten", options={"epochs": 3}), Step(compressor="ptq")
    long = Candidate((Step(compressor="shorten", options={"epochs": 10}), ptq), "int8")
    assert lab.too_long(long, 1) == "", "nothing is known yet"
    _trained(lab, [shorten], epochs=3, seconds_per_image=0.6)
    assert lab.too_long(long, 600) == ""
    assert lab.too_long(long, 590) == "10 epochs would take about 10 minutes, and 10 are left"
    few = Step(compressor="shorten", options={"epochs": 10, "images_per_epoch": 50})
    assert lab.too_long(Candidate((few, ptq), "int8"), 300) == "", "an epoch of half the images takes half the time"
    again = Candidate((shorten, Step(compressor="distill", options={"epochs": 2}), ptq), "int8")
    assert lab.too_long(again, 120) == "", "what begins alike is not trained again"
    assert "2 epochs" in lab.too_long(again, 119)


@pytest.mark.slow
def test_a_trial_that_trains_is_judged_and_measured_by_the_engine_that_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Lab._ratio

    def faster(self: Lab, *built: Any) -> Ratio:
        """What was measured, but never slower than float32, which on a busy machine would end the trial."""
        found = measured(self, *built)
        return found if found.upper < 1 else replace(found, lower=0.3, ratio=0.4, upper=0.5)

    monkeypatch.setattr(Lab, "_ratio", faster)
    write_data(tmp_path / "1-data", images=60, size=SIZE)
    data = dataset.load(tmp_path / "1-data")
    # A sixteenth of the multiplications, in int8.
    training = {"epochs": 1, "images_per_epoch": 8, "batch_size": 4, "learning_rate": 1e-4}
    chain = (Step(compressor="prune", options={"ratio": 0.75, **training}), Step(compressor="ptq"))
    section = SearchSection(rounds=10, seconds=0.1, give_up_flips=1.0)
    lab = Lab(
        data, data.indices("train")[:8], teacher_of("resnet10t", data), ValidateSection(bootstrap=200), section, 0,
        tmp_path / "trials", tmp_path / "steps",
    )  # fmt: skip
    found = lab.evaluate(Candidate(chain, "int8"))
    assert found.judged
    assert found.why == ""
    losses = torch.load(works(tmp_path / "steps", chain)[0] / "step-0.pt", weights_only=True)["losses"]
    assert len(losses) == 2, "before training, and after its epoch"

    rows = data.indices("validation")
    logits = np.load(tmp_path / "trials/outputs" / f"{found.key}__openvino-int8-validation-logits.npy")
    reference = predictions.read(tmp_path / "trials/float.csv")
    for of, answers in (("engine", logits), ("float", reference.logits)):
        assert found.gate["auc"][of] == pytest.approx(roc_auc_score(data.label[rows], answers[:, 1] - answers[:, 0]))
    assert found.auc_lower == found.gate["auc"]["decided_lower"] <= found.gate["auc"]["difference"]
    table = data.predictions(rows, logits)
    judged = trial.judge(reference, table, reference, table, section=lab.gate, seed=0)
    assert found.flips == judged.flips["count"] / len(rows) > 0
    assert found.overshoot > 0

    before_training = next((tmp_path / "trials/latency").iterdir())
    assert found.latency is not None
    assert 0 < found.latency.lower <= found.latency.ratio <= found.latency.upper < 1
    assert found.latency != from_json(Ratio, read_json(before_training)) or found.latency.upper == 0.5, "measured again"
    of_float = engines.load(tmp_path / "trials/engines/reference")
    assert of_float.precision == "float32"
    assert 0 < found.bytes < of_float.bytes / 16
    assert Outcome.of(read_json(tmp_path / "trials/outcomes" / f"{found.key}.json")) == found


def _trained(lab: Lab, chain: list[Step], *, epochs: int, seconds_per_image: float) -> None:
    work = works(lab.steps, chain)[-1]
    work.mkdir(parents=True)
    pace.note(work / "checkpoint.pt", pace.Pace(epochs, seconds_per_image))


def _applied(applied: list[str], step: Step, work: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    applied.append(step.compressor)
