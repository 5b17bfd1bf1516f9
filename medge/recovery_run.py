"""The state of a training towards the float model: where it runs, what a checkpoint holds, which epoch is best."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from medge import console

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medge.compressors import Context
    from medge.recovery import Job

__all__ = ["Run"]


class Run:
    """The state of a training: what a checkpoint holds, plus the modules it is loaded into.

    losses[k] is the validation loss after k epochs; `best` the state of the smallest, on the processor. device: where
    the student is trained.
    """

    def __init__(self, student: nn.Module, job: Job) -> None:
        import torch

        from medge.training import training_device

        self.device = training_device()
        self.student, self.job = student.to(self.device).eval().requires_grad_(False), job
        trained = [p for n, p in student.named_parameters() if p.is_floating_point() and n not in job.frozen]
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
            self._teacher.to(self.device)
        return self._teacher

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 where the device multiplies it, as in fine-tuning; what simulates int8, or is fine-tuned with its
        BatchNorms as they are, stays in float32: there the small differences are what is trained."""
        from medge.training import training_dtype

        mixed = self.job.batch_norms and self.job.learned is None
        return training_dtype("auto" if mixed else "float32", self.device)

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
        if saved["optimizer"] is not None:
            self.optimizer.load_state_dict(saved["optimizer"])
        self.losses, self.best = saved["losses"], saved["best"]
        console.say(f"{self.job.name} continues after epoch {self.epoch} of {self.job.training.epochs}")

    def judge(self, loss: float) -> None:
        loss = loss if math.isfinite(loss) else math.inf
        if not self.losses or loss < min(self.losses) or self.job.learned is not None:
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.student.state_dict().items()}
        self.losses.append(loss)

    def save(self) -> None:
        """The checkpoint, written aside and renamed; after the last epoch without what only training needs."""
        import torch

        ended = self.epoch >= self.job.training.epochs
        state = {
            "key": self.job.key,
            "student": self.student.state_dict(),
            "optimizer": None if ended else self.optimizer.state_dict(),
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


def _zeros(student: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Weights of a sparse model, each with the mask, bool of its shape, of what is not zero; none of a dense model."""
    if not getattr(student, "sparse", False):
        return []
    weights = [p for p in student.parameters() if p.is_floating_point() and p.dim() > 1]
    return [(weight, weight.detach() != 0) for weight in weights if bool((weight == 0).any())]
