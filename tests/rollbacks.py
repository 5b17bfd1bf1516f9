"""A small net, quantised, some of its quantisers spoilt: what a rollback is asked to mend."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from medge.compressors import ptq
from medge.data import dataset
from medge.model import predict
from medge.rollback_trials import Asked

__all__ = ["Net", "asked_of", "net_of", "quantised_of", "widen"]


class Net(nn.Module):
    """Three convolutions, the third added to what it reads; a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.backbone((images.permute(0, 3, 1, 2).float() - 100.0) * 0.02)
        return self.head(features), features


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return (x + self.third(x)).relu().mean((2, 3))


def net_of(data: dataset.DataSet) -> Net:
    """Its log odds on the images have mean 0 and deviation 2."""
    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)
    net.backbone.third.weight[:4].abs_()  # else what it adds hardly counts
    images = torch.from_numpy(data.read(data.indices("train")))
    odds = net(images)[0].diff(dim=1)
    net.head.weight *= 2 / odds.std()
    net.head.bias[1] -= net(images)[0].diff(dim=1).mean()
    return net


def quantised_of(net: nn.Module, data: dataset.DataSet, **options: Any) -> nn.Module:
    images = (torch.from_numpy(data.read([row])) for row in data.indices("train")[:8])
    return ptq.quantise(net, images, ptq.Options(**options))


def widen(model: nn.Module, name: str, times: float) -> None:
    quantiser: Any = model.get_submodule(f"__nncf_hooks.pre_hooks.backbone/{name}/conv2d/0__1.0")
    quantiser.scale.data.mul_(times)


def asked_of(net: nn.Module, model: nn.Module, data: dataset.DataSet, *, near: float = 0.05) -> Asked:
    """The gate here is passed where the logits' mean error is below `near`."""
    rows = data.indices("validation")
    aim = predict(net, data, rows, description="").astype(np.float64)
    cut = float(np.median(aim[:, 1] - aim[:, 0]))

    def gate(logits: Any) -> dict[str, Any]:
        flips = float(((logits[:, 1] - logits[:, 0] > cut) != (aim[:, 1] - aim[:, 0] > cut)).mean())
        passes = np.abs(logits - aim).mean() < near
        return {"verdict": "pass" if passes else "fail", "flips": {"rate": flips, "limit": 1.0}}

    logits = predict(model, data, rows, description="").astype(np.float64)
    return Asked(model, data, rows, aim, gate, logits, gate(logits), "pass", 0, "key")
