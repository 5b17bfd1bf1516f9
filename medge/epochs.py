"""The loop over epochs: validation after each, early stopping, the best epoch restored, a checkpoint to resume from."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medge import console
from medge.model import write_bytes
from medge.training import Scores

__all__ = ["Epoch", "Phase", "fit"]


@dataclass(frozen=True)
class Epoch:
    """One line of history.json. learning_rate: the head's at the end of the epoch. unfrozen_blocks: that learned."""

    phase: str
    epoch: int
    loss: float
    learning_rate: float
    unfrozen_blocks: int
    validation_auc: float
    validation_accuracy: float
    validation_loss: float

    @property
    def scores(self) -> Scores:
        return Scores(self.validation_auc, self.validation_accuracy, self.validation_loss)


@dataclass(frozen=True)
class Phase:
    """What `fit` runs. `train` is given the epoch (from 0) and returns its mean loss and number of unfrozen blocks,
    `images` is how many that epoch takes. In a launch of several processes only the main one writes; `wait` holds the
    others until it has.
    """

    name: str
    epochs: int
    patience: int
    folder: Path
    train: Callable[[int], tuple[float, int]]
    validate: Callable[[], Scores]
    images: int = 0
    is_main: bool = True
    wait: Callable[[], None] = lambda: None


def fit(module: Any, optimizer: Any, phase: Phase, *, baseline: Scores | None = None) -> list[Epoch]:
    """Trains `module` for a phase and leaves it at its best epoch on validation; returns the phase's history.

    `baseline` are the scores with which it starts: where no epoch beats them, it ends as it began. Continues from the
    checkpoint in `phase.folder` if there is one.
    """
    history, start = _resume(module, optimizer, phase)
    best_path = phase.folder / f"{phase.name}-best.pt"
    if not history and baseline is not None:
        _write(best_path, module.state_dict(), phase)
    for number in range(start, phase.epochs):
        if _epochs_without_gain(history, baseline) >= phase.patience:
            break
        began = time.monotonic()
        loss, unfrozen = phase.train(number)
        speed = phase.images / max(time.monotonic() - began, 1e-9)
        found = phase.validate()
        rate = float(optimizer.param_groups[0]["lr"])
        best_before = _best([e.scores for e in history], baseline)
        history.append(Epoch(phase.name, number + 1, loss, rate, unfrozen, found.auc, found.accuracy, found.loss))
        if best_before is None or found.rank > best_before.rank:
            _write(best_path, module.state_dict(), phase)
        _write(
            phase.folder / f"{phase.name}.pt",
            {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": [asdict(e) for e in history],
            },
            phase,
        )
        phase.wait()
        _say(history[-1], phase, speed)
    if history:
        module.load_state_dict(_read(best_path))
    return history


def _resume(module: Any, optimizer: Any, phase: Phase) -> tuple[list[Epoch], int]:
    path = phase.folder / f"{phase.name}.pt"
    if not path.is_file():
        return [], 0
    saved = _read(path)
    module.load_state_dict(saved["module"])
    optimizer.load_state_dict(saved["optimizer"])
    history = [Epoch(**item) for item in saved["history"]]
    if phase.is_main:
        console.say(f"Continuing {phase.name} after epoch {len(history)} of {phase.epochs}.")
    return history, len(history)


def _best(scores: list[Scores], baseline: Scores | None) -> Scores | None:
    known = scores if baseline is None else [baseline, *scores]
    return max(known, key=lambda s: s.rank, default=None)


def _epochs_without_gain(history: list[Epoch], baseline: Scores | None) -> int:
    ranks = [(-1.0, 0.0) if baseline is None else baseline.rank, *(e.scores.rank for e in history)]
    return len(ranks) - 1 - ranks.index(max(ranks))


def _say(epoch: Epoch, phase: Phase, speed: float) -> None:
    if phase.is_main:
        what = "images" if epoch.unfrozen_blocks else "feature vectors"
        console.say(
            f"{phase.name} {epoch.epoch}/{phase.epochs}: loss {epoch.loss:.4f}, validation AUC "
            f"{epoch.validation_auc:.4f}, accuracy {epoch.validation_accuracy:.4f}, "
            f"{epoch.unfrozen_blocks} blocks unfrozen, {speed:.0f} {what}/s"
        )


def _write(path: Path, value: Any, phase: Phase) -> None:
    import torch

    if phase.is_main:
        stream = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError; a plain file says ENOSPC
        torch.save(value, stream)
        write_bytes(path, stream.getbuffer())


def _read(path: Path) -> Any:
    import torch

    return torch.load(path, "cpu", weights_only=True)
