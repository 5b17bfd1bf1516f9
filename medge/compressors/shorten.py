"""Fewer layers: whole residual blocks taken out, those first without which the answers change least.

Small layers cost a processor as much to start as to compute, so a network of narrower layers stops getting faster where
a shorter one does not. A block whose output has the shape of its input adds to it, and what comes after can do without
(Veit, Wilber and Belongie 2016, Residual Networks Behave Like Ensembles of Relatively Shallow Networks, arXiv
1605.06431). The block is chosen on calibration images, one after the other, each time anew.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medge import channels, console
from medge.compressors._options import check_names, check_number, layers_named, part
from medge.errors import RecipeError, ToolError
from medge.records import read_json, write_json
from medge.recovery import Job, Training, recover
from medge.rollback_trials import divergence

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["Options", "apply", "check", "removable"]


@dataclass(frozen=True)
class Options(Training):
    """blocks: how many go. ignored: names of blocks that stay, or of what holds them; * and ? as in file names. The
    rest: medge.recovery.Training.
    """

    blocks: int = 2
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_number("blocks", self.blocks, kind=int, low=1)
        object.__setattr__(self, "ignored", check_names("ignored", self.ignored))
        check_number("batch_size", self.batch_size, kind=int, low=2)
        super().__post_init__()


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A copy of `model` without those blocks, trained, in eval mode. Continues at its epoch in `context.work`.

    Raises RecipeError where the model has fewer such blocks, ToolError for another module than medge's classifier.
    """
    from medge.model import Classifier

    if not isinstance(model, Classifier):
        raise ToolError("shorten takes a classifier of medge.", fix="Put shorten before what quantises.")
    shorter = copy.deepcopy(model).eval()
    for name in _chosen(shorter, options, context):
        _take_out(shorter, name)
    channels.refresh_batch_norms(shorter, context.data, context.calibration)
    job = Job("shorten", context.work / "shorten.pt", repr(options), part(options, Training), batch_norms=True)
    return recover(shorter, job, context)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. The model itself: which blocks go is seen only in their turn."""
    _removable(model, options, context)
    return model


def removable(model: nn.Module, image: torch.Tensor) -> list[str]:
    """Names of the blocks whose output has the shape of their input, in the model's order: with at least two
    convolutions, one of which sees more than a pixel, and no such block inside."""
    import torch

    alike: set[str] = set()

    def seen(name: str) -> Any:
        def note(_: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if len(given) == 1 and isinstance(output, torch.Tensor) and given[0].shape == output.shape:
                alike.add(name)

        return note

    blocks = [name for name, module in model.named_modules() if name and _is_block(module)]
    hooks = [model.get_submodule(name).register_forward_hook(seen(name)) for name in blocks]
    try:
        with torch.inference_mode():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in blocks if name in alike and not any(o.startswith(f"{name}.") for o in alike)]


def _is_block(module: nn.Module) -> bool:
    from torch import nn

    sizes = [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]
    return len(sizes) > 1 and any(max(size) > 1 for size in sizes)


def _chosen(model: Classifier, options: Options, context: Context) -> list[str]:
    """The blocks that go; what an interrupted run had chosen is not chosen again."""
    path = context.work / "blocks.json"
    if path.is_file() and (saved := read_json(path))["options"] == repr(options):
        context.log.extend(saved["log"])
        return list(saved["blocks"])
    names = _removable(model, options, context)
    if options.blocks == len(names):  # nothing to choose
        found, log = names, [f"shorten: all {len(names)} blocks that can go do: {', '.join(names)}."]
    else:
        found, log = _greedy(model, names, options.blocks, context)
    write_json(path, {"options": repr(options), "blocks": found, "log": log})
    context.log.extend(log)
    return found


def _removable(model: Classifier, options: Options, context: Context) -> list[str]:
    """The blocks of which some go. Raises RecipeError where there are too few, or where `ignored` names nothing."""
    import torch

    image = torch.from_numpy(context.data.read(context.calibration[:1]))
    kept = [f"{name}." for name in layers_named(model, options.ignored)]
    names = [n for n in removable(model, image) if not any(f"{n}.".startswith(k) for k in kept)]
    if len(names) < options.blocks:
        raise RecipeError(
            f"shorten: {options.blocks} blocks are to go, and {len(names)} can: {', '.join(names) or 'none'}.",
            fix="Give a smaller number of blocks, or fewer names in ignored.",
        )
    return names


def _greedy(model: Classifier, names: list[str], count: int, context: Context) -> tuple[list[str], list[str]]:
    """The blocks in the order in which they go, each with a sentence for the log."""
    aim = _logits(context.teacher, context, "float calibration")
    trial, left, found, log = copy.deepcopy(model), list(names), [], []
    for _ in range(count):
        losses = {}
        for name in left:
            block = trial.get_submodule(name)
            _take_out(trial, name)
            losses[name] = divergence(_logits(trial, context, f"shorten: without {name}"), aim)
            trial.set_submodule(name, block)
        least = min(left, key=losses.__getitem__)
        left.remove(least)
        found.append(least)
        _take_out(trial, least)
        log.append(f"shorten: {least} goes: divergence {losses[least]:.3g} on calibration images, before training.")
        console.say(log[-1])
    return found, log


def _take_out(model: nn.Module, name: str) -> None:
    from torch import nn

    model.set_submodule(name, nn.Identity())


def _logits(model: Classifier, context: Context, description: str) -> NDArray[np.float64]:
    from medge.model import predict

    return predict(model, context.data, context.calibration, description=description).astype("float64")
