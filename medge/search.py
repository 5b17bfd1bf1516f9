"""The search: which chain of compressors is fastest without being worse, by trials that Optuna proposes.

Two objectives, both measured: the lower bound of the AUC's difference to the float model on validation images (more is
better) and latency as a ratio to the float32 engine on this machine (less is better). How far the gate's margins are
missed is a constraint of the sampler (multi-objective TPE: Ozaki et al. 2022, JAIR 73). Trials are kept in a database
as they end: a killed search loses the one that ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medge import console
from medge.backends import offered
from medge.errors import MissingError
from medge.quick_latency import check_backend
from medge.records import sha256_of_json, to_json
from medge.search_space import Candidate, candidate_of, first_layers, first_points, space
from medge.search_trials import Lab, Outcome, say
from medge.sections import SearchSection

__all__ = ["Found", "check", "choose", "explore", "front", "run"]

_REPEATS = 40  # so many proposals in a row that were tried before, or would take too long, end the search
_NAMED = 3  # chains that are not tried, before the rest is only counted
_FAR = 100.0  # margins: by how much what is too long is said to miss the gate


@dataclass(frozen=True)
class Found:
    """Every outcome, the Pareto front among those that do not fail, the choice (None where all fail) and a sentence."""

    outcomes: tuple[Outcome, ...]
    front: tuple[Outcome, ...]
    chosen: Outcome | None
    nearest: Outcome | None
    sentence: str


def run(lab: Lab, database: Path, known: Sequence[tuple[Candidate, Path]] = ()) -> Found:
    """Judges and measures the `known` candidates, the recipe's own with their ONNX files, then searches until the
    budget is spent: what is chosen is the best of both. Raises MissingError without Optuna or without the backend."""
    backend = check(lab.section)
    usable = [precision for precision in offered(backend) if backend.missing(precision) is None]
    layers = first_layers(lab.teacher)
    coordinates = space(lab.section, usable, lab.teacher)
    own = {}
    for number, (candidate, onnx) in enumerate(known, start=1):
        own[candidate.key] = lab.known(candidate, onnx)
        say(own[candidate.key], f"the recipe's own, {number} of {len(known)}")
    outcomes = explore(
        coordinates,
        lambda point: candidate_of(point, lab.section, layers),
        lambda candidate: own.get(candidate.key) or lab.evaluate(candidate),
        section=lab.section,
        too_long=lambda candidate, seconds: "" if candidate.key in own else lab.too_long(candidate, seconds),
        database=database,
        seed=lab.seed,
    )
    return choose([*own.values(), *(o for o in outcomes if o.key not in own)])


def check(section: SearchSection) -> Any:
    """The backend that a search measures on. Raises MissingError without it or without Optuna."""
    _optuna()
    return check_backend(section.backend)


def explore(
    coordinates: dict[str, tuple[Any, ...]],
    candidate: Callable[[dict[str, Any]], Candidate],
    evaluate: Callable[[Candidate], Outcome],
    *,
    section: SearchSection,
    database: Path,
    seed: int,
    too_long: Callable[[Candidate, float], str] = lambda candidate, seconds: "",
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Outcomes of different candidates in the order of their trials: those in the database, then new ones until
    `section.trials` or `section.minutes` are reached. What is `too_long` for the seconds that are left is not tried: it
    gives the reason, empty where there is none. Minutes of earlier calls count, also of a trial that was stopped;
    not of one whose process was killed, since nobody wrote them down."""
    study = _study(database, seed, coordinates)
    optuna = _optuna()
    distributions = {k: optuna.distributions.CategoricalDistribution(v) for k, v in coordinates.items()}
    again = _begin(study, coordinates)
    done = {o.key: o for o in _outcomes(study)}
    spent = sum(t.user_attrs.get("seconds", 0.0) for t in study.get_trials(deepcopy=False))
    repeats, refused = -again, set[str]()
    while len(done) < section.trials and spent < section.minutes * 60 and repeats < _REPEATS:
        proposed = study.ask(distributions)
        wanted = candidate(proposed.params)
        why = "" if wanted.key in done else too_long(wanted, section.minutes * 60 - spent)
        repeats = repeats + 1 if wanted.key in done or why else 0
        if why:
            if wanted.key not in refused and len(refused) < _NAMED:
                console.say(f"not tried: {wanted.words}: {why}")
            refused.add(wanted.key)
            proposed.set_constraint("margins", _FAR)  # so that the sampler looks elsewhere
            study.tell(proposed, state=optuna.trial.TrialState.PRUNED)
            continue
        began = clock()
        try:
            outcome = done[wanted.key] if wanted.key in done else evaluate(wanted)
        finally:
            seconds = clock() - began
            proposed.set_user_attr("seconds", seconds)
        spent += seconds
        if wanted.key not in done:
            outcome = replace(outcome, minute=round(spent / 60, 1))
        proposed.set_constraint("margins", outcome.overshoot)
        proposed.set_user_attr("outcome", to_json(outcome))
        if outcome.judged and outcome.auc_lower is not None and outcome.latency is not None:
            study.tell(proposed, (outcome.auc_lower, outcome.latency.ratio))
        else:
            study.tell(proposed, state=optuna.trial.TrialState.PRUNED)
        if wanted.key not in done:
            done[wanted.key] = outcome
            say(outcome, f"trial {len(done)}, minute {outcome.minute:.1f}")
    if len(refused) > _NAMED:
        console.say(f"not tried, all in all: {len(refused)} chains whose training would have outlasted the budget")
    if repeats >= _REPEATS:
        console.say(f"The search ends: {_REPEATS} proposals in a row had been tried before, or would take too long.")
    return list(done.values())


def front(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that do not fail and that no other such one beats in both the bound of AUC and latency, fastest first."""
    kept = [o for o in outcomes if o.judged and o.verdict != "fail"]
    best = [o for o in kept if not any(_beats(other, o) for other in kept)]
    return sorted(best, key=lambda o: (_ratio(o), o.key))


def choose(outcomes: Sequence[Outcome]) -> Found:
    """The fastest that passes; where none does, the fastest inconclusive one. What is within the noise of the fastest
    counts as equally fast, and the higher bound of AUC decides."""
    on_front = front(outcomes)
    for verdict in ("pass", "inconclusive"):
        kept = [o for o in outcomes if o.verdict == verdict]
        if kept:
            fastest = min(kept, key=lambda o: (_ratio(o), o.key))
            upper = fastest.latency.upper if fastest.latency else 0.0
            level = [o for o in kept if o is fastest or _ratio(o) <= upper]
            chosen = max(level, key=lambda o: (_bound(o), -_ratio(o), o.key))
            return Found(tuple(outcomes), tuple(on_front), chosen, None, _sentence(chosen, len(outcomes)))
    judged = [o for o in outcomes if o.judged] or list(outcomes)
    nearest = min(judged, key=lambda o: (o.overshoot, _ratio(o), o.key)) if judged else None
    return Found(tuple(outcomes), (), None, nearest, _sentence_for_none(nearest, len(outcomes)))


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingError("The search needs Optuna.", fix="Install it: pip install 'medge[search]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(database: Path, seed: int, coordinates: dict[str, tuple[Any, ...]]) -> Any:
    """The study of a space, made if need be: another processor may have other precisions. A trial proposes from all
    before it, so one seed a restart will do."""
    optuna = _optuna()
    database.parent.mkdir(parents=True, exist_ok=True)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)
    return optuna.create_study(
        storage=f"sqlite:///{database}",
        study_name=f"medge-{sha256_of_json(coordinates)[:12]}",
        sampler=sampler,
        directions=["maximize", "minimize"],
        load_if_exists=True,
    )


def _begin(study: Any, coordinates: dict[str, tuple[Any, ...]]) -> int:
    """Asks for the first points in a new study; in a continued one for the point whose trial was killed, and for those
    that would have taken too long: how many these are."""
    optuna = _optuna()
    trials = study.get_trials(deepcopy=False)
    if not trials:
        for point in first_points(coordinates):
            study.enqueue_trial(dict(point))
    again = []
    for stale in trials:
        if stale.state == optuna.trial.TrialState.RUNNING:
            study.tell(stale.number, state=optuna.trial.TrialState.FAIL)
            again.append(stale.params)
        elif stale.state == optuna.trial.TrialState.PRUNED and "outcome" not in stale.user_attrs:
            again.append(stale.params)
    distinct = [params for number, params in enumerate(again) if params and params not in again[:number]]
    for params in distinct:
        study.enqueue_trial(dict(params))
    return len(distinct)


def _outcomes(study: Any) -> list[Outcome]:
    return [Outcome.of(t.user_attrs["outcome"]) for t in study.get_trials(deepcopy=False) if "outcome" in t.user_attrs]


def _beats(a: Outcome, b: Outcome) -> bool:
    at_least = _bound(a) >= _bound(b) and _ratio(a) <= _ratio(b)
    return at_least and (_bound(a), _ratio(a)) != (_bound(b), _ratio(b))


def _bound(outcome: Outcome) -> float:
    return outcome.auc_lower if outcome.auc_lower is not None else float("-inf")


def _ratio(outcome: Outcome) -> float:
    return outcome.latency.ratio if outcome.latency is not None else float("inf")


def _sentence(chosen: Outcome, count: int) -> str:
    doubt = "" if chosen.verdict == "pass" else ", inconclusive on validation: none of them passes"
    return (
        f"Of {count} chains tried, {chosen.words} is chosen: {_ratio(chosen):.2f} of the float32 latency, AUC bound "
        f"{_bound(chosen):+.4f}, {chosen.flips or 0:.2%} of the decisions flipped{doubt}."
    )


def _sentence_for_none(nearest: Outcome | None, count: int) -> str:
    if nearest is None:
        return "The search ended before its first trial did: give it more minutes."
    missed = [k for k, v in nearest.gate.items() if isinstance(v, dict) and v.get("verdict") not in ("pass", None)]
    why = nearest.why or f"not met: {', '.join(missed)}"
    return f"None of {count} chains tried is left; the nearest miss is {nearest.words}: {why}."
