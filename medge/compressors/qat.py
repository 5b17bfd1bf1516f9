"""Quantisation-aware training by distillation: int8 weights and ranges trained to imitate the float model.

It starts from post-training quantisation (or from an already quantised model). Dropout and drop-path are off and
BatchNorms folded, so student and teacher compute the same function; medge.recovery says which epoch is kept.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medge.compressors import ptq
from medge.compressors._options import check_choice, part
from medge.quantised import forget_biases, range_parameters
from medge.recovery import Job, Training, recover

if TYPE_CHECKING:
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["QUANTISES", "TAKES_QUANTISED", "Options", "apply", "check"]

QUANTISES = True
TAKES_QUANTISED = True


@dataclass(frozen=True)
class Options(Training):
    """How long and how fast to train (medge.recovery.Training); those from `preset` on are ptq's, from whose result
    it starts. epochs: 0 gives ptq's model. ranges: `learned` trains the quantisers' ranges with the weights (Jain et
    al. 2020, arXiv 1903.08066), `frozen` leaves them as ptq found them.
    """

    learning_rate: float = 1e-5
    ranges: str = "learned"
    preset: str = "performance"
    bias_correction: bool = True
    overflow_fix: str = "disable"
    ignored: tuple[str, ...] = ()
    subset_size: int = 300
    signed: bool = False
    range_estimator: str = "default"
    smooth_quant_alpha: float | None = None
    se_in_float: bool = False
    search: int = 0

    def __post_init__(self) -> None:
        check_choice("ranges", self.ranges, ("learned", "frozen"))
        super().__post_init__()
        object.__setattr__(self, "ignored", self.initial.ignored)

    @property
    def initial(self) -> ptq.Options:
        """The options of the quantisation that training starts from."""
        return part(self, ptq.Options)


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A quantised copy of `model`, trained, in eval mode; with `epochs` 0, or where training never came nearer to the
    teacher, the model it started from. Continues at its epoch in `context.work`.

    A resumed run makes the same model again and loads its state into it, since NNCF's description of its quantisers
    cannot be kept in a checkpoint without pickled code.
    """
    student = copy.deepcopy(model) if ptq.quantisers(model) else ptq.apply(model, options.initial, context)
    forget_biases(student)
    ranges = range_parameters(student) if options.ranges == "frozen" else frozenset()
    job = Job("qat", context.work / "qat.pt", repr(options), part(options, Training), frozen=ranges)
    return recover(student, job, context)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead: what ptq would refuse, from whose result the training starts."""
    return ptq.check(model, options.initial, context)
