"""The search in its stage and on the command line: the variant it makes, and what is said where nothing is left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medge import cli, predictions, variants
from medge import model as classifier
from medge.data import dataset
from medge.quick_latency import Built, QuickBench
from medge.recipe import parse
from medge.records import read_json
from medge.search_space import Candidate
from medge.search_trials import Lab, Outcome
from medge.stages import compress
from medge.statistics.latency import Ratio
from tests import synthetic_run
from tests.searches import outcome
from tests.teachers import teacher_of, write_finetuned


def test_the_command_ends_with_exit_5_and_the_nearest_miss_where_every_chain_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        found = outcome(candidate.key, "fail", -0.001, 0.5, overshoot=1.0 + len(candidate.chain), gate=gate)
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
    monkeypatch.chdir(tmp_path)
    synthetic_run.write_data(tmp_path / "1-data", images=60, size=64)
    inputs = write_finetuned(tmp_path, teacher_of("test_efficientnet", dataset.load(tmp_path / "1-data")))

    def run(flips: float, name: str) -> Any:
        margins = {n: -0.99 for n in ("auc", "sensitivity", "specificity", "f1", "accuracy")} | {"ece": 1.0}
        value = {
            "calibration": {"images": 8},
            "variants": {"own": {"first_passing": [[{"ptq": {"preset": "mixed"}}]], "rollback": None}},
            "gate": {"margins": {**margins, "flips": flips}, "bootstrap": 200},
            "search": {"trials": 2, "epochs": [1], "rounds": 10, "seconds": 0.1, "give_up_flips": 1.0},
        }
        (tmp_path / name).mkdir()
        return compress.run(parse({"compress": value}, origin="t").compress, inputs, tmp_path / name, 0)

    measured = Lab._ratio  # it is run; what it finds depends on the machine, so a ratio is made up from the precision

    def made_up(self: Lab, bench: QuickBench, built: Built) -> Ratio:
        measured(self, bench, built)
        ratio = 0.5 if built[0].precision == "int8" else 0.9
        return around(0.6 if built[0].variant.startswith("known-") else ratio)

    def around(ratio: float) -> Ratio:
        return Ratio(ratio, ratio - 0.01, ratio + 0.01)

    monkeypatch.setattr(Lab, "_ratio", made_up)
    found = run(1.0, "loose")
    tried = [Outcome.of(t) for t in read_json(tmp_path / "loose/search.json")["trials"]]
    assert len(tried) == 3
    assert tried[0].chain == variants.load(tmp_path / "loose/own").chain, "the recipe's own is a candidate too"
    assert found["search"]["best"]["chain"]
    assert variants.load(tmp_path / "loose/search").verdict == found["variants"]["search"]["verdict"]

    # The trials of that search again, which need not be made anew; the recipe's own is now the fastest.
    outcomes = {o.key: o for o in (replace(tried[0], latency=around(0.4)), *tried[1:])}
    monkeypatch.setattr(Lab, "known", lambda self, c, onnx: outcomes[c.key])
    monkeypatch.setattr(Lab, "evaluate", lambda self, c: outcomes[c.key])
    again = run(1.0, "own")
    assert set(again["variants"]) == {"float", "own"}, "the recipe's own is the fastest: no other is made"
    assert again["search"]["best"]["chain"] == variants.load(tmp_path / "own/own").chain

    fails = {"flips": {"verdict": "fail"}}
    monkeypatch.setattr(
        Lab, "known", lambda self, c, onnx: outcome(c.key, "fail", -0.6, 0.5, overshoot=2.0, gate=fails)
    )
    monkeypatch.setattr(Lab, "evaluate", lambda self, c: outcome(c.key, "fail", -0.5, 0.5, overshoot=1.0))
    none = run(0.0, "strict")
    assert none["verdict"] == "fail"
    assert "nearest miss" in none["search"]["sentence"]
    assert set(none["variants"]) == {"float", "own"}
