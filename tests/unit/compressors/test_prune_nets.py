"""Pruning of small random networks: whatever their layers and the options, what is left is a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medge import channels
from medge.compressors import prune
from medge.data import dataset
from medge.errors import RecipeError
from medge.model import Classifier, ModelSpec
from tests.teachers import context_of

SIZE = 16
KINDS = ("plain", "residual", "depthwise", "squeeze")


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


class Block(nn.Module):
    """[N, inputs, H, W] -> [N, outputs, H, W]; a residual one changes `inputs` channels first."""

    def __init__(self, kind: str, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = _convolution(inputs, inputs) if kind == "residual" else None
        self.layers = _convolution(inputs, outputs)
        if kind == "depthwise":
            self.layers.extend(_convolution(outputs, outputs, groups=outputs))
        squeeze = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(outputs, 9, 1), nn.ReLU(), nn.Conv2d(9, outputs, 1), nn.Sigmoid()]
        self.gate = nn.Sequential(*squeeze) if kind == "squeeze" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.residual is not None:
            x = x + self.residual(x)
        x = self.layers(x)
        return x if self.gate is None else x * self.gate(x)


def _classifier(stem: int, blocks: Sequence[tuple[str, int]], *, classes: int, head: str, seed: int) -> Classifier:
    """blocks: the kind of each and the channels that it gives; stem: those of the convolution before them."""
    torch.manual_seed(seed)
    widths = [stem, *(width for _, width in blocks)]
    made = [Block(kind, widths[k], widths[k + 1]) for k, (kind, _) in enumerate(blocks)]
    backbone = nn.Sequential(_convolution(3, stem), *made, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    spec = ModelSpec("random", classes, head, 0.0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), SIZE)
    return Classifier(spec, backbone, widths[-1]).eval().requires_grad_(False)


def _widths(model: nn.Module) -> dict[str, int]:
    return {name: m.out_channels for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}


@settings(max_examples=15)
@given(
    stem=st.integers(8, 40),
    blocks=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(8, 40)), max_size=3),
    classes=st.integers(2, 4),
    head=st.sampled_from(["plain", "batchnorm"]),
    ratio=st.floats(0.2, 0.95),
    importance=st.sampled_from(channels.IMPORTANCES),
    scope=st.sampled_from(["uniform", "global"]),
    round_to=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 99),
)
def test_a_pruned_net_answers_for_every_class_and_its_widths_are_multiples_or_as_before(
    stem: int, blocks: list[tuple[str, int]], classes: int, head: str, ratio: float, importance: str, scope: str,
    round_to: int, seed: int, data: dataset.DataSet, tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    model = _classifier(stem, blocks, classes=classes, head=head, seed=seed)
    options: Any = prune.Options(ratio=ratio, importance=importance, scope=scope, round_to=round_to, epochs=0)
    context = context_of(data, model, tmp_path_factory.mktemp("work"))
    try:
        pruned = prune.apply(model, options, context)
    except RecipeError as error:
        assert "no width changes" in error.message
        assert round_to > 1  # of at least 8 channels a fifth or more goes
        return
    before, after = _widths(model), _widths(pruned)
    changed = [name for name in before if after[name] != before[name]]
    assert changed
    assert all(0 < after[name] < before[name] and after[name] % round_to == 0 for name in changed)
    with torch.no_grad():
        logits, features = pruned(torch.from_numpy(data.read(data.indices("test")[:3])))
    assert (logits.shape, features.shape) == ((3, classes), (3, pruned.dimensions))
    assert bool(logits.isfinite().all() and features.isfinite().all())
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in model.parameters())
