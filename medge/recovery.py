"""Training towards the float model: what quantisation, pruning and distillation have in common.

The student imitates the float model's logits and pooled features on training images, and the epoch whose logits on
validation images are nearest to the float model's is kept, the start included. AUC is not what is watched: it hides
decisions that flip. Dropout and drop-path are off, so student and teacher compute the same function. A checkpoint
after every epoch lets a killed training go on, and end with the weights of one that was not killed. Zeros that sparsify
put among the weights (`Classifier.sparse`) are put back after every step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medge import console, imitation, pace
from medge.compressors._options import check_flag, check_number
from medge.recovery_run import Run
from medge.sections import Augment

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from medge.compressors import Context

__all__ = ["Job", "Learned", "Training", "recover"]

_AS_THEY_ARE = Augment(rotation_degrees=0, flip_probability=0, zoom=(1, 1))


@dataclass(frozen=True)
class Training:
    """How long and how fast to train.

    learning_rate: the highest; it falls to 0 along half a cosine. distillation: weight of imitating the teacher's
    logits (Kullback-Leibler divergence at `temperature`), 1 minus it that of the labels. features: weight of the
    features' squared error, relative to their mean square. mixup: share of the images that are blended with
    another of their batch, for both models alike, so that a long training on few images does not learn them by
    heart (Zhang et al. 2018; Beyer et al. 2022, A good teacher is patient and consistent); only without labels.
    images_per_epoch: at most so many training images, others in each epoch; all of them if None. augment: turn, zoom
    and mirror them; false trains on the images as they will be given, for a few last epochs (docs/decisions, 16).
    Raises ValueError for what makes no sense.
    """

    epochs: int = 2
    learning_rate: float = 5e-4
    batch_size: int = 32
    temperature: float = 1.0
    distillation: float = 1.0
    features: float = 1.0
    mixup: float = 0.0
    images_per_epoch: int | None = None
    augment: bool = True

    def __post_init__(self) -> None:
        check_number("epochs", self.epochs, kind=int, low=0)
        check_number("learning_rate", self.learning_rate, low=0, high=1)
        check_number("batch_size", self.batch_size, kind=int, low=1)
        check_number("temperature", self.temperature, low=0.1, high=100)
        check_number("distillation", self.distillation, low=0, high=1)
        check_number("features", self.features, low=0)
        check_number("mixup", self.mixup, low=0, high=1)
        if self.mixup and self.distillation < 1:
            raise ValueError("mixup is for distillation 1 alone: a blend of two images has no label")
        if self.images_per_epoch is not None:
            check_number("images_per_epoch", self.images_per_epoch, kind=int, low=1)
        check_flag("augment", self.augment)


@dataclass(frozen=True)
class Learned:
    """What is learned beside the weights, such as masks: parameters of the student with a learning rate of their own.

    loss: added to that of imitation. begin: called before each epoch, with its number. The last epoch is then kept,
    not the nearest to the teacher: only at the end has what is learned its wanted state.
    """

    parameters: tuple[nn.Parameter, ...]
    learning_rate: float
    loss: Callable[[], torch.Tensor]
    begin: Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """One training. name: in messages. key: what the checkpoint is of; one with another key is not continued.

    batch_norms: BatchNorms normalise by the batch and gather new statistics, as channels that went or another network
    need; else they stay as they are. first_epoch: the number of the first epoch where trainings follow each other, so
    that each sees other images. frozen: names of parameters that are not trained.
    """

    name: str
    checkpoint: Path
    key: str
    training: Training
    batch_norms: bool = False
    first_epoch: int = 0
    learned: Learned | None = None
    frozen: frozenset[str] = frozenset()


def recover(student: nn.Module, job: Job, context: Context) -> nn.Module:
    """`student` itself, trained, in eval mode; as it was with no epochs, or where none came nearer to the teacher.

    It is trained on a CUDA device where there is one, and given back on the processor. A student whose training
    diverges stops there. Continues at the epoch in `job.checkpoint`.
    """
    from medge.model import predict

    run = Run(student, job)
    run.resume()
    if run.epoch < job.training.epochs and not run.diverged:
        rows = context.data.indices("validation")
        aim = predict(context.teacher, context.data, rows, description="float validation")
        if not run.losses:
            run.judge(_validation_loss(run, context, aim))
            run.save()
        while run.epoch < job.training.epochs and not run.diverged:
            began = time.monotonic()
            images = _train(run, context, run.epoch)
            run.judge(_validation_loss(run, context, aim))
            run.save()
            trained = job.training.epochs if run.diverged else run.epoch  # what diverged is not trained on
            pace.note(job.checkpoint, pace.Pace(trained, (time.monotonic() - began) / images))
            console.say(f"{job.name} {run.epoch}/{job.training.epochs}: divergence {run.losses[-1]:.3g}")
    if run.losses:
        context.log.append(run.sentence)
        student.load_state_dict(run.best)
    return student.to("cpu").eval().requires_grad_(False)


def _train(run: Run, context: Context, epoch: int) -> int:
    """Trains an epoch. Returns of how many images it was."""
    import torch

    from medge.training import autocast

    job, training = run.job, run.job.training
    rows = context.data.indices("train")
    limit = min(training.images_per_epoch or len(rows), len(rows))
    rows = np.random.default_rng([context.seed, job.first_epoch + epoch]).permutation(rows)[:limit]
    batches = math.ceil(limit / training.batch_size)
    drawn = np.random.default_rng([context.seed, job.first_epoch + epoch, 1]).integers(2**62)
    chance = torch.Generator().manual_seed(int(drawn))
    teacher = run.teacher(context)
    _set_modes(run.student, job)
    if job.learned is not None:
        job.learned.begin(epoch)
    with console.progress(f"{job.name} epoch {epoch + 1} of {training.epochs}", limit) as advance:
        for step, (images, labels) in enumerate(_batches(rows, job, context, epoch)):
            share = (epoch * batches + min(step, batches)) / (training.epochs * batches)
            for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
            if len(images) > 1 or not job.batch_norms:  # one image has no variance
                images, labels = images.to(run.device), labels.to(run.device)
                images = imitation.blended(images, training.mixup, chance)
                with autocast(run.device, run.dtype):
                    with torch.no_grad():
                        target = teacher(images)
                    outputs = run.student(images)
                loss = imitation.loss(run.student, outputs, target, labels, training)
                if job.learned is not None:
                    loss = loss + job.learned.loss()
                run.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                run.optimizer.step()
                _put_back(run.zeros)
            advance(len(images))
    return limit


def _put_back(zeros: list[tuple[nn.Parameter, torch.Tensor]]) -> None:
    import torch

    with torch.no_grad():
        for weight, mask in zeros:
            weight.mul_(mask)


def _set_modes(student: nn.Module, job: Job) -> None:
    """Eval mode, so that dropout and drop-path are off, but for the BatchNorms where they learn."""
    import torch

    student.eval()
    for module in student.modules():
        if job.batch_norms and isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            # The module alone: what timm's BatchNormAct2d holds (dropout, an activation) stays in eval mode.
            module.training = True


def _batches(rows: Any, job: Job, context: Context, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    from medge.training import augmented_batches

    yield from augmented_batches(
        context.data,
        rows,
        Augment() if job.training.augment else _AS_THEY_ARE,
        batch_size=job.training.batch_size,
        seed=context.seed,
        epoch=job.first_epoch + epoch,
    )


def _validation_loss(run: Run, context: Context, aim: NDArray[np.float32]) -> float:
    """Mean divergence over the validation images from `aim`, the teacher's logits."""
    import torch

    from medge.model import predict

    rows = context.data.indices("validation")
    logits = predict(run.student, context.data, rows, description=f"{run.job.name} validation")
    return float(imitation.divergence(torch.from_numpy(logits).double(), torch.from_numpy(aim).double()))
