"""BatchNorm folded into the convolution or linear layer beside it: the same function with fewer operations.

In eval mode a BatchNorm is y = s x + t per channel, s = gamma / sqrt(variance + eps), t = beta - s mean
(Ioffe and Szegedy 2015, section 3.1), so it can be multiplied into the weights before or after it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from medge.errors import ToolError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["fold_batch_norms"]


def fold_batch_norms(model: nn.Module, example: torch.Tensor) -> tuple[nn.Module, int]:
    """A copy of `model`, in eval mode, without the BatchNorms that a neighbour can absorb, and how many those were.

    A BatchNorm goes into the convolution or linear layer whose output it alone reads, else into the linear layer that
    alone reads its output (dropout between them, which does nothing in eval mode, is looked through). What else such a
    module did (timm's BatchNormAct2d: its activation) stays in its place. `example` is one batch of the model's input;
    who reads what is observed while it passes through.
    """
    import torch

    folded = copy.deepcopy(model).eval()
    with torch.no_grad():
        readers = _readers(folded, example)
    count = 0
    for first, second in readers:
        if _is_batch_norm(second) and _is_weighted(first):
            _fold_into_previous(first, second)
            _replace(folded, second, _rest(second))
        elif _is_batch_norm(first) and isinstance(second, torch.nn.Linear) and not _has_rest(first):
            _fold_into_next(first, second)
            _replace(folded, first, torch.nn.Identity())
        else:
            continue
        count += 1
    return folded, count


def _is_batch_norm(module: nn.Module) -> bool:
    """A BatchNorm with running statistics; without them it depends on the batch and cannot be folded."""
    import torch

    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None


def _is_weighted(module: nn.Module) -> bool:
    import torch

    return isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))


def _readers(model: nn.Module, example: torch.Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs (writer, reader) of leaf layers where the reader is the only one to read the writer's only output.

    Layers are followed by hooks, and every torch function by a TorchFunctionMode, so that a tensor that is also added,
    pooled or returned is not taken for one that only a BatchNorm reads.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    written: dict[int, nn.Module] = {}  # id of a tensor -> the layer that made it
    read: dict[int, list[nn.Module | None]] = {}  # id of a tensor -> layers (None: a bare function) that read it
    calls: dict[nn.Module, int] = {}
    kept: list[Any] = []  # tensors stay alive, so that an id means one tensor
    inside: list[nn.Module] = []

    def enter(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        read.setdefault(id(arguments[0]), []).append(module)
        inside.append(module)

    def leave(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        inside.pop()
        kept.extend((arguments[0], output))
        if isinstance(module, torch.nn.Dropout) and id(arguments[0]) in written:
            # In eval mode dropout returns its input: what reads the one reads the other.
            read[id(arguments[0])].remove(module)
        else:
            written[id(output)] = module

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if not inside and getattr(func, "__name__", "") != "__get__":  # x.shape and the like read no values
                for item in torch.utils._pytree.tree_leaves((args, kwargs)):
                    if isinstance(item, torch.Tensor):
                        read.setdefault(id(item), []).append(None)
                        kept.append(item)
            kept.append(result)
            return result

    layers = [m for m in model.modules() if _is_batch_norm(m) or _is_weighted(m) or isinstance(m, torch.nn.Dropout)]
    hooks = [h for m in layers for h in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    try:
        with Watch():
            outputs = model(example)
    finally:
        for hook in hooks:
            hook.remove()
    returned = {id(item) for item in torch.utils._pytree.tree_leaves(outputs)}
    return [
        (written[tensor], who[0])
        for tensor, who in read.items()
        if tensor in written and tensor not in returned and len(who) == 1 and who[0] is not None
        and calls[written[tensor]] == 1 and calls[who[0]] == 1
    ]  # fmt: skip


def _scale_and_shift(norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """s and t in float64, so that the product is rounded once."""
    import torch

    ones = torch.ones_like(norm.running_mean)
    gamma = (norm.weight if norm.weight is not None else ones).detach().double()
    beta = (norm.bias if norm.bias is not None else ones * 0).detach().double()
    scale = gamma / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, beta - scale * norm.running_mean.double()


def _fold_into_previous(layer: Any, norm: Any) -> None:
    import torch

    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.detach()
    bias = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach().double()
    rows = scale.reshape(-1, *([1] * (weight.dim() - 1)))
    layer.weight = torch.nn.Parameter((weight.double() * rows).to(weight.dtype))
    layer.bias = torch.nn.Parameter((bias * scale + shift).to(weight.dtype))


def _fold_into_next(norm: Any, layer: Any) -> None:
    import torch

    scale, shift = _scale_and_shift(norm)
    weight = layer.weight.detach()
    bias = 0.0 if layer.bias is None else layer.bias.detach().double()
    layer.bias = torch.nn.Parameter((weight.double() @ shift + bias).to(weight.dtype))
    layer.weight = torch.nn.Parameter((weight.double() * scale).to(weight.dtype))


def _has_rest(norm: nn.Module) -> bool:
    import torch

    return not isinstance(_rest(norm), torch.nn.Identity)


def _rest(norm: nn.Module) -> nn.Module:
    """What a BatchNorm module did beside normalising: timm's BatchNormAct2d drops out and activates."""
    import torch

    after = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), torch.nn.Module)]
    after = [module for module in after if not isinstance(module, torch.nn.Identity)]
    if not after:
        return torch.nn.Identity()
    return after[0] if len(after) == 1 else torch.nn.Sequential(*after)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
                return
    raise ToolError("A BatchNorm of the model is not one of its modules.", fix="This is a model medge cannot fold.")
