"""Distillation: a model trained to imitate the float model, its logits and its pooled features.

It trains what the chain has made so far (a pruned model, say), or another, smaller network named in the recipe.
Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network (arXiv 1503.02531).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medge.compressors._options import check_number, part
from medge.errors import RecipeError
from medge.recovery import Job, Training, recover

if TYPE_CHECKING:
    from torch import nn

    from medge.compressors import Context
    from medge.model import Classifier

__all__ = ["BEGINS_ANEW", "Options", "apply", "check"]

_OTHER_CLASSES = "Name a model that was fine-tuned on the same classes, or a timm model."
BEGINS_ANEW = "student"  # the option with which nothing is left of the model that the chain has made so far


@dataclass(frozen=True)
class Options(Training):
    """Whom to train, and how (what is not said here: medge.recovery.Training).

    student: a timm model, which gets a head for the classes of the float model, or a folder with a model that medge
        has fine-tuned (`runs/NAME/2-finetune`) for the same classes; none trains the model of the chain. Features are
        imitated where both networks have as many.
    weights: what a timm student starts from: `timm`, `none`, `package:NAME` or a file, as for finetune.weights;
        of a folder none can be named.
    """

    student: str | None = None
    weights: str = "timm"
    epochs: int = 3

    def __post_init__(self) -> None:
        for name, value in (("student", self.student), ("weights", self.weights)):
            if not (isinstance(value, str) and value) and not (name == "student" and value is None):
                raise ValueError(f"{name} is a name (found {value!r})")
        if self.student is None and self.weights != "timm":
            raise ValueError("weights are those of a student, and none is named")
        check_number("batch_size", self.batch_size, kind=int, low=2)
        super().__post_init__()


def apply(model: nn.Module, options: Options, context: Context) -> nn.Module:
    """A trained copy of `model`, or the student, in eval mode; with `epochs` 0, or where training never came nearer to
    the float model, what it started from. Continues at its epoch in `context.work`.

    Raises RecipeError for a student that timm does not have, that has another number of classes or weights of another
    network.
    """
    student = copy.deepcopy(model) if options.student is None else _student(options.student, options, context)
    job = Job("distill", context.work / "distill.pt", repr(options), part(options, Training), batch_norms=True)
    return recover(student, job, context)


def check(model: Classifier, options: Options, context: Context) -> Classifier:
    """See medge.protocols.LooksAhead. The model itself, or the student before its weights are fetched."""
    from medge import weights

    if options.student is None:
        return model
    if _is_finetuned(options.student) and options.weights != "timm":
        raise RecipeError(
            f"distill: weights '{options.weights}' are named beside {options.student}, which has its own.",
            fix="Leave out weights, or name a timm model as the student.",
        )
    student = _untrained(options.student, context)
    if not _is_finetuned(options.student):
        weights.check(options.student, options.weights)
    return student


def _student(name: str, options: Options, context: Context) -> Classifier:
    """The network that is trained instead."""
    from medge import weights

    context.log.append(f"distill: the student is {name}, the teacher {context.teacher.spec.timm_name}.")
    student = _untrained(name, context)
    if not _is_finetuned(name):
        weights.fill(student, options.weights)
    return student


def _is_finetuned(name: str) -> bool:
    return (Path(name) / "model.json").is_file()


def _untrained(name: str, context: Context) -> Classifier:
    """The student as it is loaded, or with random weights from torch's seed.

    A fine-tuned student that knows the names of its classes was given the same ones in the same order.
    """
    import torch

    from medge.model import create, load, specify

    spec = context.teacher.spec
    if _is_finetuned(name):
        student = load(Path(name))
        if student.spec.classes != spec.classes:
            raise RecipeError(
                f"distill: the student in {name} has {student.spec.classes} classes, the float model {spec.classes}.",
                fix=_OTHER_CLASSES,
            )
        if student.spec.labels and student.spec.labels != context.data.labels:
            raise RecipeError(
                f"distill: the student in {name} tells {', '.join(student.spec.labels)} apart, the float model "
                f"{', '.join(context.data.labels)}, in that order.",
                fix=_OTHER_CLASSES,
            )
    elif "/" in name:
        raise RecipeError(
            f"distill: there is no fine-tuned model in {name}.",
            fix="Name the folder of a finished fine-tuning, such as runs/NAME/2-finetune, or a timm model.",
        )
    else:
        wanted = specify(name, classes=spec.classes, head=spec.head, dropout=spec.dropout, size=spec.size)
        student = create(wanted)
    if student.dimensions != context.teacher.dimensions:
        student.kept = torch.zeros(0, dtype=torch.int64)
    return student
