"""Quantisation-aware training by distillation: int8 weights and ranges trained to imitate the float model.

It starts from post-training quantisation (or from an already quantised model) and keeps the epoch, the start included,
whose outputs on validation images are nearest to the float model's. AUC is not what is watched: it hides decisions
that flip. Dropout and drop-path are off and BatchNorms folded, so student and teacher compute the same function.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medge import console
from medge.compressors import ptq
from medge.compressors._options import check_number
from medge.recipe import Augment

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from medge.compressors import Context

__all__ = ["QUANTISES", "TAKES_QUANTISED", "Options", "apply"]

QUANTISES = True
TAKES_QUANTISED = True


@dataclass(frozen=True)
class Options:
    """How long and how fast to train; the last six are those of ptq, from whose result it starts.

    epochs: 0 gives ptq's model. learning_rate: the highest; it falls to 0 along half a cosine. distillation: weight of
    imitating the teacher's logits (Kullback-Leibler divergence at `temperature`), 1 minus it that of the labels.
    features: weight of the features' squared error, relative to their mean square. images_per_epoch: at most so many
    training images, others in each epoch; all of them if None.
    """

    epochs: int = 2
    learning_rate: float = 1e-5
    batch_size: int = 32
    temperature: float = 1.0
    distillation: float = 1.0
    features: float = 1.0
    images_per_epoch: int | None = None
    preset: str = "performance"
    bias_correction: bool = True
    overflow_fix: str = "disable"
    ignored: tuple[str, ...] = ()
    subset_size: int = 300
    signed: bool = False

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, kind=int, low=0)
        check_number("learning_rate", self.learning_rate, low=0, high=1)
        check_number("batch_size", self.batch_size, kind=int, low=1)
        check_number("temperature", self.temperature, low=0.1, high=100)
        check_number("distillation", self.distillation, low=0, high=1)
        check_number("features", self.features, low=0)
        if self.images_per_epoch is not None:
            check_number("images_per_epoch", self.images_per_epoch, kind=int, low=1)
        object.__setattr__(self, "ignored", self.initial.ignored)

    @property
    def initial(self) -> ptq.Options:
        """The options of the quantisation that training starts from."""
        return ptq.Options(**{field.name: getattr(self, field.name) for field in dataclasses.fields(ptq.Options)})


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A quantised copy of `model`, trained, in eval mode; with `epochs` 0, or where training never came nearer to the
    teacher, the model it started from. Continues at its epoch in `context.work`."""
    from medge.model import predict

    rows = context.data.indices("validation")
    aim = predict(context.teacher, context.data, rows, description="float validation")
    run = _Run.resumed(model, options, context) or _Run.started(model, options, context, aim)
    for epoch in range(run.epoch, options.epochs):
        _train(run, options, context, epoch)
        run.judge(_validation_loss(run.student, context, aim))
        run.save(options, context)
    kept = int(np.argmin(run.losses))
    by_epoch = ", ".join(f"{loss:.3g}" for loss in run.losses)
    untrained = " (the model before training)" if kept == 0 else ""
    context.log.append(
        f"qat: divergence from the float model on validation images by epoch: {by_epoch}; "
        f"epoch {kept} is kept{untrained}."
    )
    run.student.load_state_dict(run.best)
    return run.student.eval().requires_grad_(False)


class _Run:
    """The state of a training: what a checkpoint holds, plus the modules it is loaded into.

    losses[k] is the validation loss after k epochs; `best` the state of the smallest.
    """

    def __init__(self, student: nn.Module, options: Options) -> None:
        import torch

        # Eval mode throughout: dropout and drop-path off, and there is no BatchNorm left to gather statistics.
        self.student = student.eval().requires_grad_(False)
        trained = [p for p in student.parameters() if p.is_floating_point()]
        for parameter in trained:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(trained, lr=options.learning_rate, weight_decay=0.0)
        self.losses: list[float] = []
        self.best: dict[str, Any] = {}

    @property
    def epoch(self) -> int:
        """The epoch that comes next."""
        return len(self.losses) - 1

    @classmethod
    def started(cls, model: nn.Module, options: Options, context: Context, aim: NDArray[np.float32]) -> _Run:
        run = cls(_quantised(model, options, context), options)
        run.judge(_validation_loss(run.student, context, aim))
        run.save(options, context)
        return run

    @classmethod
    def resumed(cls, model: nn.Module, options: Options, context: Context) -> _Run | None:
        """The run that an interrupted one left; None where there is none, or it had other options."""
        import torch

        path = _checkpoint(context)
        if not path.is_file():
            return None
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["options"] != repr(options):
            return None
        run = cls(_quantised(model, options, context), options)
        run.student.load_state_dict(saved["student"])
        run.optimizer.load_state_dict(saved["optimizer"])
        run.losses, run.best = saved["losses"], saved["best"]
        console.say(f"qat continues after epoch {run.epoch} of {options.epochs}")
        return run

    def judge(self, loss: float) -> None:
        if not self.losses or loss < min(self.losses):
            self.best = {name: tensor.detach().clone() for name, tensor in self.student.state_dict().items()}
        self.losses.append(loss)

    def save(self, options: Options, context: Context) -> None:
        """The checkpoint, written aside and renamed."""
        import torch

        state = {
            "options": repr(options),
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "best": self.best,
        }
        path = _checkpoint(context)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            torch.save(state, aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def _checkpoint(context: Context) -> Path:
    return context.work / "qat.pt"


def _quantised(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """The model that training starts from. A resumed run makes the same one again and loads its state into it, since
    NNCF's description of its quantisers cannot be kept in a checkpoint without pickled code."""
    return copy.deepcopy(model) if ptq.quantisers(model) else ptq.apply(model, options.initial, context)


def _train(run: _Run, options: Options, context: Context, epoch: int) -> None:
    import torch

    rows = context.data.indices("train")
    limit = min(options.images_per_epoch or len(rows), len(rows))
    rows = np.random.default_rng([context.seed, epoch]).permutation(rows)[:limit]
    batches = math.ceil(limit / options.batch_size)
    description = f"qat epoch {epoch + 1} of {options.epochs}"
    with console.progress(description, limit) as advance:
        for step, (images, labels) in enumerate(_batches(rows, options, context, epoch)):
            share = (epoch * batches + min(step, batches)) / (options.epochs * batches)
            for group in run.optimizer.param_groups:
                group["lr"] = options.learning_rate * 0.5 * (1 + math.cos(math.pi * share))
            with torch.no_grad():
                target = context.teacher(images)
            loss = _loss(run.student(images), target, labels, options)
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            run.optimizer.step()
            advance(len(images))


def _batches(rows: Any, options: Options, context: Context, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    from medge.training import augmented_batches

    yield from augmented_batches(
        context.data, rows, Augment(), batch_size=options.batch_size, seed=context.seed, epoch=epoch
    )


def _loss(student: Any, teacher: Any, labels: torch.Tensor, options: Options) -> torch.Tensor:
    """Hinton, Vinyals and Dean 2015: the divergence at a temperature, times its square to keep the gradients' size."""
    from torch.nn import functional

    (logits, features), (aim, aimed) = student, teacher
    t = options.temperature
    loss = options.distillation * t * t * _divergence(logits / t, aim / t)
    loss = loss + options.features * functional.mse_loss(features, aimed) / (aimed.square().mean() + 1e-12)
    if options.distillation < 1:
        loss = loss + (1 - options.distillation) * functional.cross_entropy(logits, labels)
    total: torch.Tensor = loss
    return total


def _divergence(logits: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence, in nats, of the probabilities of `logits` from those of `aim`."""
    from torch.nn import functional

    inputs, targets = logits.log_softmax(1), aim.log_softmax(1)
    divergence: torch.Tensor = functional.kl_div(inputs, targets, reduction="batchmean", log_target=True)
    return divergence


def _validation_loss(student: nn.Module, context: Context, aim: NDArray[np.float32]) -> float:
    """Mean divergence over the validation images from `aim`, the teacher's logits."""
    import torch

    from medge.model import predict

    logits = predict(student, context.data, context.data.indices("validation"), description="qat validation")
    return float(_divergence(torch.from_numpy(logits).double(), torch.from_numpy(aim).double()))
