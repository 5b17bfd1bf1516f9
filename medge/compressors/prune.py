"""Structured pruning: whole channels removed, with every layer that a channel runs through (a dependency graph).

What a channel is tied to goes with it: depthwise convolutions, squeeze-and-excitation gates, all layers of a residual
stage. The layers get smaller, so every engine gets smaller; whether it gets faster is for `profile` to say: 5 % fewer
channels can be slower than none, where a width no longer suits the kernels. Widths are therefore rounded to multiples.
After each step the BatchNorms gather new statistics and the model is trained towards the float model.

Fang, Ma, Song, Mi and Wang 2023, DepGraph: Towards Any Structural Pruning (arXiv 2301.12900); package torch-pruning.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from medge import channels, console, plugins
from medge.compressors._options import check_choice, check_names, check_number, layers_named, part
from medge.errors import RecipeError, ToolError
from medge.records import read_json, write_json
from medge.recovery import Job, Training, recover

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["Options", "apply", "check"]


@dataclass(frozen=True)
class Options(Training):
    """How much to remove, by which measure, and how to recover (what is not said here: medge.recovery.Training).

    ratio: share of the channels that go, in all steps together; how many weights that is, is another matter.
    importance: of a channel, summed over all layers it runs through and relative to its layer's mean. `magnitude`
        (squares of the weights), `taylor` (weight times gradient of the loss on the calibration images; Molchanov
        et al. 2019), `batchnorm` (scale of the BatchNorm; Liu et al. 2017).
    scope: `uniform` removes the ratio from every layer, `global` the least important channels wherever they are, but
        leaves each layer a tenth.
    round_to: widths become multiples of it (the nearest, at least one). A layer that is to keep its width, or is
        narrower, stays as it is.
    latency: a backend (true: openvino) on which float32 engines of narrower and narrower models are measured here,
        before any training; ratio is then the most that goes, and what goes is what pays (medge.measured_widths).
    steps: the ratio is reached in so many steps, each with `epochs` of recovery.
    ignored: names of torch modules that keep their width with all below them, such as `backbone.conv_stem` or
        `backbone.blocks.0`, and so do the layers tied to them; * and ? as in file names.
    """

    ratio: float = 0.5
    importance: str = "magnitude"
    scope: str = "uniform"
    round_to: int = 8
    latency: str | bool | None = None
    steps: int = 1
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, (int, float)) or not 0 < self.ratio < 1:
            raise ValueError(
                f"ratio is more than 0 (nothing is removed) and less than 1 (nothing is left), such as 0.5 "
                f"(found {self.ratio!r})"
            )
        check_choice("importance", self.importance, channels.IMPORTANCES)
        check_choice("scope", self.scope, ("uniform", "global"))
        check_number("round_to", self.round_to, kind=int, low=1)
        if isinstance(self.latency, bool):
            object.__setattr__(self, "latency", "openvino" if self.latency else None)
        if self.latency is not None:
            check_choice("latency", self.latency, plugins.names("backends"))
        check_number("steps", self.steps, kind=int, low=1, high=20)
        object.__setattr__(self, "ignored", check_names("ignored", self.ignored))
        check_number("batch_size", self.batch_size, kind=int, low=2)
        super().__post_init__()


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A copy of `model` with fewer channels, in eval mode. Continues at its step and epoch in `context.work`.

    Raises RecipeError where `ignored` names nothing or nothing can be removed, ToolError for a model whose channels
    cannot be followed.
    """
    import torch

    from medge.model import Classifier

    if not isinstance(model, Classifier):
        raise ToolError("prune takes a classifier of medge.", fix="Put prune first in its chain.")
    if options.latency is not None:
        share = _measured_share(model, options, context)
        if share == 0:
            context.log.append(f"prune: no share up to {options.ratio:.0%} is worth it; the model keeps its widths.")
            return copy.deepcopy(model).eval().requires_grad_(False)
        options = replace(options, ratio=share, latency=None)
    pruned = copy.deepcopy(model)
    fixed = [pruned.get_submodule(name) for name in layers_named(pruned, options.ignored)]
    image = torch.from_numpy(context.data.read(context.calibration[:1]))
    graph = channels.trace(pruned, image)
    widths = _widths(pruned)
    for step in range(options.steps):
        choices = _choices(pruned, graph, fixed, widths, options, context, step)
        channels.remove(pruned, graph, choices, image)
        channels.refresh_batch_norms(pruned, context.data, context.calibration)
        job = Job(
            _name(options, step), context.work / f"step-{step}.pt", repr(options), part(options, Training),
            batch_norms=True, first_epoch=step * options.epochs,
        )  # fmt: skip
        recover(pruned, job, context).requires_grad_(True)
    context.log.append(_sentence(model, pruned, image))
    pruned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return pruned.eval().requires_grad_(False)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. The model narrowed at once, by the weights' magnitude where that needs no image:
    as wide as the result where the scope is uniform and no latency is measured. Raises MissingError for a backend that
    cannot be measured here."""
    if options.latency is not None:
        from medge.quick_latency import check_backend

        check_backend(str(options.latency))
    importance = "magnitude" if options.importance == "taylor" else options.importance
    narrowed = _narrowed(model, replace(options, importance=importance), context, options.ratio)
    if options.scope == "uniform" and options.latency is None and _widths(narrowed) == _widths(model):
        raise _nothing_goes(options)
    return narrowed


def _nothing_goes(options: Options) -> RecipeError:
    return RecipeError(
        f"prune: no width changes at ratio {options.ratio:g}, rounded to multiples of {options.round_to}.",
        fix="Give a larger ratio, a smaller round_to, or fewer names in ignored.",
    )


def _choices(
    model: Classifier, graph: Any, fixed: list[nn.Module], widths: dict[str, int], options: Options,
    context: Context, step: int,
) -> list[channels.Choice]:  # fmt: skip
    """One step's channels: those that an interrupted run had chosen, else chosen now and written down."""
    path = context.work / f"step-{step}.json"
    if path.is_file():
        saved = read_json(path)
        if saved["options"] == repr(options):
            return [(root, indices) for root, indices in saved["choices"]]
    if options.importance == "taylor":
        channels.gather_gradients(model, context.data, context.calibration)
    ranked = channels.rank(model, graph, options.importance, fixed)
    share = options.ratio * (step + 1) / options.steps
    left = channels.widths_left(ranked, widths, share, scope=options.scope, round_to=options.round_to)
    choices = channels.choose(ranked, left)
    model.zero_grad(set_to_none=True)
    if not choices and step == options.steps - 1 and _widths(model) == widths:
        raise _nothing_goes(options)
    write_json(path, {"options": repr(options), "choices": choices})
    console.say(f"{_name(options, step)}: {len(choices)} of {len(ranked)} groups of layers get narrower")
    return choices


def _measured_share(model: Classifier, options: Options, context: Context) -> float:
    """The share of the channels that pays, 0 for none; what an interrupted run found is not measured again."""
    from medge.measured_widths import Walk, shares_up_to, walk
    from medge.quick_latency import QuickBench
    from medge.statistics.latency import Ratio

    path = context.work / "latency.json"
    if path.is_file() and (saved := read_json(path))["options"] == repr(options):
        context.log.extend(saved["log"])
        return float(saved["share"])
    bench = QuickBench(
        context.data, context.calibration, str(options.latency), context.work / "latency", seed=context.seed
    )
    narrowed: dict[float, Classifier] = {0.0: model}

    def ratio_of(share: float, kept: float) -> Ratio | None:
        narrowed[share] = _narrowed(model, options, context, share)
        if _widths(narrowed[share]) == _widths(narrowed[kept]):
            return None
        built = [bench.build(f"{s:.4f}", narrowed[s], precision="float32") for s in (share, kept)]
        return bench.ratios(built[:1], built[1])[0]

    found: Walk = walk(shares_up_to(options.ratio), ratio_of)
    for sentence in found.log:
        console.say(sentence.replace("[", r"\["))
    write_json(path, {"options": repr(options), "share": found.share, "log": list(found.log)})
    context.log.extend(found.log)
    return found.share


def _narrowed(model: Classifier, options: Options, context: Context, share: float) -> Classifier:
    """A copy with the widths that `share` leads to in one step, untrained."""
    import torch

    pruned = copy.deepcopy(model)
    fixed = [pruned.get_submodule(name) for name in layers_named(pruned, options.ignored)]
    image = torch.from_numpy(context.data.read(context.calibration[:1]))
    graph = channels.trace(pruned, image)
    if options.importance == "taylor":
        channels.gather_gradients(pruned, context.data, context.calibration)
    ranked = channels.rank(pruned, graph, options.importance, fixed)
    left = channels.widths_left(ranked, _widths(pruned), share, scope=options.scope, round_to=options.round_to)
    channels.remove(pruned, graph, channels.choose(ranked, left), image)
    return pruned.eval().requires_grad_(False)


def _widths(model: nn.Module) -> dict[str, int]:
    return {name: _width(layer) for name, layer in model.named_modules()}


def _width(layer: nn.Module) -> int:
    """Output channels of a convolution or linear layer, 0 of others."""
    return int(getattr(layer, "out_channels", getattr(layer, "out_features", 0)))


def _name(options: Options, step: int) -> str:
    return f"prune step {step + 1} of {options.steps}" if options.steps > 1 else "prune"


def _sentence(before: Classifier, after: Classifier, image: torch.Tensor) -> str:
    """What became of the model, for the log."""
    weights = [sum(p.numel() for p in m.parameters()) / 1e6 for m in (before, after)]
    products = [channels.multiply_adds(m, image) / 1e6 for m in (before, after)]
    return (
        f"prune: {weights[0]:.2f} million parameters became {weights[1]:.2f}, {products[0]:.1f} million multiply-adds "
        f"{products[1]:.1f}, {before.dimensions} pooled features {after.dimensions}."
    )
