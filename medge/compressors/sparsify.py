"""Sparsity: weights set to zero where they stand. No layer gets smaller; what zeros buy is for the runtime to say.

*Unstructured*: NNCF's `prune` in its three modes, with its schedulers and, where the masks are learned, its loss. The
file shrinks when it is zipped; time is saved only by a runtime that skips zeros, and for convolutions none of
medge's does. *2:4*: of four weights that follow each other along the input channels two are zero, which NVIDIA's
sparse tensor cores (Ampere and later) skip where TensorRT is built with SPARSE_WEIGHTS. Mishra et al. 2021,
Accelerating Sparse Deep Neural Networks (arXiv 2104.08378), section 3; along input channels as their ASP does it.

Depthwise convolutions and the head stay dense: they hold few weights. Zeros stay zero in every later training
(medge.recovery), and in int8, where symmetric weight ranges put zero on zero.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medge import channels
from medge.compressors._options import check_choice, check_names, check_number, layers_named, part
from medge.errors import RecipeError, ToolError
from medge.fake_quantize import imported_nncf
from medge.quiet import quiet
from medge.recovery import Job, Learned, Training, recover

if TYPE_CHECKING:
    import torch
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["NOT_BEFORE", "Options", "apply", "check", "two_of_four"]

NOT_BEFORE = {"prune": "it takes channels out of the groups that hold the zeros, and ranks what is already zero"}
MODES = ("local", "global", "regularisation")
PATTERNS = ("unstructured", "2:4")


@dataclass(frozen=True)
class Options(Training):
    """How many weights become zero, which, and how to recover (what is not said here: medge.recovery.Training).

    ratio: share of the weights of the layers concerned that become zero; with the pattern "2:4" it is 0.5.
    pattern: `unstructured`, or "2:4" in quotation marks (YAML reads 2:4 as a time): the two smallest of four weights.
    mode: of unstructured zeros. `local`: the smallest weights of each layer; `global`: the smallest anywhere, relative
        to their layer's norm; `regularisation`: masks learned with the weights, under a loss that pulls their share to
        the ratio (Louizos, Welling and Kingma 2018): it comes near the ratio where it has epochs enough.
    steps: the ratio is reached in so many steps, each taking the same share of what is left, each with `epochs` of
        recovery. `regularisation` has one step, in which the wanted share rises with each epoch.
    ignored: torch modules left dense with all below them; * and ? as in file names.
    mask_learning_rate: of learned masks; Adam moves each by about so much per batch, and they start 4.6 from zero.
    """

    ratio: float = 0.5
    pattern: str = "unstructured"
    mode: str = "local"
    steps: int = 1
    ignored: tuple[str, ...] = ()
    mask_learning_rate: float = 0.05

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, low=0, high=1)
        if self.ratio in (0, 1):
            raise ValueError(f"ratio is between 0 (nothing is zero) and 1 (nothing is left) (found {self.ratio!r})")
        if self.pattern not in PATTERNS:
            raise ValueError(f'pattern is unstructured or "2:4", in quotation marks (found {self.pattern!r})')
        check_choice("mode", self.mode, MODES)
        check_number("steps", self.steps, kind=int, low=1, high=20)
        check_number("mask_learning_rate", self.mask_learning_rate, low=1e-6, high=10)
        object.__setattr__(self, "ignored", check_names("ignored", self.ignored))
        check_number("batch_size", self.batch_size, kind=int, low=2)
        super().__post_init__()
        if self.pattern == "2:4" and (self.ratio, self.mode, self.steps) != (0.5, "local", 1):
            raise ValueError(
                'pattern "2:4" makes half of the weights zero, in one step: leave out ratio, mode and steps'
            )
        if self.mode == "regularisation" and (self.steps > 1 or self.epochs == 0):
            raise ValueError("regularisation learns its masks: it has one step, of at least one epoch")


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A copy of `model` with zeros among its weights, in eval mode, recovered. Continues at its step and epoch in
    `context.work`.

    Raises RecipeError where `ignored` names nothing or no layer is left to make sparse, ToolError for a model that is
    no classifier of medge.
    """
    import torch

    from medge.model import Classifier

    if not isinstance(model, Classifier):
        raise ToolError("sparsify takes a classifier of medge.", fix="Put it before ptq and qat in its chain.")
    sparse = copy.deepcopy(model)
    layers = _layers(sparse, options)
    sparse.sparse = True
    image = torch.from_numpy(context.data.read(context.calibration[:1]))
    for step in range(options.steps):
        if options.mode == "regularisation":
            masks = _learned(sparse, layers, image, options, context)
        elif options.pattern == "2:4":
            masks = {f"{name}.weight": two_of_four(sparse.get_parameter(f"{name}.weight")) for name in layers}
        else:
            masks = _smallest(sparse, layers, image, options, step)
        _apply_masks(sparse, masks)
        # Means over all batches; nncf.batch_norm_adaptation would keep a share of the dense model's statistics.
        channels.refresh_batch_norms(sparse, context.data, context.calibration)
        if options.mode != "regularisation":
            job = Job(
                _name(options, step), context.work / f"step-{step}.pt", repr(options), part(options, Training),
                batch_norms=True, first_epoch=step * options.epochs,
            )  # fmt: skip
            recover(sparse, job, context)
    context.log.append(_sentence(sparse, layers, options))
    return sparse.eval().requires_grad_(False)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. The model itself, since no layer changes."""
    _layers(model, options)
    return model


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The mask, bool like `weight` [outputs, inputs, ...], of the two largest of each four neighbouring inputs.

    Mishra et al. 2021, section 3.2: magnitude decides. Inputs must be a multiple of 4.
    """
    import torch

    by_inputs = weight.detach().movedim(1, -1)
    groups = by_inputs.reshape(*by_inputs.shape[:-1], -1, 4).abs()
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(2, dim=-1).indices, True)
    return mask.flatten(-2).movedim(-1, 1)


def _layers(model: Classifier, options: Options) -> list[str]:
    """Names of the convolutions and linear layers that get zeros."""
    import torch

    ignored = layers_named(model, options.ignored)
    found = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))
        and name.startswith("backbone.")
        and getattr(layer, "groups", 1) == 1
        and not any(name == other or name.startswith(f"{other}.") for other in ignored)
        and (options.pattern != "2:4" or layer.weight.shape[1] % 4 == 0)
    ]
    if not found:
        raise RecipeError("sparsify: no layer is left to make sparse.", fix="Give fewer names in ignored.")
    return found


def _smallest(
    model: Classifier, layers: list[str], image: torch.Tensor, options: Options, step: int
) -> dict[str, torch.Tensor]:
    """The masks that NNCF gives the smallest weights, at the share of `step` as its scheduler has it."""
    import torch

    nncf = imported_nncf()
    with quiet():
        from nncf.torch.function_hook.pruning.magnitude.algo import get_pruned_modules
        from nncf.torch.function_hook.pruning.magnitude.schedulers import (
            ExponentialMagnitudePruningScheduler,
            MultiStepMagnitudePruningScheduler,
        )

        mode = {
            "local": nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_LOCAL,
            "global": nncf.PruneMode.UNSTRUCTURED_MAGNITUDE_GLOBAL,
        }[options.mode]
        first = 1 - (1 - options.ratio) ** (1 / options.steps)  # each step then takes the same share of what is left
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        masked = nncf.prune(  # which takes the weights for contiguous
            plain, mode, ratio=first, ignored_scope=_others(model, layers), examples_inputs=image
        )
        if options.steps == 1:
            scheduler: Any = MultiStepMagnitudePruningScheduler(masked, mode=mode, steps={0: options.ratio})
        else:
            scheduler = ExponentialMagnitudePruningScheduler(
                masked, mode=mode, initial_ratio=first, target_ratio=options.ratio, target_epoch=options.steps - 1
            )
        scheduler.step(step)
        return {name: hook.binary_mask.clone() for name, hook in get_pruned_modules(masked).items()}


def _learned(
    model: Classifier, layers: list[str], image: torch.Tensor, options: Options, context: Context
) -> dict[str, torch.Tensor]:
    """Masks learned with the weights, which `model` is given. The epoch that is kept is the last: it alone has the
    wanted share of zeros."""
    import torch

    nncf = imported_nncf()
    with quiet():
        from nncf.torch.function_hook.pruning.rb.algo import get_pruned_modules
        from nncf.torch.function_hook.pruning.rb.losses import RBLoss
        from nncf.torch.function_hook.pruning.rb.schedulers import (
            ExponentialRBPruningScheduler,
            MultiStepRBPruningScheduler,
        )

        mode = nncf.PruneMode.UNSTRUCTURED_REGULARIZATION_BASED
        masked = nncf.prune(copy.deepcopy(model), mode, ignored_scope=_others(model, layers), examples_inputs=image)
    masked.sparse = False  # what is zero is learned: nothing is fixed yet
    loss = RBLoss(masked, target_ratio=options.ratio)
    scheduler: Any = MultiStepRBPruningScheduler(loss, steps={0: options.ratio})
    if options.epochs > 1:
        first = 1 - (1 - options.ratio) ** (1 / options.epochs)
        scheduler = ExponentialRBPruningScheduler(loss, first, options.ratio, options.epochs - 1)
    hooks = get_pruned_modules(masked)

    def begin(epoch: int) -> None:
        torch.manual_seed(context.seed + epoch)  # the masks' noise, so that a resumed run draws the same
        scheduler.step(epoch)
        for hook in hooks.values():
            hook.train()

    learned = Learned(tuple(hook.mask for hook in hooks.values()), options.mask_learning_rate, loss, begin)
    job = Job(
        "sparsify", context.work / "masks.pt", repr(options), part(options, Training), batch_norms=True, learned=learned
    )
    recover(masked, job, context)
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in masked.state_dict().items() if name in own})
    return {name: hook.mask.detach() > 0 for name, hook in hooks.items()}


def _others(model: nn.Module, layers: list[str]) -> Any:
    """NNCF's scope of everything but `layers`; its operations are named like `backbone/blocks/0/conv/conv2d/0`, its
    constants with dots."""
    nncf = imported_nncf()
    names = "|".join(re.escape(name.replace(".", "/")) for name in layers)
    return nncf.IgnoredScope(patterns=[f"(?!(?:{names})/(?:conv2d|linear)/).*/.*"], validate=False)


def _apply_masks(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_(mask)


def _name(options: Options, step: int) -> str:
    return f"sparsify step {step + 1} of {options.steps}" if options.steps > 1 else "sparsify"


def _sentence(model: nn.Module, layers: list[str], options: Options) -> str:
    """What is zero now, and which runtime makes use of it."""
    weights = [model.get_parameter(f"{name}.weight") for name in layers]
    zero, total = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    everything = sum(p.numel() for p in model.parameters())
    use = (
        "TensorRT skips them on sparse tensor cores (Ampere and later; SPARSE_WEIGHTS); to OpenVINO and ONNX Runtime "
        "they are only zeros"
        if options.pattern == "2:4"
        else "a zipped file is smaller; OpenVINO unpacks sparse weights of matrix products only (int8, on CPUs with "
        "AMX), TensorRT skips 2:4 only: to convolutions they are only zeros in every runtime"
    )
    asked = f" ({options.ratio:.0%} were asked for; more epochs come nearer)"
    missed = asked if abs(zero / total - options.ratio) > 0.02 else ""
    return (
        f"sparsify: {zero / total:.1%} of the weights of {len(layers)} layers are zero, {zero / everything:.1%} of all"
        f"{missed}. What they buy: {use}."
    )
