"""A twin that is easier to quantise: SiLU replaced by ReLU6 or hard-swish, then trained towards the float model.

SiLU's values below zero take a sign bit for a range of 0.28, and integer kernels compute it through float. ReLU6 has
neither fault, and hard-swish is the nearer to SiLU (Howard et al. 2019, Searching for MobileNetV3, arXiv 1905.02244).
Put it before ptq or qat. Without training the twin is another function: keep some epochs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medge.compressors._options import check_choice, check_flag, part
from medge.recovery import Job, Training, recover

if TYPE_CHECKING:
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["Options", "apply", "check"]


@dataclass(frozen=True)
class Options(Training):
    """activation: what SiLU becomes, `relu6` or `hardswish`. gates: the sigmoid of squeezes becomes hardsigmoid
    too. The rest: medge.recovery.Training.
    """

    activation: str = "hardswish"
    gates: bool = False
    epochs: int = 3
    learning_rate: float = 2e-4

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, ("relu6", "hardswish"))
        check_flag("gates", self.gates)
        super().__post_init__()


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A copy of `model` with other activations, trained, in eval mode. Continues at its epoch in `context.work`.

    A model without such activations is copied and not trained; the log says so.
    """
    twin = copy.deepcopy(model)
    replaced = _replace(twin, options)
    if not replaced:
        context.log.append("friendly: the model has no activation to replace, and is left as it is.")
        return twin.eval().requires_grad_(False)
    context.log.append(f"friendly: {replaced} activations replaced (SiLU by {options.activation}).")
    job = Job("friendly", context.work / "friendly.pt", repr(options), part(options, Training))
    return recover(twin, job, context)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. It refuses nothing; what follows meets its activations."""
    twin = copy.deepcopy(model)
    _replace(twin, options)
    return twin


def _replace(model: nn.Module, options: Options) -> int:
    """Replaces them in place and says how many there were."""
    from torch import nn

    from medge.quantised import squeezes

    blocks = tuple(f"{name}." for name in squeezes(model))
    count = 0
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.SiLU):
            new: nn.Module = nn.ReLU6() if options.activation == "relu6" else nn.Hardswish()
        elif options.gates and type(module).__name__ == "Sigmoid" and f"{name}.".startswith(blocks):
            new = nn.Hardsigmoid()
        else:
            continue
        model.set_submodule(name, new)
        count += 1
    return count
