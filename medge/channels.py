"""Channels of a classifier: which layers each runs through, how much each matters, and taking them out.

The dependency graph is torch-pruning's (Fang et al. 2023, arXiv 2301.12900), traced with one image. A *group* is all
layers that a channel runs through, named by one of them, its root; a *choice* is a group's root by name with the
indices of its output channels that go.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from medge.errors import ToolError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from medge.data.dataset import DataSet
    from medge.model import Classifier

__all__ = [
    "IMPORTANCES",
    "Choice",
    "Ranked",
    "choose",
    "gather_gradients",
    "multiply_adds",
    "rank",
    "refresh_batch_norms",
    "remove",
    "trace",
    "widths_left",
]

IMPORTANCES = ("magnitude", "taylor", "batchnorm")
LEAST = 0.1  # share of its channels that a layer keeps when the least important ones go wherever they are
BATCH = 32
# What torch-pruning, or a model run with other widths, raises where channels are not what the graph takes them for.
_FAILURES = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)

Choice = tuple[str, list[int]]


@dataclass(frozen=True)
class Ranked:
    """A group: its root's name and width now, and the importance of each of its channels, float32 [width]."""

    root: str
    scores: NDArray[np.float32]


def trace(model: Classifier, image: torch.Tensor) -> Any:
    """The dependency graph of `model`, whose parameters then require gradients. Raises ToolError where it has none."""
    import torch_pruning

    model.eval().requires_grad_(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about parameters outside layers: `remove` sees whether they were followed
        try:
            # forward_fn: without it a bare `except` there would take Ctrl-C for a model that wants other arguments.
            return torch_pruning.DependencyGraph().build_dependency(
                model,
                [image],
                forward_fn=lambda traced, images: traced(*images),
                output_transform=lambda outputs: outputs[0],
            )
        except _FAILURES as error:
            raise _untraceable(model, error) from error


def rank(model: Classifier, graph: Any, importance: str, fixed: Sequence[nn.Module]) -> list[Ranked]:
    """Every group that can lose channels, with their importance: relative to the group's mean.

    Left out are groups with a layer of `fixed` (or below one) in them, the classes, and grouped convolutions that are
    not depthwise ones: their groups would have to stay equal.
    """
    import torch_pruning

    scorers: Mapping[str, Any] = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
        "batchnorm": torch_pruning.importance.BNScaleImportance,
    }
    score = scorers[importance]()
    names = {module: name for name, module in model.named_modules()}
    ignored = [inner for module in [*fixed, model.head[-1]] for inner in module.modules()]
    found = []
    for group in graph.get_all_groups(ignored_layers=ignored):
        if any(_is_grouped(dependency.target.module) for dependency, _ in group):
            continue
        scores = score(group)
        if scores is not None:
            found.append(Ranked(names[group[0].dep.target.module], scores.detach().cpu().float().numpy()))
    return found


def widths_left(
    ranked: Sequence[Ranked], initial: Mapping[str, int], share: float, *, scope: str, round_to: int
) -> list[int]:
    """The width that each group keeps when `share` of the initial channels is gone: a multiple of `round_to` (the
    nearest, at least one), or what it is now where that is no less.

    scope `uniform`: the same share of each; `global`: the least important of all, but LEAST of each stays.
    """
    now = [len(group.scores) for group in ranked]
    kept: Sequence[float]
    floors = [0.0] * len(now)
    if scope == "uniform":
        kept = [initial[group.root] * (1 - share) for group in ranked]
    else:
        total = sum(initial[group.root] for group in ranked)
        leave = min(sum(now), round(total * (1 - share)))
        flat = np.concatenate([group.scores for group in ranked]) if ranked else np.zeros(0, np.float32)
        owner = np.repeat(np.arange(len(now)), now)
        best = np.argsort(-flat, kind="stable")[:leave]
        kept = np.bincount(owner[best], minlength=len(now)).tolist()
        floors = [LEAST * initial[group.root] for group in ranked]
    wanted = [
        round_to * max(1, round(width / round_to), math.ceil(floor / round_to))
        for width, floor in zip(kept, floors, strict=True)
    ]
    return [min(width, current) for width, current in zip(wanted, now, strict=True)]


def choose(ranked: Sequence[Ranked], left: Sequence[int]) -> list[Choice]:
    """The least important channels of each group, all but `left`; groups that keep all are not in it."""
    return [
        (group.root, sorted(np.argsort(group.scores, kind="stable")[: len(group.scores) - width].tolist()))
        for group, width in zip(ranked, left, strict=True)
        if width < len(group.scores)
    ]


def remove(model: Classifier, graph: Any, choices: Sequence[Choice], image: torch.Tensor) -> None:
    """Takes channels out of `model`, in all layers they run through, and keeps `dimensions` and `kept` true.

    Raises ToolError where the smaller model does not compute, for `image`, what the model computed with the same
    channels silenced: then the graph is not the model's.
    """
    import torch

    silenced = copy.deepcopy(model).eval()
    names = {module: name for name, module in model.named_modules()}
    gone: list[int] = []
    try:
        for root, channels in choices:
            for dependency, indices in _group(model, graph, root, channels):
                name = names.get(dependency.target.module)
                if name is not None and graph.is_in_channel_pruning_fn(dependency.handler):
                    _silence(silenced.get_submodule(name), indices)
                    gone += indices if dependency.target.module is model.head[-1] else []
        for root, channels in choices:
            _group(model, graph, root, channels).prune()
        with torch.no_grad():
            expected, found = silenced(image)[0], model.eval()(image)[0]
    except _FAILURES as error:
        raise _untraceable(model, error) from error
    _note_features(model, gone)
    difference = float((found - expected).norm() / expected.norm().clamp_min(1e-12)) if choices else 0.0
    if not _mixes_channels(model) and not difference < 1e-3:
        raise _untraceable(model, f"its output is off by {difference:.1%} without channels that were silent")


def refresh_batch_norms(model: nn.Module, data: DataSet, rows: NDArray[np.int64]) -> None:
    """BatchNorm statistics gathered anew from images, without training; nothing for fewer than two images.

    Means over batches of about BATCH images: Li et al. 2020, EagleEye (arXiv 2007.02491), section 3.3.
    """
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    norms = [m for m in norms if m.track_running_stats]
    if len(rows) < 2:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True  # None: the mean over all batches
    with torch.no_grad():
        for batch in np.array_split(rows, max(1, len(rows) // BATCH)):
            model(torch.from_numpy(data.read(batch)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def gather_gradients(model: nn.Module, data: DataSet, rows: NDArray[np.int64]) -> None:
    """Leaves the gradient of the labels' mean log loss over `rows` in the parameters."""
    import torch
    from torch.nn import functional

    model.eval().zero_grad(set_to_none=True)
    for batch in np.array_split(rows, math.ceil(len(rows) / BATCH)):
        logits = model(torch.from_numpy(data.read(batch)))[0]
        loss = functional.cross_entropy(logits, torch.from_numpy(data.label[batch]), reduction="sum") / len(rows)
        loss.backward()  # type: ignore[no-untyped-call]


def multiply_adds(model: nn.Module, image: torch.Tensor) -> int:
    """Multiplications of the convolutions and linear layers for `image`: outputs times the weights that each reads."""
    import torch

    counts: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    hooks = [
        m.register_forward_hook(count) for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    with torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _group(model: nn.Module, graph: Any, root: str, channels: list[int]) -> Any:
    layer = model.get_submodule(root)
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, channels)


def _silence(layer: Any, indices: list[int]) -> None:
    """Makes a layer deaf to some of its inputs. Depthwise and normalising layers hand silence on to the next."""
    import torch

    if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and getattr(layer, "groups", 1) == 1:
        with torch.no_grad():
            layer.weight[:, indices] = 0


def _is_grouped(module: Any) -> bool:
    """A grouped convolution that is no depthwise one."""
    return getattr(module, "groups", 1) not in (1, getattr(module, "out_channels", 1))


def _mixes_channels(model: nn.Module) -> bool:
    """Whether silence is not the same as absence, as channels are normalised with one another."""
    import torch

    return any(isinstance(m, (torch.nn.LayerNorm, torch.nn.GroupNorm)) for m in model.modules())


def _note_features(model: Classifier, gone: Sequence[int]) -> None:
    import torch

    left = torch.tensor(sorted(set(range(model.dimensions)) - set(gone)), dtype=torch.int64)
    if gone and (model.kept is None or len(model.kept) == model.dimensions):
        model.kept = left if model.kept is None else model.kept[left]
    model.dimensions = len(left)


def _untraceable(model: Classifier, why: object) -> ToolError:
    lines = str(why).strip().splitlines() or [type(why).__name__]
    return ToolError(
        f"prune: the channels of {model.spec.timm_name} cannot be followed through its layers: {lines[0].rstrip('.')}.",
        fix="Leave prune out, keep the layers in question (ignored), or choose a convolutional network.",
    )
