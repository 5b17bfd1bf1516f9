"""Fine-tuning: a head on a frozen backbone first, then blocks unfrozen from the last one down.

Writes model.safetensors, model.json, history.json and predictions/validation.csv (float32 outputs of torch).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medge import console, heap, predictions
from medge.data.dataset import DataSet
from medge.data.dataset import load as load_data
from medge.errors import DataError, RecipeError
from medge.gate import worst
from medge.records import sha256_of_file, write_json
from medge.sections import AbsoluteLimits, FinetuneSection
from medge.workspace import Inputs

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from medge.epochs import Epoch
    from medge.model import Classifier
    from medge.training import Scores

__all__ = ["check", "fingerprint", "run", "train"]


def fingerprint(section: FinetuneSection) -> str:
    """The sha256 of the weights file that the section names: the recipe holds only its path."""
    path = Path(section.weights)
    return sha256_of_file(path) if path.is_file() else ""


def check(section: FinetuneSection) -> None:
    """Raises what a mistyped model or weights would raise later, after every image had been read."""
    from medge import model as models
    from medge import weights

    models.specify(section.model, classes=2, head=section.head, dropout=section.dropout, size=224)
    weights.check(section.model, section.weights)


def run(section: FinetuneSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """Trains the classifier of `section` on the data stage's training images; the best epoch on validation is kept.

    Of a launch of several processes only the main one writes files and returns values; each has its share of every
    batch, so that a recipe's batch size means the same however many they are.
    """
    from medge import launch

    accelerator = launch.start()
    return train(accelerator, *launch.share(accelerator, (section, dict(inputs), work, seed)))


@heap.kept()
def train(accelerator: Accelerator, section: FinetuneSection, inputs: Inputs, work: Path, seed: int) -> dict[str, Any]:
    """`run` in one of the processes of a launch."""
    from medge import model as models
    from medge import training

    _check_shares(section, accelerator)
    data = load_data(inputs["data"].folder)
    model = _create(section, data, seed).to(accelerator.device)
    scratch = work / "scratch"
    scratch.mkdir(exist_ok=True)
    dtype = training.training_dtype(section.precision, accelerator.device)
    history = _train(model, section, data, seed=seed, scratch=scratch, accelerator=accelerator, dtype=dtype)
    values: dict[str, Any] = {}
    if accelerator.is_main_process:
        model.eval()
        models.save(model, work)
        rows = data.indices("validation")
        logits = models.predict(model, data, rows, description="validation")
        (work / "predictions").mkdir(exist_ok=True)
        predictions.write(work / "predictions" / "validation.csv", data.predictions(rows, logits))
        write_json(work / "history.json", history)
        found = training.score(logits, data.label[rows])
        values = _values(model, section, found, history, dtype=dtype)
    accelerator.wait_for_everyone()
    return values


def _check_shares(section: FinetuneSection, accelerator: Accelerator) -> None:
    processes = accelerator.num_processes
    if section.batch_size % processes or section.batch_size // processes < 2:
        raise RecipeError(
            f"A batch of {section.batch_size} images cannot be shared by {processes} processes.",
            fix=f"Set finetune.batch_size to a multiple of {processes}, at least {2 * processes}.",
        )


def _create(section: FinetuneSection, data: DataSet, seed: int) -> Classifier:
    import torch

    from medge import model as models
    from medge import weights

    if data.preprocess.width != data.preprocess.height:
        raise DataError("The images are not square.", fix="Give data.size one number.")
    for split in ("train", "validation"):
        if len(data.indices(split)) < 2:
            raise DataError(f"There are fewer than two {split} images.", fix="Add images, or change data.split.")
    spec = models.specify(
        section.model,
        classes=len(data.labels),
        head=section.head,
        dropout=section.dropout,
        size=data.preprocess.width,
    )
    torch.manual_seed(seed)
    model = models.create(replace(spec, labels=data.labels))
    weights.fill(model, section.weights)
    return model


def _train(
    model: Classifier,
    section: FinetuneSection,
    data: DataSet,
    *,
    seed: int,
    scratch: Path,
    accelerator: Accelerator,
    dtype: torch.dtype,
) -> list[Epoch]:
    """Both phases, each continued from its checkpoint where there is one."""
    from medge.phases import Job, train_blocks, train_head

    job = Job(model, section, data, seed, scratch, accelerator, dtype)
    history: list[Epoch] = []
    baseline = None
    if section.frozen_epochs:
        history = train_head(job)
        baseline = max((e.scores for e in history), key=lambda s: s.rank)
    if section.epochs:
        history = history + train_blocks(job, baseline=baseline)
    return history


def _values(
    model: Classifier, section: FinetuneSection, found: Scores, history: list[Epoch], *, dtype: torch.dtype
) -> dict[str, Any]:
    checks = _checks(found, section.limits)
    best = max(history, key=lambda e: e.scores.rank, default=None)
    return {
        "verdict": worst([check["verdict"] for check in checks]) if checks else None,
        "limits": checks,
        "validation": {"auc": found.auc, "accuracy": found.accuracy, "log_loss": found.loss},
        "model": model.spec.timm_name,
        "weights": model.spec.weights,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": str(dtype).removeprefix("torch."),
        "epochs": len(history),
        "best": None if best is None else {"phase": best.phase, "epoch": best.epoch},
    }


def _checks(found: Scores, limits: AbsoluteLimits) -> list[dict[str, Any]]:
    """One entry for each limit that the recipe sets."""
    checks = []
    for quantity in ("auc", "accuracy"):
        limit = getattr(limits, quantity)
        if limit is not None:
            value = getattr(found, quantity)
            verdict = "pass" if value >= limit else "fail"
            checks.append({"quantity": quantity, "value": value, "limit": limit, "verdict": verdict})
            if verdict == "fail":
                console.warn(f"Validation {quantity} {value:.4f} is below the limit {limit}.")
    return checks
