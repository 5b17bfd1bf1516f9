"""Training towards the float model: what quantisation, pruning and distillation have in common.

The student imitates the float model's logits and pooled features on augmented training images, and the epoch whose
logits on validation images are nearest to the float model's is kept, the start included. AUC is not what is watched: it
hides decisions that flip. Dropout and drop-path are off, so student and teacher compute the same function. A checkpoint
after every epoch lets a killed training go on, and end with the weights of one that was not killed. Zeros that sparsify
put among the weights (`Classifier.sparse`) are put back after every step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medge import console, imitation
from medge.compressors._options import check_number
from medge.sections import Augment

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from medge.compressors import Context

__all__ = ["Job", "Learned", "Training", "recover"]


@dataclass(frozen=True)
class Training:
    """How long and how fast to train.

    learning_rate: the highest; it falls to 0 along half a cosine. distillation: weight of imitating the teacher's
    logits (Kullback-Leibler divergence at `temperature`), 1 minus it that of the labels. features: weight of the
    features' squared error, relative to their mean square. mixup: share of the images that are blended with
    another of their batch, for both models alike, so that a long training on few images does not learn them by
    heart (Zhang et al. 2018; Beyer et al. 2022, A good teacher is patient and consistent); only without labels.
    images_per_epoch: at most so many training images, others in each epoch; all of them if None. Raises
    ValueError for what makes no sense.
    """

    epochs: int = 2
    learning_rate: float = 5e-4
    batch_size: int = 32
    temperature: float = 1.0
    distillation: float = 1.0
    features: float = 1.0
    mixup: float = 0.0
    images_per_epoch: int | None = None

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
    that each sees other images.
    """

    name: str
    checkpoint: Path
    key: str
    training: Training
    batch_norms: bool = False
    first_epoch: int = 0
    learned: Learned | None = None


def recover(student: nn.Module, job: Job, context: Context) -> nn.Module:
    """`student` itself, trained, in eval mode; as it was with no epochs, or where none came nearer to the teacher.

    A student whose training diverges stops there. Continues at the epoch in `job.checkpoint`.
    """
    from medge.model import predict

    run = _Run(student, job)
    run.resume()
    if run.epoch < job.training.epochs and not run.diverged:
        rows = context.data.indices("validation")
        aim = predict(context.teacher, context.data, rows, description="float validation")
        if not run.losses:
            run.judge(_validation_loss(run, context, aim))
            run.save()
        while run.epoch < job.training.epochs and not run.diverged:
            _train(run, context, run.epoch)
            run.judge(_validation_loss(run, context, aim))
            run.save()
    if run.losses:
        context.log.append(run.sentence)
        student.load_state_dict(run.best)
    return student.eval().requires_grad_(False)


class _Run:
    """The state of a training: what a checkpoint holds, plus the modules it is loaded into.

    losses[k] is the validation loss after k epochs; `best` the state of the smallest.
    """

    def __init__(self, student: nn.Module, job: Job) -> None:
        import torch

        self.student, self.job = student.eval().requires_grad_(False), job
        trained = [p for p in student.parameters() if p.is_floating_point()]
        for parameter in trained:
            parameter.requires_grad_(True)
        self.zeros = _zeros(student)
        groups: list[dict[str, Any]] = [{"params": trained, "lr": job.training.learning_rate}]
        if job.learned is not None:
            own = {id(p) for p in job.learned.parameters}
            groups[0]["params"] = [p for p in trained if id(p) not in own]
            groups.append({"params": list(job.learned.parameters), "lr": job.learned.learning_rate})
        self.rates = [float(group["lr"]) for group in groups]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self.losses: list[float] = []
        self.best: dict[str, Any] = {}
        self._teacher: nn.Module | None = None

    def teacher(self, context: Context) -> nn.Module:
        """The float model without BatchNorms: the same function in half the time, asked for every image."""
        import torch

        from medge.fold import fold_batch_norms

        if self._teacher is None:
            example = context.data.read(context.data.indices("train")[:1])
            self._teacher, _ = fold_batch_norms(context.teacher, torch.from_numpy(example))
        return self._teacher

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 where the processor multiplies it, as in fine-tuning; what simulates int8, or is fine-tuned with
        its BatchNorms as they are, stays in float32: there the small differences are what is trained."""
        import torch

        from medge.training import training_dtype

        mixed = self.job.batch_norms and self.job.learned is None
        return training_dtype("auto" if mixed else "float32", torch.device("cpu"))

    @property
    def epoch(self) -> int:
        """The epoch that comes next."""
        return max(len(self.losses) - 1, 0)

    @property
    def diverged(self) -> bool:
        return bool(self.losses) and math.isinf(self.losses[-1])

    @property
    def kept(self) -> int:
        """The epoch whose state is in `best`."""
        return len(self.losses) - 1 if self.job.learned is not None else int(np.argmin(self.losses))

    @property
    def sentence(self) -> str:
        kept = self.kept
        by_epoch = ", ".join(f"{loss:.3g}" for loss in self.losses)
        untrained = " (the model before training)" if kept == 0 else ""
        stopped = "; the training diverged, a lower learning_rate may not" if self.diverged else ""
        return (
            f"{self.job.name}: divergence from the float model on validation images by epoch: {by_epoch}; "
            f"epoch {kept} is kept{untrained}{stopped}."
        )

    def resume(self) -> None:
        """Takes over what an interrupted run left; nothing where there is none, or it had another key."""
        import torch

        if not self.job.checkpoint.is_file():
            return
        saved = torch.load(self.job.checkpoint, map_location="cpu", weights_only=True)
        if saved["key"] != self.job.key:
            return
        self.student.load_state_dict(saved["student"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.losses, self.best = saved["losses"], saved["best"]
        console.say(f"{self.job.name} continues after epoch {self.epoch} of {self.job.training.epochs}")

    def judge(self, loss: float) -> None:
        loss = loss if math.isfinite(loss) else math.inf
        if not self.losses or loss < min(self.losses) or self.job.learned is not None:
            self.best = {name: tensor.detach().clone() for name, tensor in self.student.state_dict().items()}
        self.losses.append(loss)

    def save(self) -> None:
        """The checkpoint, written aside and renamed."""
        import torch

        state = {
            "key": self.job.key,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "best": self.best,
        }
        path = self.job.checkpoint
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            torch.save(state, aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def _train(run: _Run, context: Context, epoch: int) -> None:
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
                images = imitation.blended(images, training.mixup, chance)
                with torch.no_grad():
                    target = teacher(images)
                with autocast(images.device, run.dtype):
                    outputs = run.student(images)
                loss = imitation.loss(run.student, outputs, target, labels, training)
                if job.learned is not None:
                    loss = loss + job.learned.loss()
                run.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                run.optimizer.step()
                _put_back(run.zeros)
            advance(len(images))


def _zeros(student: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Weights of a sparse model, each with the mask, bool of its shape, of what is not zero; none of a dense model."""
    if not getattr(student, "sparse", False):
        return []
    weights = [p for p in student.parameters() if p.is_floating_point() and p.dim() > 1]
    return [(weight, weight.detach() != 0) for weight in weights if bool((weight == 0).any())]


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
        Augment(),
        batch_size=job.training.batch_size,
        seed=context.seed,
        epoch=job.first_epoch + epoch,
    )


def _validation_loss(run: _Run, context: Context, aim: NDArray[np.float32]) -> float:
    """Mean divergence over the validation images from `aim`, the teacher's logits."""
    import torch

    from medge.model import predict

    rows = context.data.indices("validation")
    logits = predict(run.student, context.data, rows, description=f"{run.job.name} validation")
    return float(imitation.divergence(torch.from_numpy(logits).double(), torch.from_numpy(aim).double()))
