"""What mending gives back: the best of the model as it was, quantised again, and with the quantisers taken out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from medge import mending, rollback
from medge.chain_trial import Made
from medge.compressors import ptq
from medge.sections import Rollback, Step

TABLE: Any = None  # of predictions; nobody reads one here
WHOLE, AGAIN, REMOVED = "whole", "quantised again", "without the quantisers"


class Model(nn.Module):
    """Stands for a quantised one; `state` says what was done to it."""

    def __init__(self, state: str) -> None:
        super().__init__()
        self.state = state


def _figures(flips: float) -> dict[str, Any]:
    """Of 1000 images, with a limit of 1 %."""
    verdict = "pass" if flips <= 0.01 else "fail"
    return {"verdict": verdict, "flips": {"rate": flips, "limit": 0.01, "count": round(1000 * flips)}}


@pytest.fixture
def log() -> list[str]:
    return []


def _mended(
    monkeypatch: pytest.MonkeyPatch,
    compressor: str,
    flips: dict[str, float],
    log: list[str],
    *,
    reached: bool = True,
    options: dict[str, Any] | None = None,
) -> tuple[Made, Made]:
    """What went in, and what came out; `flips` by the state of the model that is judged."""
    found = rollback.Found(("backbone.stem",), ("quantiser",), reached, "", 3, 1.0, ("rollback: 3 trials.",))
    monkeypatch.setattr(mending, "_asked", lambda *arguments: None)
    monkeypatch.setattr(mending.trial, "judge", lambda *tables, **named: SimpleNamespace(verdict="pass"))
    monkeypatch.setattr(mending.rollback, "search", lambda *arguments: found)
    monkeypatch.setattr(mending, "apply", lambda *arguments: Model(AGAIN))
    monkeypatch.setattr(mending.quantised, "remove", lambda model, names: setattr(model, "state", REMOVED))

    def judged(bench: Any, name: str, chain: Any, model: Any) -> Made:
        steps = [step.model_dump(mode="json") for step in chain]
        return Made(model, TABLE, _figures(flips[model.state]), steps)

    monkeypatch.setattr(mending, "judged", judged)
    chain = (Step(compressor=compressor, options=options or {}),)
    made = judged(None, "v", chain, Model(WHOLE))
    bench: Any = SimpleNamespace(reference=None, gate=None, seed=0)
    where: dict[str, Any] = {"works": [Path("work")], "place": Path("place"), "section": Rollback(backend=None)}
    return made, mending.mended(bench, made, name="v", chain=chain, log=log, **where)


@pytest.mark.parametrize(
    ("compressor", "flips", "expected"),
    [
        ("qat", {WHOLE: 0.03, REMOVED: 0.01}, REMOVED),
        ("qat", {WHOLE: 0.03, REMOVED: 0.04}, WHOLE),
        ("qat", {WHOLE: 0.03, REMOVED: 0.03}, WHOLE),
        ("ptq", {WHOLE: 0.03, AGAIN: 0.01}, AGAIN),  # where that reaches the gate, nothing else is judged
        ("ptq", {WHOLE: 0.03, AGAIN: 0.02, REMOVED: 0.01}, REMOVED),
        ("ptq", {WHOLE: 0.03, AGAIN: 0.02, REMOVED: 0.025}, AGAIN),
        ("ptq", {WHOLE: 0.03, AGAIN: 0.05, REMOVED: 0.04}, WHOLE),
    ],
)
def test_the_best_of_all_that_was_judged_is_given_back_and_the_model_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, compressor: str, flips: dict[str, float], expected: str, log: list[str]
) -> None:
    made, kept = _mended(monkeypatch, compressor, flips, log)
    assert (kept.model.state, kept.figures) == (expected, _figures(flips[expected]))
    assert made.model.state == WHOLE
    assert kept.in_float == (() if expected == WHOLE else ("backbone.stem",))
    assert kept.steps[0]["options"] == ({"ignored": ["backbone.stem"]} if expected == AGAIN else {})
    assert len([line for line in log if "on validation images" in line]) == len(flips) - 1
    is_last = expected == list(flips)[-1]
    assert [line for line in log if "is taken as it was" in line] == ([] if is_last else log[-1:])


def test_quantisers_are_not_taken_out_where_the_search_did_not_reach_the_gate_either(
    monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    _, kept = _mended(monkeypatch, "ptq", {WHOLE: 0.03, AGAIN: 0.02}, log, reached=False)
    assert kept.model.state == AGAIN


def test_a_model_that_passes_is_given_back_itself(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    made, kept = _mended(monkeypatch, "qat", {WHOLE: 0.01}, log)
    assert kept is made
    assert log == []


@pytest.mark.parametrize("kept_is", [AGAIN, REMOVED])
def test_settings_that_were_searched_are_those_that_are_quantised_again_and_named(
    kept_is: str, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    """The layers were blamed under these: a second search could choose others."""
    monkeypatch.setattr(ptq, "settled", lambda options, work: ptq.Options(preset="mixed", se_in_float=True))
    flips = {WHOLE: 0.03, AGAIN: 0.01 if kept_is == AGAIN else 0.02, REMOVED: 0.005}
    _, kept = _mended(monkeypatch, "ptq", flips, log, options={"search": 5})
    chosen = {"preset": "mixed", "se_in_float": True}
    assert kept.model.state == kept_is
    assert kept.steps[0]["options"] == chosen | ({"ignored": ["backbone.stem"]} if kept_is == AGAIN else {})
