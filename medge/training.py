"""Training plumbing: which layers learn and how fast, one epoch, checkpoints that survive a kill, early stopping.

Every epoch is seeded by itself from (seed, phase, epoch), so a checkpoint at its end needs no generator's state and a
resumed run ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medge import console, torchvision_ops
from medge.augmentation import augmented_batches, batch_count
from medge.depthwise import FloatGradients
from medge.errors import DataError, ToolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medge.model import Classifier

torchvision_ops.define_missing()

__all__ = [
    "Scores",
    "augmented_batches",
    "autocast",
    "batch_count",
    "blocks",
    "class_weights",
    "optimizer_for",
    "rate_factor",
    "score",
    "seed_epoch",
    "set_learning",
    "train_epoch",
    "training_device",
    "training_dtype",
]


@dataclass(frozen=True)
class Scores:
    """Of one epoch, on validation. auc: for more than two classes one-vs-rest, macro. loss: mean log loss in nats."""

    auc: float
    accuracy: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: AUC first; where it is equal (often 1.0), the smaller loss."""
        return (round(self.auc, 6), -self.loss)


def training_device() -> torch.device:
    """A CUDA device where there is one, with cuDNN set by `make_cuda_repeatable`; else the processor."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    make_cuda_repeatable()
    return torch.device("cuda")


def make_cuda_repeatable() -> None:
    """Has cuDNN compute the same from the same: deterministic kernels, chosen without timing them, and no TF32."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the processor multiplies it (AVX512-BF16, AMX, Ampere and later), float16 on older
    CUDA devices, else float32."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if device.type == "cpu" and capable else torch.float32


@contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Mixed precision of `dtype`; nothing for float32."""
    gradients = FloatGradients() if device.type == "cpu" and dtype is torch.bfloat16 else nullcontext()
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32), gradients:
        yield


def seed_epoch(seed: int, phase: str, epoch: int) -> None:
    """Seeds what an epoch draws apart from its batches (dropout, drop-path)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, *phase.encode(), epoch]).generate_state(1)[0]))


def blocks(backbone: nn.Module) -> list[list[str]]:
    """Names of the backbone's parameters by block, first block first, as timm groups them (else by child module).

    A block of normalisation parameters alone belongs to the block before it: VGG's list has them apart.
    """
    from timm.models import group_parameters

    names = [name for name, _ in backbone.named_parameters()]
    if hasattr(backbone, "group_matcher"):
        matcher: Any = backbone.group_matcher
        grouped = group_parameters(backbone, matcher(coarse=False))
        found = [list(grouped[key]) for key in sorted(grouped)]
    else:
        children = dict.fromkeys(name.partition(".")[0] for name in names)
        found = [[name for name in names if name.partition(".")[0] == child] for child in children]
    norms = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in backbone.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    merged: list[list[str]] = []
    for block in found:
        if merged and all(name in norms for name in block):
            merged[-1] += block
        else:
            merged.append(list(block))
    return merged


def set_learning(model: Classifier, unfrozen: int) -> None:
    """The head and the last `unfrozen` blocks learn, the rest does not.

    BatchNorm statistics go with the weights: those of frozen blocks stay as they were pretrained (eval mode), those of
    learning blocks follow the new images. Updating statistics under frozen weights would shift the features that the
    head has learned from; keeping old ones under moving weights would let the two drift apart.
    """
    names = blocks(model.backbone)
    learning = {name for block in names[len(names) - unfrozen :] for name in block}
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(name in learning)
    model.train()
    _freeze_modes(model.backbone)


def _freeze_modes(module: nn.Module) -> None:
    """Eval mode for every module whose parameters are all frozen; one without any goes with what holds it."""
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    for child in module.children():
        _freeze_modes(child)


def optimizer_for(
    model: Classifier, *, learning_rate: float, block_decay: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW in which block k from the end learns at learning_rate * block_decay^k, the head like the last block.

    Vectors (biases, normalisation) do not decay. Blocks still frozen are in it: they have no gradient and stay put.
    """
    parameters = dict(model.backbone.named_parameters())
    layers = [[parameters[name] for name in block] for block in reversed(blocks(model.backbone))]
    rated = [(0, list(model.head.parameters())), *enumerate(layers)]
    groups = []
    for depth, block in rated:
        rate = learning_rate * block_decay**depth
        for decay, members in (
            (weight_decay, [p for p in block if p.ndim > 1]),
            (0.0, [p for p in block if p.ndim <= 1]),
        ):
            if members:
                groups.append({"params": members, "lr": rate, "peak": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, fused=True)


def rate_factor(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` of `steps`: linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def class_weights(labels: NDArray[np.int64], classes: int) -> Tensor:
    """float32 [classes]: N / (classes * count). Raises DataError for a class without training images."""
    counts = np.bincount(labels, minlength=classes)
    if (counts == 0).any():
        raise DataError(
            f"Class {int(np.argmin(counts))} has no training images.", fix="Add images, or leave the class out."
        )
    return torch.from_numpy((len(labels) / (classes * counts)).astype(np.float32))


def score(logits: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> Scores:
    """Scores of logits [n, C]. A class without images here is left out of the AUC. Raises DataError if only one has."""
    from scipy.special import log_softmax
    from sklearn.metrics import roc_auc_score

    log_probability = log_softmax(logits.astype(np.float64), axis=1)
    probability = np.exp(log_probability)
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            "The validation images are all of one class.", fix="Split otherwise: data.split, or another seed."
        )
    if logits.shape[1] == 2:
        auc = float(roc_auc_score(labels, probability[:, 1]))
    else:
        auc = float(np.mean([roc_auc_score(labels == k, probability[:, k]) for k in present]))
    return Scores(
        auc=auc,
        accuracy=float((logits.argmax(axis=1) == labels).mean()),
        loss=float(-log_probability[np.arange(len(labels)), labels].mean()),
    )


def train_epoch(
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    factors: Callable[[int], float],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    advance: console.Advance | None = None,
    average: Callable[[list[Tensor]], None] | None = None,
) -> float:
    """One pass over `batches`; `factors(k)` scales every group's `peak` learning rate at batch k. The mean loss.

    `average` makes tensors their mean over the processes of a launch: gradients, and the loss, so that one that is
    not a number stops them all. Raises ToolError for a loss that is not a number.
    """
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    total, count = 0.0, 0
    for number, (inputs, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factors(number)
        with autocast(device, dtype):
            logits = forward(inputs.to(device, non_blocking=True))
        value = loss(logits.float(), labels.to(device))
        mean = value.detach().reshape(1).clone()
        if average:
            average([mean])
        seen = float(mean)
        if not math.isfinite(seen):
            raise ToolError(
                f"The training loss is {seen} at batch {number + 1} of an epoch.",
                fix="Lower finetune.learning_rate and head_learning_rate, or set finetune.precision: float32.",
            )
        optimizer.zero_grad()
        scaler.scale(value).backward()  # type: ignore[no-untyped-call]
        if average:
            average([p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None])
        scaler.step(optimizer)
        scaler.update()
        total, count = total + seen * len(labels), count + len(labels)
        if advance:
            advance(len(labels))
    return total / max(count, 1)
