"""Float models that no one trained, with BatchNorms that saw a few images; and what compressors are given."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from medge import predictions
from medge.compressors import Context
from medge.data import dataset
from medge.model import Classifier, create, predict, save, specify

__all__ = ["SIZE", "context_of", "teacher_of", "write_finetuned"]

SIZE = 64


def teacher_of(name: str, data: dataset.DataSet) -> Classifier:
    torch.manual_seed(0)
    model = create(specify(name, classes=2, head="batchnorm", dropout=0.2, size=SIZE))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.from_numpy(data.read(data.indices("train")[:8])))
    return model.eval().requires_grad_(False)


def context_of(data: dataset.DataSet, teacher: Classifier, work: Path) -> Context:
    work.mkdir(exist_ok=True)
    return Context(data, data.indices("train")[:3], teacher, 0, work)


def write_finetuned(folder: Path, model: Classifier) -> Any:
    """The folder of a finished stage finetune beside the data in `folder`/1-data; the inputs of the stage compress."""
    data = dataset.load(folder / "1-data")
    (folder / "2-finetune/predictions").mkdir(parents=True)
    save(model, folder / "2-finetune")
    rows = data.indices("validation")
    table = data.predictions(rows, predict(model, data, rows, description=""))
    predictions.write(folder / "2-finetune/predictions/validation.csv", table)
    names = ((1, "data"), (2, "finetune"))
    return {name: SimpleNamespace(folder=folder / f"{k}-{name}", sha256=name) for k, name in names}
