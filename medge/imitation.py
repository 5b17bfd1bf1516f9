"""How far a student is from the float model: logits and pooled features, on images and on blends of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medge.recovery import Training

__all__ = ["blended", "counterparts", "divergence", "loss"]


def blended(images: torch.Tensor, share: float, chance: torch.Generator) -> torch.Tensor:
    """A share of the images [N, H, W, 3], blended with others of the batch by weights drawn evenly from 0 to 1."""
    import torch

    if share == 0:
        return images
    count = len(images)
    weight = torch.rand(count, generator=chance) * (torch.rand(count, generator=chance) < share)
    others = images[torch.randperm(count, generator=chance).to(images.device)].float()
    return images.float().lerp(others, weight.to(images.device).view(-1, 1, 1, 1))


def loss(student: nn.Module, outputs: Any, target: Any, labels: torch.Tensor, training: Training) -> torch.Tensor:
    """Hinton, Vinyals and Dean 2015: the divergence at a temperature, times its square to keep the gradients' size.

    Features: Romero et al. 2015 (FitNets), without a regressor, so only those that mean the same in both.
    """
    from torch.nn import functional

    (logits, features), (aim, aimed) = outputs, target
    t = training.temperature
    total = training.distillation * t * t * divergence(logits / t, aim / t)
    aimed = counterparts(student, features, aimed)
    if aimed is not None:
        total = total + training.features * functional.mse_loss(features, aimed) / (aimed.square().mean() + 1e-12)
    if training.distillation < 1:
        total = total + (1 - training.distillation) * functional.cross_entropy(logits, labels)
    found: torch.Tensor = total
    return found


def counterparts(student: nn.Module, features: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor | None:
    """The teacher's features that the student's are to be like, [N, D of the student]; None where there are none.

    Those that pruning left are known by their index (`Classifier.kept`).
    """
    kept = getattr(student, "kept", None)
    if kept is None:
        return teachers if teachers.shape == features.shape else None
    return teachers[:, kept] if len(kept) == features.shape[1] else None


def divergence(logits: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """Mean Kullback-Leibler divergence, in nats, of the probabilities of `logits` from those of `aim`."""
    from torch.nn import functional

    inputs, targets = logits.log_softmax(1), aim.log_softmax(1)
    found: torch.Tensor = functional.kl_div(inputs, targets, reduction="batchmean", log_target=True)
    return found
