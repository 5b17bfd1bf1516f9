"""One trial of the search: a candidate made, measured and judged; given up as soon as it cannot pass.

The order is that of the costs. Latency comes first, since it depends on layers, widths and pixels, and hardly on
weights. Then the chain is followed step by step, and after each that does not leave its training to a later one the
flipped decisions on validation images are counted.
The verdict is that of the engine's own outputs, and the latency beside it is that engine's own, measured again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge import console, pace, plugins, predictions, trial
from medge.bench_worker import BenchWorker
from medge.compressors import Context
from medge.engine_outputs import Runner
from medge.errors import DataError, RecipeError, ToolError
from medge.quick_latency import Built, QuickBench
from medge.records import from_json, read_json, write_json
from medge.search_space import Candidate, epochs, untrained
from medge.sections import SearchSection, Step, ValidateSection
from medge.statistics.latency import Ratio
from medge.variant_reuse import works

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from medge.data.dataset import DataSet
    from medge.model import Classifier
    from medge.predictions import Predictions

__all__ = ["GIVEN_UP", "Lab", "Outcome", "overshoot", "say"]

GIVEN_UP = "given up"
_FEW = 8  # calibration images where nothing but latency is wanted
_LEAST = 1e-6  # margins: what a check that does not pass is missed by at least, so that it is never feasible


@dataclass(frozen=True)
class Outcome:
    """What a trial found. verdict: of the gate on validation images, or `given up`, with the reason in `why`.

    auc_lower: one-sided lower bound of the AUC's difference, the one that decides. latency: as a ratio to the float32
    engine. overshoot: how far the margins are missed in all, in margins; 0 where they are met, else more. minute: of
    the search, when it ended; None of the recipe's own, which do not count.
    """

    key: str
    words: str
    chain: list[dict[str, Any]]
    precision: str
    verdict: str
    why: str = ""
    auc_lower: float | None = None
    latency: Ratio | None = None
    flips: float | None = None
    bytes: int = 0
    overshoot: float = 0.0
    minute: float | None = None
    gate: dict[str, Any] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        return self.verdict != GIVEN_UP

    @staticmethod
    def of(value: Any) -> Outcome:
        """The outcome that `to_json` made `value` of."""
        latency = value["latency"]
        plain = from_json(Outcome, {**value, "latency": None})
        return replace(plain, latency=None if latency is None else from_json(Ratio, latency))


@dataclass(frozen=True)
class Lab:
    """Where trials are made; what begins alike is trained once, in `steps` (medge.variant_reuse.works)."""

    data: DataSet
    calibration: NDArray[np.int64]
    teacher: Classifier
    gate: ValidateSection
    section: SearchSection
    seed: int
    work: Path
    steps: Path
    start: Callable[..., BenchWorker] = BenchWorker

    def evaluate(self, candidate: Candidate) -> Outcome:
        """The candidate's outcome; that of a killed run is not sought again."""
        path = self.work / "outcomes" / f"{candidate.key}.json"
        if path.is_file():
            return Outcome.of(read_json(path))
        found = self._unless_refused(candidate, lambda: self._evaluate(candidate))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        return found

    def known(self, candidate: Candidate, onnx: Path) -> Outcome:
        """The outcome of a chain that has been followed already, of the ONNX file it led to: nothing is trained."""

        def judged() -> Outcome:
            bench = self._bench()
            built = bench.build_onnx(f"known-{candidate.key}", onnx, precision=candidate.precision)
            return self._of_built(built, bench, self._outcome(candidate))

        return self._unless_refused(candidate, judged)

    def _unless_refused(self, candidate: Candidate, judged: Callable[[], Outcome]) -> Outcome:
        """A chain that cannot be followed, an engine that is refused or whose outputs are no numbers: others can be."""
        try:
            return judged()
        except (DataError, RecipeError, ToolError) as error:
            return replace(self._outcome(candidate), why=error.message)

    def too_long(self, candidate: Candidate, seconds: float) -> str:
        """Why its trainings would not end in so many seconds, at the pace so far (medge.pace); empty where they would,
        or where nothing has been trained yet."""
        steps = zip(candidate.chain, works(self.steps, candidate.chain), strict=True)
        count, needed = pace.left([pace.Planned(epochs(step), self._images(step), work) for step, work in steps])
        if needed <= seconds:
            return ""
        return f"{count} epochs would take about {needed / 60:.0f} minutes, and {seconds / 60:.0f} are left"

    def _images(self, step: Step) -> int:
        """How many images an epoch of a step has."""
        every = len(self.data.indices("train"))
        return min(int(step.options.get("images_per_epoch") or every), every)

    def _outcome(self, candidate: Candidate) -> Outcome:
        chain = [step.model_dump(mode="json") for step in candidate.chain]
        return Outcome(candidate.key, candidate.words, chain, candidate.precision, GIVEN_UP, overshoot=float(10**6))

    def _evaluate(self, candidate: Candidate) -> Outcome:
        if not candidate.chain and candidate.precision == "float32":
            return replace(self._outcome(candidate), why="it is the float32 model itself")
        latency = self._latency(candidate)
        found = replace(self._outcome(candidate), latency=latency)
        if latency.upper >= 1:
            return replace(found, **_no_faster(latency))
        model: nn.Module = self.teacher
        for k, (step, work) in enumerate(zip(candidate.chain, works(self.steps, candidate.chain), strict=True)):
            model = self._apply(model, step, work, self.calibration)
            waits = "epochs" in step.options and epochs(step) == 0  # a later step trains, and mends this one's answers
            if k < len(candidate.chain) - 1 and not waits:
                flips = self._flips(self._of_torch(model))
                if flips > self.section.give_up_flips:
                    why = f"{flips:.1%} of the decisions flipped after {step.compressor}"
                    return replace(found, why=why, flips=flips, overshoot=flips / max(self.gate.margins.flips, 1e-9))
        return self._judged(candidate, model, found)

    def _judged(self, candidate: Candidate, model: nn.Module, found: Outcome) -> Outcome:
        bench = self._bench()
        return self._of_built(bench.build(candidate.key, model, precision=candidate.precision), bench, found)

    def _of_built(self, built: Built, bench: QuickBench, found: Outcome) -> Outcome:
        table = self._of_engine(built)
        reference = self._reference()
        judged = trial.judge(reference, table, reference, table, section=self.gate, seed=self.seed)
        figures = trial.summary(judged)
        latency = self._ratio(bench, built)
        shutil.rmtree(built[1], ignore_errors=True)
        if latency.upper >= 1:
            return replace(found, latency=latency, **_no_faster(latency))
        return replace(
            found,
            verdict=judged.verdict,
            latency=latency,
            auc_lower=_lower(figures["auc"]),
            flips=float(figures["flips"]["rate"]),
            bytes=built[0].bytes,
            overshoot=overshoot(figures),
            gate=figures,
        )

    def _latency(self, candidate: Candidate) -> Ratio:
        short = untrained(candidate)
        path = self.work / "latency" / f"{short.key}.json"
        if path.is_file():
            return from_json(Ratio, read_json(path))
        model: nn.Module = self.teacher
        few = self.calibration[:_FEW]
        for k, step in enumerate(short.chain):
            model = self._apply(model, step, self.work / "untrained" / short.key / str(k), few)
        bench = self._bench()
        built = bench.build(f"untrained-{short.key}", model, precision=candidate.precision)
        ratio = self._ratio(bench, built)
        shutil.rmtree(built[1], ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, ratio)
        return ratio

    def _bench(self) -> QuickBench:
        work = self.work / "engines"
        work.mkdir(parents=True, exist_ok=True)
        return QuickBench(
            self.data, self.calibration, self.section.backend, work, seed=self.seed, rounds=self.section.rounds,
            seconds=self.section.seconds, start=self.start,
        )  # fmt: skip

    def _ratio(self, bench: QuickBench, built: Built) -> Ratio:
        """An engine's latency to that of the float32 engine."""
        return bench.ratios([built], bench.build("reference", self.teacher, precision="float32"))[0]

    def _apply(self, model: nn.Module, step: Step, work: Path, rows: NDArray[np.int64]) -> nn.Module:
        import torch

        compressor: Any = plugins.load("compressors", step.compressor)
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(self.seed)
        made: nn.Module = compressor.apply(
            model, compressor.Options(**step.options), Context(self.data, rows, self.teacher, self.seed, work)
        )
        return made

    def _reference(self) -> Predictions:
        """The float model's outputs on the validation images."""
        path = self.work / "float.csv"
        if not path.is_file():
            self.work.mkdir(parents=True, exist_ok=True)
            predictions.write(path, self._of_torch(self.teacher))
        return predictions.read(path)

    def _of_torch(self, model: nn.Module) -> Predictions:
        from medge.model import predict

        rows = self.data.indices("validation")
        return self.data.predictions(rows, predict(model, self.data, rows, description="validation"))

    def _of_engine(self, built: Built) -> Predictions:
        scratch = self.work / "outputs"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        rows = self.data.indices("validation")
        outputs = Runner(self.data, scratch).split(*built, "validation", [int(row) for row in rows])
        return self.data.predictions(rows, outputs.logits)

    def _flips(self, table: Predictions) -> float:
        reference = self._reference()
        quick = self.gate.model_copy(update={"bootstrap": 200})
        return float(trial.judge(reference, table, reference, table, section=quick, seed=self.seed).flips["rate"])


def _no_faster(latency: Ratio) -> dict[str, Any]:
    why = f"no faster than float32 for certain: {latency.ratio:.2f}x, at most {latency.upper:.2f}x"
    return {"why": why, "overshoot": 10 * latency.ratio}


def overshoot(figures: dict[str, Any]) -> float:
    """How far the margins are missed in a trial's summary, summed in units of the margins: 0 where the verdict is a
    pass, else more. A quantity that is judged at two thresholds counts by the worse."""
    quantities = [item for item in figures.values() if isinstance(item, dict)]
    at_thresholds = [[item[at] for at in ("carried", "refitted") if at in item] or [item] for item in quantities]
    return float(sum(max(map(_missed, each)) for each in at_thresholds))


def _missed(item: dict[str, Any]) -> float:
    """How far one check is from its pass, in units of its margin; 0 where it passes."""
    if item["verdict"] == "pass":
        return 0.0
    if "rate" in item:
        distance, unit = item["rate"] - item["limit"], item["limit"]
    elif item["margin"] < 0:
        distance, unit = item["margin"] - _lower(item), -item["margin"]
    else:
        distance, unit = item["difference"] - item["margin"], item["margin"]
    return float(max(distance / max(unit, 1e-9), _LEAST))


def _lower(item: dict[str, Any]) -> float:
    """The lower bound by which the gate decides; the difference itself where it has none."""
    bounds = (item.get("decided_lower"), item["lower"], item["difference"])
    return float(next(bound for bound in bounds if bound is not None))


def say(outcome: Outcome, which: str) -> None:
    """One line of progress."""
    parts = [f"{outcome.latency.ratio:.2f}x" if outcome.latency else "not measured"]
    parts += [f"AUC bound {outcome.auc_lower:+.4f}"] if outcome.judged and outcome.auc_lower is not None else []
    parts += [f"{outcome.flips:.2%} flipped"] if outcome.flips is not None else []
    ending = f" ({outcome.why})" if outcome.why else ""
    text = f"{which}: {outcome.words}: {outcome.verdict}; {', '.join(parts)}{ending}"
    console.say(text.replace("[", r"\["))
