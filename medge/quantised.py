"""A model with NNCF's quantisers, layer by layer: which quantisers serve a layer, how to switch them off, what they do.

A layer here is what can be left in float by itself: a convolution or linear layer, a squeeze-and-excitation block, or a
function that its module calls, such as a residual addition (`backbone.blocks.1.1:add`). In float it has neither its
weights' quantiser nor those of inputs that no quantised layer reads beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medge.fake_quantize import imported_nncf
from medge.quiet import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Layer", "Served", "cause", "forget_biases", "graph_of", "is_of_weights", "keep_biases", "layers",
    "range_parameters", "remove", "serving", "squeezes", "switched_off",
]  # fmt: skip

_HOOKS = "__nncf_hooks."
_BIASES = "_medge_biases_before_correction"
# Functions that compute nothing: what is quantised before them is still so after them.
_PASSING = {
    "max_pool2d", "reshape", "view", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "dropout", "pad",
    "contiguous", "clone", "to", "chunk", "split", "__getitem__", "cat", "relu", "relu_", "hardtanh", "hardtanh_",
}  # fmt: skip
_SQUEEZES = re.compile("Squeeze|Excite|^(Effective)?SE[A-Z]|^E[cC][aA][A-Z]|^Ceca")


@dataclass(frozen=True)
class Layer:
    """name: as ptq's `ignored` takes it. operations: NNCF's names of its functions (`backbone/conv_stem/conv2d/0`)."""

    name: str
    operations: frozenset[str]


@dataclass(frozen=True)
class Served:
    """A quantiser's module, by name, and the operations that read what it has quantised."""

    name: str
    readers: frozenset[str]


def layers(model: nn.Module, example: torch.Tensor) -> tuple[list[Layer], list[Served]]:
    """The layers that compute with quantised values, in the order of computation, and the quantisers that serve them.

    `example` is one batch of the model's input.
    """
    served = _served(model, example)
    blocks = squeezes(model)
    found: dict[str, set[str]] = {}
    for operation in _in_order(model, example):
        if any(operation in quantiser.readers for quantiser in served):
            found.setdefault(_layer_of(operation, blocks), set()).add(operation)
    return [Layer(name, frozenset(operations)) for name, operations in found.items()], served


def squeezes(model: nn.Module) -> list[str]:
    """Names of the squeeze-and-excitation blocks, known by their class's name."""
    return [name for name, module in model.named_modules() if name and _SQUEEZES.search(type(module).__name__)]


def serving(served: Sequence[Served], chosen: Collection[Layer]) -> tuple[str, ...]:
    """Names of the quantisers that nothing needs once the chosen layers are in float, sorted."""
    operations = frozenset().union(*(layer.operations for layer in chosen))
    return tuple(sorted(quantiser.name for quantiser in served if quantiser.readers <= operations))


def is_of_weights(name: str) -> bool:
    """Whether a quantiser of this name is one of weights: NNCF hooks it before the second argument of a function."""
    return name.startswith(f"{_HOOKS}pre_hooks.") and name.endswith("__1.0")


@contextmanager
def switched_off(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Inside, these quantisers let values pass as they are, and layers without weights' quantiser have the bias that
    they had before the correction of biases."""
    modules: list[Any] = [model.get_submodule(name) for name in names]
    layers = _float_biases(model, names)
    corrected = [layer.bias.data for layer, _ in layers]
    for module in modules:
        module.enabled[0] = 0
    for layer, bias in layers:
        layer.bias.data = bias
    try:
        yield
    finally:
        for module in modules:
            module.enabled[0] = 1
        for (layer, _), bias in zip(layers, corrected, strict=True):
            layer.bias.data = bias


def remove(model: nn.Module, names: Collection[str]) -> None:
    """Takes quantisers out of the model for good, so that its exported graph does not have them."""
    for layer, bias in _float_biases(model, names):
        layer.bias.data = bias
    storage: Any = model.get_submodule(_HOOKS.rstrip("."))
    for name in names:
        storage.delete_hook(name[len(_HOOKS) :])


def keep_biases(model: nn.Module, before: nn.Module) -> None:
    """Notes on a quantised model the biases that it had `before`; they hold until it is trained."""
    biases = {
        name: module.bias.detach().clone()
        for name, module in before.named_modules()
        if getattr(module, "bias", None) is not None
    }
    object.__setattr__(model, _BIASES, biases)


def forget_biases(model: nn.Module) -> None:
    """What is to be trained gets other biases."""
    model.__dict__.pop(_BIASES, None)


def range_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are ranges of quantisers."""
    return frozenset(name for name, _ in model.named_parameters() if name.startswith(_HOOKS))


def _float_biases(model: nn.Module, names: Collection[str]) -> list[tuple[Any, torch.Tensor]]:
    """The layers whose weights' quantiser is named, each with its bias before correction."""
    known: dict[str, torch.Tensor] = model.__dict__.get(_BIASES, {})
    modules = [_module_of(name) for name in names if is_of_weights(name)]
    return [(model.get_submodule(name), known[name]) for name in modules if name in known]


def _module_of(name: str) -> str:
    """`__nncf_hooks.pre_hooks.backbone/conv_stem/conv2d/0__1.0` quantises the weights of `backbone.conv_stem`."""
    return name.split("_hooks.", 2)[2].rsplit("/", 2)[0].replace("/", ".")


def cause(model: nn.Module, layer: Layer, served: Sequence[Served], images: torch.Tensor) -> str:
    """What can be seen of why quantising a layer costs much: from its quantisers' ranges, and values on `images`.

    Weights: NNCF's overflow_fix doubles the range of a quantiser, so that no weight reaches beyond half of its steps
    (nncf/quantization/fake_quantize.py, _calculate_scaled_parameters). Empty where nothing is conspicuous.
    """
    own = [quantiser.name for quantiser in served if quantiser.readers & layer.operations]
    weights = [name for name in own if is_of_weights(name)]
    reasons = [_cause_of_weights(model, name) for name in weights]
    reasons += _causes_of_inputs(model, [name for name in own if name not in weights], images)
    return "; ".join(reason for reason in reasons if reason)


def _served(model: nn.Module, example: torch.Tensor) -> list[Served]:
    graph = graph_of(model, example)
    found = []
    for node in graph.get_all_nodes():
        constants = [n.node_name for n in graph.get_previous_nodes(node) if n.node_name.startswith(_HOOKS)]
        if not constants or "quantize" not in node.node_type:
            continue
        readers: set[str] = set()
        todo = list(graph.get_next_nodes(node))
        while todo:
            reader = todo.pop()
            if "quantize" in reader.node_type:
                continue
            if reader.node_type in _PASSING:
                todo += graph.get_next_nodes(reader)
            elif reader.node_type != "nncf_model_output":
                readers.add(reader.node_name)
        found.append(Served(constants[0].rsplit(".", 1)[0], frozenset(readers)))
    return found


def _in_order(model: nn.Module, example: torch.Tensor) -> list[str]:
    return [node.node_name for node in graph_of(model, example).topological_sort()]


def graph_of(model: nn.Module, example: torch.Tensor) -> Any:
    """NNCF's graph of what the model computes for `example`."""
    import torch

    imported_nncf()
    with quiet(), torch.no_grad():
        from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph

        return build_nncf_graph(model, example)


def _layer_of(operation: str, blocks: Sequence[str]) -> str:
    """`backbone/blocks/1/1/add/0` is of the layer `backbone.blocks.1.1:add`, `.../conv_pw/conv2d/0` of its module."""
    module, function, number = operation.rsplit("/", 2)
    name = module.replace("/", ".")
    squeeze = next((s for s in blocks if name == s or name.startswith(f"{s}.")), None)
    if squeeze is not None:
        return squeeze
    if function in ("conv1d", "conv2d", "linear"):
        return name
    return f"{name}:{function}" + (f"/{number}" if number != "0" else "")


def _cause_of_weights(model: nn.Module, name: str) -> str:
    """`name`: __nncf_hooks.pre_hooks.MODULE/conv2d/0__1.0."""
    quantiser: Any = model.get_submodule(name)
    weight: Any = model.get_submodule(_module_of(name)).weight
    rows = weight.detach().abs().flatten(1)
    steps = quantiser.level_high
    used = float((rows.amax(1) / quantiser.scale.detach().flatten().expand(len(rows))).max())
    if used < 0.55:
        why = " (overflow_fix halves it, for processors without VNNI)" if used > 0.45 else ""
        return (
            f"its weights reach only {math.ceil(used * steps)} of {steps} steps: their range is {1 / used:.1f} times "
            f"what they need{why}"
        )
    spread = rows.amax(1) / (rows.square().mean(1).sqrt() + 1e-30)
    if rows.shape[1] >= 8 and float(spread.max()) > 8:
        return (
            f"one weight of channel {int(spread.argmax())} is {float(spread.max()):.0f} times the root mean square of "
            f"its channel, so the others share few of {steps} steps"
        )
    return ""


def _causes_of_inputs(model: nn.Module, names: Sequence[str], images: torch.Tensor) -> list[str]:
    """Inputs whose range is wide beside their values, so that these fall on few steps."""
    import torch

    seen: dict[str, tuple[float, float]] = {}

    def look(name: str) -> Any:
        def hook(module: Any, arguments: tuple[Any, ...]) -> None:
            values = arguments[0].detach()
            seen[name] = (float(values.square().mean().sqrt()), float(values.abs().max()))

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        f"its input's largest value is {largest / rms:.0f} times the root mean square, which falls on few steps"
        for rms, largest in seen.values()
        if rms > 0 and largest / rms > 20
    ]
