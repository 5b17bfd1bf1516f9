"""The two phases of fine-tuning: the head on cached features, then the blocks on augmented images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medge import console, frozen, training
from medge.epochs import Epoch, Phase, fit
from medge.training import Scores

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray

    from medge.data.dataset import DataSet
    from medge.model import Classifier
    from medge.sections import FinetuneSection

__all__ = ["Job", "train_blocks", "train_head"]


@dataclass(frozen=True)
class Job:
    """What both phases need. `scratch` holds checkpoints and features and survives a killed process."""

    model: Classifier
    section: FinetuneSection
    data: DataSet
    seed: int
    scratch: Path
    accelerator: Accelerator
    dtype: torch.dtype

    def phase(
        self, name: str, epochs: int, train: Callable[[int], tuple[float, int]], validate: Callable[[], Scores]
    ) -> Phase:
        return Phase(
            name, epochs, self.section.patience, self.scratch, train, validate,
            images=len(self.data.indices("train")),
            is_main=self.accelerator.is_main_process, wait=self.accelerator.wait_for_everyone,
        )  # fmt: skip

    @property
    def loss(self) -> torch.nn.CrossEntropyLoss:
        labels = self.data.label[self.data.indices("train")]
        weight = training.class_weights(labels, len(self.data.labels)) if self.section.class_weights else None
        loss = torch.nn.CrossEntropyLoss(weight, label_smoothing=self.section.label_smoothing)
        return loss.to(self.accelerator.device)

    def factors(self, epoch: int, epochs: int, images: int) -> Callable[[int], float]:
        """The learning rate's factor at each batch of an epoch, over the phase's whole schedule."""
        steps = training.batch_count(images, self.section.batch_size)
        return lambda batch: training.rate_factor(epoch * steps + batch, epochs * steps, self.section.warmup_share)


def train_head(job: Job) -> list[Epoch]:
    """The head alone; backbone in eval mode. Every process does the same work on the same features."""
    section, data = job.section, job.data
    train_rows, validation_rows = data.indices("train"), data.indices("validation")
    loss = job.loss
    head = job.model.head
    optimizer = torch.optim.AdamW(
        [{"params": list(head.parameters()), "peak": section.head_learning_rate}],
        lr=section.head_learning_rate,
        weight_decay=section.weight_decay,
    )

    @cache
    def features(split: str) -> frozen.Features:
        augment = section.augment if split == "train" else None
        return frozen.compute(
            job.model, data, data.indices(split), augment,
            folder=job.scratch, name=split, accelerator=job.accelerator, dtype=job.dtype,
        )  # fmt: skip

    def train(epoch: int) -> tuple[float, int]:
        batches = frozen.head_batches(
            features("train"), data.label[train_rows], batch_size=section.batch_size, seed=job.seed, epoch=epoch
        )
        training.seed_epoch(job.seed, "head", epoch)
        head.train()
        found = training.train_epoch(
            head, batches, optimizer, loss=loss, device=job.accelerator.device,
            factors=job.factors(epoch, section.frozen_epochs, len(train_rows)),
        )  # fmt: skip
        return found, 0

    def validate() -> Scores:
        head.eval()
        stored = features("validation")
        logits = []
        with torch.inference_mode():
            for start in range(0, len(validation_rows), 1024):
                rows = np.arange(start, min(start + 1024, len(validation_rows)))
                logits.append(head(torch.from_numpy(stored.read(rows)).to(job.accelerator.device)).cpu().numpy())
        return training.score(np.concatenate(logits), data.label[validation_rows])

    return fit(head, optimizer, job.phase("head", section.frozen_epochs, train, validate))


def train_blocks(job: Job, *, baseline: Scores | None) -> list[Epoch]:
    """The head and more blocks in each epoch, on augmented images; `baseline` are the scores it starts from."""
    section, data, model, accelerator = job.section, job.data, job.model, job.accelerator
    train_rows = data.indices("train")
    loss = job.loss
    blocks = len(training.blocks(model.backbone))
    optimizer = training.optimizer_for(
        model,
        learning_rate=section.learning_rate,
        block_decay=section.block_decay,
        weight_decay=section.weight_decay,
    )
    several = accelerator.num_processes > 1

    def train(epoch: int) -> tuple[float, int]:
        unfrozen = min(blocks, (epoch + 1) * section.unfreeze_blocks_per_epoch)
        training.set_learning(model, unfrozen)
        training.seed_epoch(job.seed, f"blocks {accelerator.process_index}", epoch)
        batches = training.augmented_batches(
            data, train_rows, section.augment, batch_size=section.batch_size, seed=job.seed, epoch=epoch,
            rank=accelerator.process_index, world=accelerator.num_processes,
        )  # fmt: skip
        with console.progress(f"epoch {epoch + 1}/{section.epochs}", len(train_rows)) as advance:
            found = training.train_epoch(
                lambda images: model(images)[0], batches, optimizer, loss=loss, device=accelerator.device,
                dtype=job.dtype, factors=job.factors(epoch, section.epochs, len(train_rows)), advance=advance,
                average=partial(_average, accelerator) if several else None,
            )  # fmt: skip
        if several:
            _average(accelerator, [b for b in model.buffers() if b.is_floating_point()])
        return found, unfrozen

    def validate() -> Scores:
        rows = data.indices("validation")
        return training.score(_logits(job, rows), data.label[rows])

    history = fit(model, optimizer, job.phase("blocks", section.epochs, train, validate), baseline=baseline)
    model.requires_grad_(True)
    return history


def _logits(job: Job, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits [n, C] in float32 however the model is trained, for which epoch is kept is decided by what the kept model
    answers: in bfloat16 an AUC on 496 chest X-rays was 0.001 higher. Each process does its share of the batches.
    """
    world, rank = job.accelerator.num_processes, job.accelerator.process_index
    batches = [rows[start : start + 64] for start in range(0, len(rows), 64)]
    job.model.eval()
    found = []
    with torch.inference_mode():
        for number in range(rank, len(batches), world):
            images = torch.from_numpy(job.data.read(batches[number])).to(job.accelerator.device)
            found.append((number, job.model(images)[0].float().cpu().numpy()))
    if world > 1:
        from accelerate.utils import gather_object

        found = sorted(gather_object(found), key=lambda item: item[0])
    return np.concatenate([logits for _, logits in found])


def _average(accelerator: Accelerator, tensors: list[Tensor]) -> None:
    """Means over the processes, in place.

    Not DistributedDataParallel: that fixes which parameters learn when it wraps a model; here they grow in number.
    """
    flat = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), reduction="mean")
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))
